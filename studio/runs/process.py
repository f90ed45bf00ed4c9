"""Which process is which: by pid, start time and boot, since a pid alone may by now belong to a stranger.

A process that has ended and was not yet waited for (a zombie) counts as ended. Linux is read from /proc; elsewhere `ps`
is asked, whose start times carry the date, so that no boot id is needed.
Knows nothing of runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of one boot; `started` is whatever the system calls its start time."""

    pid: int
    started: str
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now, `None` when there is none."""
        started = _start_time(pid)
        return None if started is None else cls(pid=pid, started=started, boot_id=boot_id())

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    def signal_group(self, number: int) -> bool:
        """Signal the group it leads; whether it was there. Never reaches a stranger with the same pid."""
        if not self.is_alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
            return True
        return False

    def kill_orphans(self) -> int:
        """Kill what a dead leader left in its session; how many there were.

        No system gives out a pid that still names a session, so members of that session are its own.
        """
        if self.boot_id != boot_id() or Process.of(self.pid) is not None:
            return 0
        orphans = [pid for pid in _pids() if _session(pid) == self.pid]
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(orphans)


def boot_id() -> str:
    """What tells this boot of the machine from all others; empty where start times say it."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def find(ending: tuple[str, ...]) -> Process | None:
    """The process of this user whose command line ends so, `None` when there is none."""
    for pid, command in _commands():
        if command[-len(ending) :] == ending and pid != os.getpid() and (found := Process.of(pid)):
            return found
    return None


def _start_time(pid: int) -> str | None:
    if not PROC.is_dir():
        return _ps_start_time(pid)
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else fields[19]


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[3])


def _stat(pid: int) -> list[str] | None:
    """Fields 3 and on of /proc/PID/stat: state, parent, group, session, ..., start time in ticks since boot (22)."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _pids() -> Iterator[int]:
    return (int(path.name) for path in PROC.glob("[0-9]*")) if PROC.is_dir() else iter(())


def _commands() -> Iterator[tuple[int, tuple[str, ...]]]:
    if not PROC.is_dir():
        yield from _ps_commands()
        return
    for pid in _pids():
        try:
            folder = PROC / str(pid)
            if folder.stat().st_uid == os.getuid():
                yield pid, tuple((folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
        except OSError:
            continue


def _ps(*arguments: str) -> str:
    done = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False, timeout=10)
    return done.stdout


def _ps_start_time(pid: int) -> str | None:
    line = _ps("-o", "stat=,lstart=", "-p", str(pid)).strip()
    return None if not line or line.startswith("Z") else line.split(maxsplit=1)[-1]


def _ps_commands() -> Iterator[tuple[int, tuple[str, ...]]]:
    for line in _ps("-U", str(os.getuid()), "-o", "pid=,command=").splitlines():
        pid, _, command = line.strip().partition(" ")
        yield int(pid), tuple(command.split())
