"""Parts of a long work shared by processes: each takes the longest part that may begin, until none is left.

Parts leave what they make where all can find it (benchmarks.paper.shelf), so nothing but progress comes back. Processes
are spawned, each with one torch thread: two of them draw more than one with two threads. A part that fails, or a
process that dies, ends all of it; so does Ctrl-C. Knows no picture.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

Advance = Callable[[int, str], None]  # how many rows further, and what is being done


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of work; it may begin when every part of the kinds that it `needs` has ended.

    `rows` is about how many rows of the network it takes, or would take in its time: parts are ordered by it, and it is
    how far the part moves the progress bar.
    """

    kind: str
    name: str
    rows: int
    fill: Callable[[], Any]
    needs: tuple[str, ...] = ()


class PartFailed(RuntimeError):
    """A part that another process could not end; the message has that process's traceback."""


class Tally:
    """Reports a part's progress: within it no more than its rows, at its end exactly so many."""

    def __init__(self, report: Advance) -> None:
        self._report, self._left = report, 0

    def advance(self, rows: int, words: str) -> None:
        """`rows` more of the part at hand; outside of parts only the words are told."""
        step = min(rows, self._left)
        self._left -= step
        self._report(step, words)

    def run(self, part: Part) -> None:
        """All of a part."""
        self._left = part.rows
        self.advance(0, part.name)
        part.fill()
        self.advance(self._left, part.name)


MakeParts = Callable[[Advance], Sequence[Part]]


def in_turn(parts: Sequence[Part], tally: Tally) -> None:
    """All parts in this process."""
    waiting = list(parts)
    while waiting:
        part = _next(waiting, [])
        if part is None:
            raise ValueError(f"No part may begin: {', '.join(each.name for each in waiting)} need one another.")
        waiting.remove(part)
        tally.run(part)


def share(parts: Sequence[Part], make_parts: MakeParts, num_workers: int, report: Advance) -> None:
    """All parts, in as many processes; each makes the parts for itself, and finds its next one among them by name.

    Raises PartFailed with the traceback of whatever went wrong in one of them.
    """
    workers = [_Worker(make_parts) for _ in range(min(num_workers, len(parts)))]
    waiting = list(parts)
    try:
        while waiting or any(each.part for each in workers):
            _hand_out(waiting, workers)
            for pipe in wait([each.pipe for each in workers]):
                next(each for each in workers if each.pipe is pipe).hear(report)
        for each in workers:
            each.dismiss()
    finally:
        for each in workers:
            each.stop()


def _next(waiting: Sequence[Part], at_work: Sequence[Part]) -> Part | None:
    """The longest part that needs nothing that is still to be done."""
    undone = {part.kind for part in (*waiting, *at_work)}
    return max((part for part in waiting if not undone & set(part.needs)), key=lambda part: part.rows, default=None)


def _hand_out(waiting: list[Part], workers: Sequence[_Worker]) -> None:
    for worker in workers:
        part = _next(waiting, [each.part for each in workers if each.part]) if worker.is_idle else None
        if part:
            waiting.remove(part)
            worker.give(part)
    if waiting and all(each.is_idle for each in workers):
        raise ValueError(f"No part may begin: {', '.join(each.name for each in waiting)} need one another.")


class _Worker:
    """A process and this end of its pipe: it says how far it is, None when it wants a part, or, at last, an error."""

    def __init__(self, make_parts: MakeParts) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.part: Part | None = None
        self.is_idle = False
        self._process = context.Process(target=_work, args=(make_parts, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def give(self, part: Part) -> None:
        """Its next part."""
        self.part, self.is_idle = part, False
        self.pipe.send(part.name)

    def hear(self, report: Advance) -> None:
        """One thing that it says."""
        try:
            said = self.pipe.recv()
        except EOFError:
            self._process.join()
            raise PartFailed(
                f"A process ended by itself, with exit code {self._process.exitcode}, {self._at}. "
                "Was there too little memory? --workers 1 needs the least."
            ) from None
        if isinstance(said, str):
            raise PartFailed(f"A process failed, {self._at}:\n\n{said}")
        if said is None:
            self.part, self.is_idle = None, True
        else:
            report(*said)

    def dismiss(self) -> None:
        """When there is nothing left to do."""
        self.pipe.send(None)
        self._process.join()

    def stop(self) -> None:
        """At once."""
        self._process.terminate()
        self._process.join()

    @property
    def _at(self) -> str:
        return f"at the part '{self.part.name}'" if self.part else "while it made itself ready"


def _work(make_parts: MakeParts, pipe: Connection) -> None:
    """A worker's life. Ctrl-C is for the first process, which then stops this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        tally = Tally(lambda rows, words: pipe.send((rows, words)))
        parts = {part.name: part for part in make_parts(tally.advance)}
        pipe.send(None)
        while name := pipe.recv():
            tally.run(parts[name])
            pipe.send(None)
    except Exception:  # noqa: BLE001 (whatever it is, the first process raises it)
        with suppress(OSError):  # which may itself be gone
            pipe.send(traceback.format_exc())
