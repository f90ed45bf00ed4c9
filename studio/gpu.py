"""One lease for the device, shared by everything that computes on it: first come, first served.

A `Ticket` is a place in the line. Who enters it as a context manager leaves the line, or gives the device back, on
every way out: success, error, cancellation, a closed iterator. A ticket belongs to no thread, because gradio resumes a
generator on whichever thread is free.
Estimates come from the median of recent durations of the same kind of work; before the first one they are unknown.
This module knows no torch: it orders work, it does not look at the device.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from studio.errors import QueueFull
from studio.types import Waiting

POLL_SECONDS = 0.25
NUM_REMEMBERED = 16

Function = TypeVar("Function", bound=Callable[..., Any])


class DeviceLease:
    """The line before the device; `max_waiting` counts those who wait, not the one who holds it."""

    def __init__(self, *, max_waiting: int = 32, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_waiting = max_waiting
        self._clock = clock
        self._changed = threading.Condition()
        self._line: deque[Ticket] = deque()
        self._durations: dict[str, deque[float]] = {}

    def enter(self, kind: str = "generation") -> Ticket:
        """Take a place at the end of the line. Raises `QueueFull` when too many wait already."""
        ticket = Ticket(self, kind)
        with self._changed:
            num_waiting = max(0, len(self._line) - 1)
            if self._line and num_waiting >= self._max_waiting:
                raise QueueFull(
                    f"{num_waiting} are waiting for the device and the line holds {self._max_waiting}: "
                    "try again in a minute."
                )
            self._line.append(ticket)
        return ticket

    @property
    def num_waiting(self) -> int:
        """How many wait behind the one who holds the device."""
        with self._changed:
            return max(0, len(self._line) - 1)

    def _position(self, ticket: Ticket) -> int:
        return self._line.index(ticket)

    def _take_if_first(self, ticket: Ticket, patience_seconds: float) -> Waiting | None:
        """Wait a little for the front of the line; `None` when the device is ours."""
        with self._changed:
            if self._line[0] is not ticket:
                self._changed.wait(patience_seconds)
            ahead = self._position(ticket)
            if ahead:
                return Waiting(num_ahead=ahead, seconds=self._estimate_seconds(ahead))
            ticket.started_seconds = self._clock()
            return None

    def _estimate_seconds(self, num_ahead: int) -> float | None:
        """The rest of the running work plus the median of each one between."""
        total = 0.0
        for ticket in list(self._line)[:num_ahead]:
            known = self._durations.get(ticket.kind)
            if not known:
                return None
            spent = 0.0 if ticket.started_seconds is None else self._clock() - ticket.started_seconds
            total += max(0.0, statistics.median(known) - spent)
        return total

    def _leave(self, ticket: Ticket, *, completed: bool) -> None:
        """Out of the line, from wherever one stood. Only completed work teaches the estimate."""
        with self._changed:
            if ticket not in self._line:
                return
            self._line.remove(ticket)
            if completed and ticket.started_seconds is not None:
                known = self._durations.setdefault(ticket.kind, deque(maxlen=NUM_REMEMBERED))
                known.append(self._clock() - ticket.started_seconds)
            self._changed.notify_all()


@dataclass(eq=False)
class Ticket:
    """A place in the line: `with ticket: for waiting in ticket.wait(): ...` and then the device is held."""

    lease: DeviceLease
    kind: str
    started_seconds: float | None = field(default=None, init=False)

    def wait(self, *, timeout_seconds: float = 600.0) -> Iterator[Waiting]:
        """Yield the position now and then; end when the device is held. Raises `QueueFull` after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        patience_seconds = 0.0
        while waiting := self.lease._take_if_first(self, patience_seconds):
            if time.monotonic() >= deadline:
                raise QueueFull(
                    f"The device was not free within {timeout_seconds:g} s ({waiting.num_ahead} ahead): "
                    "try again later, or cancel what is running."
                )
            yield waiting
            patience_seconds = min(POLL_SECONDS, timeout_seconds)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lease._leave(self, completed=kind is None)


def on_space_gpu(function: Function) -> Function:
    """`spaces.GPU` where that package lends the device (a ZeroGPU Space), the function itself elsewhere."""
    try:
        import spaces  # pyright: ignore[reportMissingImports]
    except ImportError:
        return function
    return spaces.GPU(function)
