"""How pictures and training share one device, by measured memory: share, pause or wait.

* **share**: what drawing needs is free beside the trainer (always so on a processor with memory left): both work.
* **pause**: else the trainer is asked to pause between two steps, which gives its activations back. When the picture
  fits then, it is drawn, and the studio unloads its model before the trainer goes on: neither starves the other.
* **wait**: else the trainer goes on at once, and the picture waits, with a sentence, until the run ends.

A trainer that has made no step yet has not shown what it takes; on a GPU a picture waits for that. The lease between
processes is `studio.runs.lease`; the line of pictures among themselves is `studio.gpu`. Knows no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from studio.errors import QueueFull
from studio.runs.events import Paused, Started, StepLogged, read_events
from studio.runs.folder import RunFolder
from studio.runs.lease import pausing
from studio.types import Engine, GenerationRequest, Loading, MultiviewEngine

RESERVE = 1.1
POLL_SECONDS = 0.25
PAUSE_WITHIN_SECONDS, TRY_AGAIN_SECONDS = 120.0, 20.0
TIMEOUT_SECONDS = 600.0


class Sharing:
    """Room on the device for one picture at a time; `at_work` names the run whose trainer has it, if one has."""

    def __init__(self, engine: Engine | MultiviewEngine, at_work: Callable[[], RunFolder | None]) -> None:
        self._engine, self._at_work = engine, at_work

    def enter(self, request: GenerationRequest, held: ExitStack) -> Iterator[Loading]:
        """Yield what is waited for, until there is room; a pause lasts until `held` is closed. Raises `QueueFull`."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (run := self._at_work()) is not None and not self._fits(request, run):
            if time.monotonic() > deadline:
                raise QueueFull(f"The device is training {run.id} and has no memory left for this picture: draw a "
                                "smaller one, or stop the run (it goes on exactly later).")  # fmt: skip
            with ExitStack() as trial:
                trial.enter_context(pausing(run))
                trial.callback(self._engine.make_room)  # before the trainer wants its memory back
                yield from self._until_paused(run)
                if self._fits(request, None):
                    held.push(trial.pop_all())
                    return
            yield from self._wait(run)

    def _fits(self, request: GenerationRequest, run: RunFolder | None) -> bool:
        """Whether drawing has the memory it needs, beside this run when one is given."""
        room = self._engine.room(request)
        if run is not None and room.device != "cpu" and not _has_shown_its_size(run):
            return False
        return room.needed_bytes * RESERVE <= room.free_bytes

    def _until_paused(self, run: RunFolder) -> Iterator[Loading]:
        """Until the trainer says that it pauses, is gone, or does not answer."""
        offset = run.events_path.stat().st_size if run.events_path.exists() else 0
        deadline = time.monotonic() + PAUSE_WITHIN_SECONDS
        while self._at_work() == run and time.monotonic() < deadline:
            events, offset = read_events(run.events_path, offset)
            if any(isinstance(event, Paused) and event.paused for event in events):
                return
            yield Loading(message=f"Training ({run.id}) pauses after its step for this picture")
            time.sleep(POLL_SECONDS)

    def _wait(self, run: RunFolder) -> Iterator[Loading]:
        """A while without asking again, so that training gets on."""
        end = time.monotonic() + TRY_AGAIN_SECONDS
        while self._at_work() == run and time.monotonic() < end:
            yield Loading(message=f"Waiting for {run.id} to end: beside it there is no memory for this picture")
            time.sleep(POLL_SECONDS)


def _has_shown_its_size(run: RunFolder) -> bool:
    """Whether the trainer has made a step since its start: before, its memory says nothing."""
    for event in reversed(read_events(run.events_path)[0]):
        if isinstance(event, StepLogged):
            return True
        if isinstance(event, Started):
            return False
    return False
