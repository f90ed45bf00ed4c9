"""What a run's events amount to: the curves, the samples, the phase and the end, for whoever shows or tells a run.

`RunFollower` reads a run's events by byte offset, so asking again costs nothing when nothing happened, and all viewers
of a run may share one. When a run is taken up again from an earlier checkpoint, what was logged after it is dropped,
since the same steps come again. Knows nothing of processes, pixels and pages.
"""

from __future__ import annotations

import itertools
import statistics
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from studio.runs.events import (
    CheckpointSaved,
    Failed,
    Finished,
    Paused,
    Phase,
    SampleSaved,
    Started,
    StepLogged,
    Stopped,
    TrainingEvent,
    Validated,
    Warned,
    read_events,
)

PACE_STEPS = 200
NUM_WARNINGS_KEPT = 50
End = Stopped | Finished | Failed


@dataclass
class RunDigest:
    """All that is known of a run so far; `add` takes further events in order."""

    started: Started | None = None
    phase: Phase | None = None
    last: StepLogged | None = None
    end: End | None = None
    paused: bool = False
    num_events: int = 0
    steps: array[float] = field(default_factory=lambda: array("d"))
    losses: array[float] = field(default_factory=lambda: array("d"))
    learning_rates: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    memory_bytes: array[float] = field(default_factory=lambda: array("d"))
    validated: list[Validated] = field(default_factory=list)
    samples: dict[int, dict[int, SampleSaved]] = field(default_factory=dict)
    checkpoints: list[CheckpointSaved] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)

    def add(self, event: TrainingEvent) -> None:
        """Take one more event."""
        self.num_events += 1
        if isinstance(event, Started):
            self._take_up(event)
        elif isinstance(event, Phase):
            self.phase = event
        elif isinstance(event, StepLogged):
            self._log(event)
        elif isinstance(event, Validated):
            self.validated = [each for each in self.validated if each.step < event.step] + [event]
        elif isinstance(event, SampleSaved):
            self.samples.setdefault(event.step, {})[event.num_steps] = event
        elif isinstance(event, CheckpointSaved):
            self.checkpoints = [each for each in self.checkpoints if each.step < event.step] + [event]
        elif isinstance(event, Warned):
            self.warnings = [*self.warnings, event][-NUM_WARNINGS_KEPT:]
        elif isinstance(event, Paused):
            self.paused = event.paused
        elif isinstance(event, End):
            self.end = event

    def _take_up(self, event: Started) -> None:
        self.started, self.end, self.paused, self.phase = event, None, False, None
        self._forget_after(event.step)

    def _log(self, event: StepLogged) -> None:
        self._forget_after(event.step - 1)
        self.last, self.phase = event, None
        for values, value in (
            (self.steps, event.step), (self.losses, event.loss), (self.learning_rates, event.learning_rate),
            (self.times, event.time), (self.memory_bytes, event.memory_bytes),
        ):  # fmt: skip
            values.append(value)

    def _forget_after(self, step: int) -> None:
        while self.steps and self.steps[-1] > step:
            for values in (self.steps, self.losses, self.learning_rates, self.times, self.memory_bytes):
                values.pop()

    @property
    def step(self) -> int:
        """The last step done."""
        return max(int(self.steps[-1]) if self.steps else 0, self.started.step if self.started else 0)

    @property
    def num_steps(self) -> int | None:
        """How many there are to be; `None` before the run began."""
        return self.started.num_steps if self.started else None

    @property
    def seconds_per_step(self) -> float | None:
        """Wall time of a step over the last few, with what happens between steps but without pauses and stops."""
        times = self.times[-PACE_STEPS:]
        if self.last is None or self.started is None:
            return None
        gaps = [b - a for a, b in itertools.pairwise(times) if b >= a]
        if not gaps:
            return self.last.seconds
        limit = max(20 * statistics.median(gaps), 60.0)
        return statistics.fmean(min(gap, limit) for gap in gaps)

    @property
    def eta_seconds(self) -> float | None:
        """How long the steps that are left will take; `None` while unknown, or when there is nothing to wait for."""
        pace, count = self.seconds_per_step, self.num_steps
        if pace is None or count is None or self.end is not None:
            return None
        return max(0, count - self.step) * pace

    @property
    def error_ratio(self) -> float | None:
        """Held-out endpoint error over the untrained student's, both summed over windows; below 1 is better."""
        if isinstance(self.end, Finished) and self.end.endpoint_errors:
            return error_ratio(self.end.endpoint_errors, self.end.untrained)
        return error_ratio(self.validated[-1].endpoint_errors, self.validated[-1].untrained) if self.validated else None


def error_ratio(errors: tuple[float, ...], untrained: tuple[float, ...]) -> float | None:
    """The quotient of the sums; `None` where there is nothing to divide."""
    total = sum(untrained)
    return sum(errors) / total if errors and total > 0 else None


class RunFollower:
    """Reads on where it stopped; any number of threads may ask."""

    def __init__(self, events_path: Path) -> None:
        self._path = events_path
        self._lock = threading.Lock()
        self._offset = 0
        self._digest = RunDigest()

    @contextmanager
    def reading(self) -> Iterator[RunDigest]:
        """The digest of everything written so far, held still while the context lasts; keep nothing of it."""
        with self._lock:
            if self._size() < self._offset:  # another run took the id after this one was deleted
                self._offset, self._digest = 0, RunDigest()
            events, self._offset = read_events(self._path, self._offset)
            for event in events:
                self._digest.add(event)
            yield self._digest

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
