"""Services: what a person typed, completed or refused; one line, one engine, and pictures in the history."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studio.catalog import Catalog
from studio.engine.fake import FakeEngine
from studio.errors import InvalidRequest, OutOfMemory, QueueFull, StorageError, StudioError
from studio.gpu import DeviceLease
from studio.history import History
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationEvent, GenerationRequest, GenerationResult, Guidance, StepPreview, Waiting
from tests.studio_process import ROOT

CATALOG = Catalog.load(ROOT / "presets")


class WatchedEngine(FakeEngine):
    """The fake engine, counting what starts and what is closed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(CATALOG, **{"step_seconds": 0.0, **options})
        self.num_started = self.num_ended = self.num_steps = 0

    def generate(self, request: GenerationRequest, *, previews: bool = True) -> Iterator[GenerationEvent]:
        self.num_started += 1
        try:
            for event in super().generate(request, previews=previews):
                self.num_steps += isinstance(event, StepPreview)
                yield event
        finally:
            self.num_ended += 1


@pytest.fixture
def engine() -> WatchedEngine:
    return WatchedEngine()


@pytest.fixture
def services(tmp_path: Path, engine: WatchedEngine) -> Iterator[Services]:
    with History(tmp_path / "data") as history:
        yield Services(Settings(data_dir=tmp_path / "data"), CATALOG, engine, history, DeviceLease(max_waiting=2))


def result_of(events: Iterator[GenerationEvent]) -> GenerationResult:
    *_, last = events
    assert isinstance(last, GenerationResult)
    return last


# --- resolve ----------------------------------------------------------------------------------------------------


def test_nothing_but_a_prompt_takes_the_recommended_values(services: Services) -> None:
    request = services.resolve(prompt="a red cube")
    model = CATALOG.models[0]
    accelerator = CATALOG.accelerator(model.default_accelerator)
    assert (request.model, request.accelerator) == (model.id, accelerator.id)
    assert request.steps == accelerator.recommended_steps
    assert request.guidance.scales == accelerator.recommended_guidance
    assert (request.width, request.height) == (model.native_width, model.native_height)


def test_every_model_of_the_catalogue_resolves_with_every_accelerator_offered(services: Services) -> None:
    pairs = [(s.spec.id, each.id) for s in services.models() for each in services.accelerators(s.spec.id)]
    assert len(pairs) > 10
    for model, accelerator in pairs:
        request = services.resolve(prompt="x", model=model, accelerator=accelerator)
        assert services.plan(request).timesteps


def test_minus_one_is_a_new_seed_each_time_and_others_stay(services: Services) -> None:
    seeds = {services.resolve(prompt="x", num_images=16).seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(seed >= 0 and seed + 15 < 2**32 for seed in seeds)
    assert services.resolve(prompt="x", seed=0).seed == 0


def test_whole_floats_count_as_whole_numbers(services: Services) -> None:
    request = services.resolve(prompt="x", steps=4.0, seed=7.0, width=128.0)  # type: ignore[arg-type]
    assert (request.steps, request.seed, request.width) == (4, 7, 128)
    assert isinstance(request.steps, int)


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("prompt", {"prompt": "x" * 1_000_000}),
        ("prompt", {"prompt": None}),
        ("negative_prompt", {"negative_prompt": 3}),
        ("model", {"model": "no-such-model"}),
        ("model", {"model": ["tabletop"]}),
        ("accelerator", {"accelerator": "no-such-accelerator"}),
        ("accelerator", {"accelerator": "perflow-sd15"}),
        ("accelerator", {"accelerator": {}}),
        ("accelerator_strength", {"accelerator_strength": float("nan")}),
        ("accelerator_strength", {"accelerator_strength": 1.6}),
        ("accelerator_strength", {"accelerator_strength": "1"}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": 10_000}),
        ("steps", {"steps": 4.5}),
        ("steps", {"steps": True}),
        ("steps", {"steps": float("inf")}),
        ("guidance", {"guidance": float("nan")}),
        ("guidance", {"guidance": [3.0, 2.0]}),
        ("guidance", {"guidance": []}),
        ("guidance", {"guidance": 1000}),
        ("guidance", {"guidance": "7"}),
        ("width", {"width": 7}),
        ("width", {"width": 136}),
        ("height", {"height": 100_000}),
        ("seed", {"seed": -2}),
        ("seed", {"seed": 2**32}),
        ("seed", {"seed": True}),
        ("num_images", {"num_images": 0}),
        ("num_images", {"num_images": 17}),
    ],
)
def test_nonsense_is_refused_by_field_before_any_work(
    services: Services, engine: WatchedEngine, field: str, choices: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        services.resolve(**{"prompt": "x", **choices})
    assert refused.value.field == field
    assert len(str(refused.value)) < 500
    assert engine.num_started == 0


def test_a_request_made_past_resolve_meets_the_same_catalogue(services: Services, engine: WatchedEngine) -> None:
    for request in (
        GenerationRequest(prompt="x", model="no-such-model"),
        GenerationRequest(prompt="x", accelerator="perflow-sd15"),
        GenerationRequest(prompt="x", width=136),
        GenerationRequest(prompt="x", guidance=Guidance(scales=(1.0, 2.0))),
    ):
        with pytest.raises(InvalidRequest):
            result_of(services.generate(request))
    assert engine.num_started == 0


def test_an_unknown_first_model_is_refused_at_the_start(tmp_path: Path, engine: WatchedEngine) -> None:
    with History(tmp_path) as history, pytest.raises(InvalidRequest):
        Services(Settings(data_dir=tmp_path, model="nothing"), CATALOG, engine, history, DeviceLease())


# --- generate ---------------------------------------------------------------------------------------------------


def test_every_picture_is_saved_with_its_own_seed_and_alone_equals_its_batch(services: Services) -> None:
    result = result_of(services.generate(services.resolve(prompt="x", seed=5, num_images=3)))
    assert [image.seed for image in result.images] == [5, 6, 7]
    for image in result.images:
        assert image.history_id is not None
        entry = services.history.get(image.history_id)
        assert entry.path == image.path
        alone = result_of(services.generate(entry.request)).images[0]
        assert alone.image.tobytes() == image.image.tobytes()
    assert len(services.history.search()) == 6


def test_closing_the_events_stops_the_engine_and_frees_the_device(services: Services, engine: WatchedEngine) -> None:
    events = services.generate(services.resolve(prompt="x", steps=32))
    while not isinstance(next(events), StepPreview):
        pass
    events.close()  # type: ignore[attr-defined]
    assert (engine.num_started, engine.num_ended, engine.num_steps) == (1, 1, 1)
    assert services.history.search() == ()
    assert result_of(services.generate(services.resolve(prompt="x"))).images


def test_the_second_waits_and_may_leave_and_the_fourth_is_sent_away(services: Services) -> None:
    request = services.resolve(prompt="x")
    first, second, third = (services.generate(request) for _ in range(3))
    next(first)
    assert next(second) == Waiting(num_ahead=1, seconds=None)
    assert next(third) == Waiting(num_ahead=2, seconds=None)
    with pytest.raises(QueueFull):
        next(services.generate(request))
    second.close()  # type: ignore[attr-defined]
    waiting = next(third)
    assert isinstance(waiting, Waiting)
    assert waiting.num_ahead == 1
    result_of(first)
    assert not isinstance(next(third), Waiting)
    third.close()  # type: ignore[attr-defined]


def test_a_failing_engine_frees_the_device(services: Services, engine: WatchedEngine) -> None:
    def failing(_: GenerationRequest, *, previews: bool) -> Iterator[GenerationEvent]:
        raise OutOfMemory("No memory left: fewer pixels may help.")
        yield

    draw, services._draw = services._draw, failing
    with pytest.raises(OutOfMemory):
        result_of(services.generate(services.resolve(prompt="x")))
    services._draw = draw
    assert result_of(services.generate(services.resolve(prompt="x"))).images


def test_a_picture_the_disk_refuses_is_still_shown_and_says_so(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(services.history, "add", full)
    result = result_of(services.generate(services.resolve(prompt="x", seed=3)))
    assert result.images[0].path is None
    assert result.receipt.warnings[-1] == "Seed 3 was not saved: The disk is full."


def test_stopping_ends_what_runs_and_what_waits(services: Services, engine: WatchedEngine) -> None:
    running = services.generate(services.resolve(prompt="x", steps=32))
    waiting = services.generate(services.resolve(prompt="x"))
    next(running)
    next(waiting)
    threading.Thread(target=services.stop).start()
    for events in (running, waiting):
        with pytest.raises(StudioError, match="being stopped"):
            list(events)
    assert (engine.num_started, engine.num_ended) == (1, 1)
    assert engine.num_steps < 32


def test_the_catalogue_is_told_with_what_is_on_disk(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services._engine, "is_on_disk", lambda id: id == "tabletop")
    told = {status.spec.id: status.on_disk for status in services.models()}
    assert told["tabletop"] is True
    assert told["sd15"] is False
    assert all("tabletop" in each.families for each in services.accelerators("tabletop"))
    with pytest.raises(InvalidRequest):
        services.accelerators("no-such-model")


def test_the_owners_model_comes_first(tmp_path: Path, engine: WatchedEngine) -> None:
    with History(tmp_path) as history:
        settings = replace(Settings(data_dir=tmp_path), model="sd15")
        assert Services(settings, CATALOG, engine, history, DeviceLease()).resolve(prompt="x").model == "sd15"
