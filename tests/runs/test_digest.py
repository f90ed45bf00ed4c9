"""What a run's events amount to, read by offset and shared between viewers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from studio.runs.digest import RunDigest, RunFollower, error_ratio
from studio.runs.events import (
    Failed,
    Finished,
    Paused,
    Phase,
    SampleSaved,
    Started,
    StepLogged,
    TrainingEvent,
    Validated,
    to_line,
)


def step(number: int, *, time: float | None = None, loss: float = 1.0) -> StepLogged:
    return StepLogged(
        time=float(number) if time is None else time, step=number, loss=loss, learning_rate=1e-4, gradient_norm=1.0,
        seconds=0.5, samples_per_second=8.0, memory_bytes=10,
    )  # fmt: skip


def start(at: int = 0) -> Started:
    return Started(time=float(at), step=at, num_steps=100, config_sha256="x", pid=1)


def digest_of(*events: TrainingEvent) -> RunDigest:
    digest = RunDigest()
    for event in events:
        digest.add(event)
    return digest


def test_progress_pace_and_what_is_left() -> None:
    digest = digest_of(start(), *(step(number) for number in range(1, 11)))
    assert (digest.step, digest.num_steps) == (10, 100)
    assert digest.seconds_per_step == pytest.approx(1.0)
    assert digest.eta_seconds == pytest.approx(90.0)
    assert digest_of(start()).eta_seconds is None


def test_a_night_without_training_does_not_spoil_the_pace() -> None:
    steps = [step(number) for number in range(1, 100)]
    digest = digest_of(start(), *steps, step(100, time=99 + 8 * 3600.0))
    assert digest.seconds_per_step == pytest.approx((98 + 60) / 99)


def test_taking_up_an_earlier_checkpoint_forgets_what_came_after_it() -> None:
    lost = [step(number, loss=9.0) for number in range(1, 31)]
    digest = digest_of(start(), *lost, Failed(step=20, reason="killed"), start(20))
    assert digest.step == 20
    assert digest.end is None
    digest.add(step(21, loss=2.0))
    assert list(digest.steps) == list(range(1, 22))
    assert digest.losses[-1] == 2.0
    assert len(digest.losses) == len(digest.learning_rates) == len(digest.times) == len(digest.memory_bytes) == 21


def test_the_phase_ends_with_the_next_step_and_a_pause_with_its_own_event() -> None:
    digest = digest_of(start(), Phase(words="encoding pictures", fraction=0.5))
    assert digest.phase is not None
    digest.add(step(1))
    assert digest.phase is None
    digest.add(Paused(paused=True, step=1))
    assert digest.paused
    digest.add(Paused(paused=False, step=1))
    assert not digest.paused


def test_samples_and_errors_are_kept_by_step() -> None:
    digest = digest_of(
        SampleSaved(step=0, num_steps=0, file="a.png"),
        SampleSaved(step=0, num_steps=4, file="b.png"),
        SampleSaved(step=50, num_steps=4, file="c.png"),
        Validated(step=0, endpoint_errors=(2.0, 2.0), untrained=(2.0, 2.0)),
        Validated(step=50, endpoint_errors=(1.0, 2.0), untrained=(2.0, 2.0)),
    )
    assert {at: sorted(grids) for at, grids in digest.samples.items()} == {0: [0, 4], 50: [4]}
    assert digest.error_ratio == 0.75
    digest.add(Finished(step=50, export="export", endpoint_errors=(1.0, 1.0), untrained=(2.0, 2.0)))
    assert digest.error_ratio == 0.5
    assert error_ratio((), ()) is None


def test_a_follower_reads_on_and_leaves_a_torn_line_for_later(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    follower = RunFollower(path)
    with follower.reading() as digest:
        assert digest.num_events == 0
    whole, torn = to_line(start()), to_line(step(1))
    path.write_text(whole + torn[:10])
    with follower.reading() as digest:
        assert (digest.num_events, digest.step) == (1, 0)
    path.write_text(whole + torn)
    with follower.reading() as digest:
        assert (digest.num_events, digest.step) == (2, 1)


def test_a_follower_begins_again_when_another_run_took_the_id(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(to_line(start()) + "".join(to_line(step(number)) for number in range(1, 20)))
    follower = RunFollower(path)
    with follower.reading() as digest:
        assert digest.step == 19
    path.write_text(to_line(start()))
    with follower.reading() as digest:
        assert (digest.step, len(digest.losses)) == (0, 0)


def test_many_viewers_at_once_count_every_event_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    follower, seen = RunFollower(path), []

    def look() -> None:
        for _ in range(50):
            with follower.reading() as digest:
                seen.append((digest.num_events, len(digest.steps)))

    viewers = [threading.Thread(target=look) for _ in range(4)]
    for viewer in viewers:
        viewer.start()
    with path.open("a") as file:
        for number in range(1, 401):
            file.write(to_line(step(number)))
            file.flush()
    for viewer in viewers:
        viewer.join()
    with follower.reading() as digest:
        assert list(digest.steps) == list(range(1, 401))
    assert all(events == steps for events, steps in seen)
