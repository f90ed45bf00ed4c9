"""Many real trainer processes for the price of one start: a process that has imported everything forks each of them.

`Zygote` is the test's side. A child runs `trainer.run.train` (or the preflight) on a run folder as `python -m trainer`
does, its output in the run's log; nothing was computed before the fork. A `traced` child holds still until strace is
attached, so that faults can be injected into its system calls, counted from there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.trainer.faults import ROOT, environment
from trainer.stopping import Stopping


class Zygote:
    """Starts trainers one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.zygote"],
            cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        assert self._line() == "ready"

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate("\n", timeout=30)
        self._process.kill()

    def start(self, run: Path, what: str = "train") -> int:
        """A trainer for a run folder; its pid."""
        assert self._process.stdin
        self._process.stdin.write(f"{what} {run}\n")
        return int(self._line())

    def wait(self) -> int:
        """How the trainer ended: its exit status, negative for a signal."""
        return int(self._line())

    def run(self, run: Path, what: str = "train") -> int:
        self.start(run, what)
        return self.wait()

    def run_killed_at(self, run: Path, mark: str, number: int = signal.SIGKILL) -> int:
        """A trainer that gets a signal as soon as its events hold `mark`."""
        pid, events = self.start(run), run / "events.jsonl"
        deadline = time.monotonic() + 240
        while not (events.exists() and mark in events.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline, events.read_text(encoding="utf-8")
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return self.wait()

    def run_traced(self, run: Path, *options: str) -> int:
        """A trainer under strace."""
        pid = self.start(run, "traced")
        strace = subprocess.Popen(
            ["strace", "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )  # fmt: skip
        assert strace.stderr
        said = strace.stderr.readline()
        assert "attached" in said, said
        os.kill(pid, signal.SIGCONT)
        status = self.wait()
        strace.communicate(timeout=60)
        return status

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


def _child(what: str, folder: Path) -> int:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if what == "traced":
        os.kill(os.getpid(), signal.SIGSTOP)
    stopping = Stopping().install()
    if what == "preflight":
        from trainer.preflight import preflight

        return preflight(folder, stopping)
    from trainer.run import train

    return train(folder, stopping)


def _orders() -> Iterator[tuple[str, Path]]:
    for line in sys.stdin:
        what, _, folder = line.strip().partition(" ")
        if not what:
            return
        yield what, Path(folder)


def _main() -> None:
    import logging

    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    import trainer.preflight  # noqa: F401 imported before the fork, by all

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    print("ready", flush=True)
    for what, folder in _orders():
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                status = _child(what, folder)
            finally:
                os._exit(status)
        if what == "traced":
            os.waitpid(pid, os.WUNTRACED)  # it stands still; woken any earlier it would do so for good
        print(pid, flush=True)
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    _main()
