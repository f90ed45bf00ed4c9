"""One device for pictures and training: share, pause or wait, by the memory there is; beside a real process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from studio import sharing
from studio.catalog import Catalog
from studio.engine.fake import FakeEngine
from studio.errors import QueueFull
from studio.runs.events import Paused, StepLogged, read_events
from studio.runs.folder import RunFolder
from studio.runs.launch import REPOSITORY
from studio.sharing import Sharing
from studio.types import GenerationRequest, Loading, MemoryRoom
from tests.runs import fake_trainer
from tests.runs.waiting import ENDLESS, config, until

REQUEST = GenerationRequest(prompt="a cube")


class TightEngine(FakeEngine):
    """An engine on a device whose free memory the test decides: alone, and while training pauses."""

    def __init__(self, run: RunFolder, *, free: int, free_in_pause: int, device: str = "cuda") -> None:
        super().__init__(Catalog.load(REPOSITORY / "presets"))
        self.run, self.device, self.free, self.free_in_pause = run, device, free, free_in_pause
        self.num_rooms_made = 0
        self.pauses_when_made: list[bool] = []

    def room(self, request: GenerationRequest) -> MemoryRoom:
        free = self.free_in_pause if is_paused(self.run) else self.free
        return MemoryRoom(device=self.device, free_bytes=free, needed_bytes=100)

    def make_room(self) -> None:
        self.num_rooms_made += 1
        self.pauses_when_made.append(is_paused(self.run))


def is_paused(run: RunFolder) -> bool:
    found = [event.paused for event in read_events(run.events_path)[0] if isinstance(event, Paused)]
    return bool(found) and found[-1]


def num_steps(run: RunFolder) -> int:
    return sum(isinstance(event, StepLogged) for event in read_events(run.events_path)[0])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A run at work, a few steps in."""
    folder = RunFolder(tmp_path / "a-run")
    folder.path.mkdir()
    folder.write_config(config(num_steps=ENDLESS))
    process = subprocess.Popen([*fake_trainer.COMMAND, str(folder.path)], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    until(lambda: num_steps(folder) > 1)
    yield folder
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_without_a_run_nothing_is_asked(run: RunFolder) -> None:
    engine = TightEngine(run, free=0, free_in_pause=0)
    with ExitStack() as held:
        assert list(Sharing(engine, lambda: None).enter(REQUEST, held)) == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_where_both_fit_they_share(run: RunFolder, device: str) -> None:
    engine = TightEngine(run, free=111, free_in_pause=0, device=device)
    with ExitStack() as held:
        assert list(Sharing(engine, lambda: run).enter(REQUEST, held)) == []
        before = num_steps(run)
        until(lambda: num_steps(run) > before + 2)
    assert engine.num_rooms_made == 0


def test_where_it_is_tight_training_pauses_and_the_model_leaves_before_it_goes_on(run: RunFolder) -> None:
    engine = TightEngine(run, free=50, free_in_pause=200)
    with ExitStack() as held:
        said = list(Sharing(engine, lambda: run).enter(REQUEST, held))
        assert said
        assert all("pauses after its step" in event.message for event in said)
        assert is_paused(run)
        assert engine.num_rooms_made == 0
    assert engine.pauses_when_made == [True]
    before = num_steps(run)
    until(lambda: num_steps(run) > before + 2)
    assert not is_paused(run)


def test_where_even_a_pause_does_not_help_training_goes_on_and_the_picture_waits_for_its_end(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TightEngine(run, free=50, free_in_pause=60)
    at_work: list[RunFolder | None] = [run]
    heard: list[Loading] = []
    with ExitStack() as held:
        for event in Sharing(engine, lambda: at_work[0]).enter(REQUEST, held):
            heard.append(event)
            if "Waiting for a-run to end" in event.message:
                before = num_steps(run)
                until(lambda: not is_paused(run) and num_steps(run) > before + 2)  # noqa: B023
                at_work[0] = None
    assert "Waiting for a-run to end" in heard[-1].message


def test_who_waits_too_long_is_told_what_helps(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(sharing, "TRY_AGAIN_SECONDS", 0.01)
    engine = TightEngine(run, free=50, free_in_pause=60)
    with ExitStack() as held, pytest.raises(QueueFull, match="stop the run"):
        list(Sharing(engine, lambda: run).enter(REQUEST, held))


def test_a_trainer_that_has_shown_nothing_is_not_trusted_to_fit_on_a_gpu(tmp_path: Path) -> None:
    fresh = RunFolder(tmp_path / "fresh")
    fresh.path.mkdir()
    at_work: list[RunFolder | None] = [fresh]
    for device, waits in (("cpu", False), ("cuda", True)):
        engine = TightEngine(fresh, free=1000, free_in_pause=1000, device=device)
        with ExitStack() as held:
            first = next(Sharing(engine, lambda: at_work[0]).enter(REQUEST, held), None)
            assert (first is not None) is waits


def test_a_trainer_that_dies_while_asked_holds_nobody_up(run: RunFolder) -> None:
    engine = TightEngine(run, free=50, free_in_pause=200)
    at_work: list[RunFolder | None] = [run]
    with ExitStack() as held:
        events = Sharing(engine, lambda: at_work[0]).enter(REQUEST, held)
        for _ in events:
            at_work[0] = None
    assert at_work == [None]
