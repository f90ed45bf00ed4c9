"""Contests through the services: with the fake engine for what is said and kept, with Tabletop for what is true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.catalog import Catalog
from studio.comparisons import SHARED, ComparisonResult, Drawing, Entry
from studio.engine.diffusion import DiffusionEngine
from studio.engine.fake import FakeEngine
from studio.errors import InvalidRequest
from studio.gpu import DeviceLease
from studio.history import History
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationResult

PRESETS = Settings.presets_dir
PROMPT = "a glossy red cube to the left of a small blue cone on a checkered floor"


@contextmanager
def serving(data_dir: Path, *, real: bool = False) -> Iterator[Services]:
    settings = Settings(data_dir=data_dir)
    catalog = Catalog.load(PRESETS)
    with History(data_dir) as history:
        engine = (
            DiffusionEngine(catalog, assets_dir=settings.assets_dir, open_picture=history.inputs.open)
            if real
            else FakeEngine(catalog, step_seconds=0.001, open_picture=history.inputs.open)
        )
        yield Services(settings, catalog, engine, history, DeviceLease())
        engine.close()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with serving(tmp_path) as services:
        yield services


@pytest.fixture(scope="module")
def tabletop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with serving(tmp_path_factory.mktemp("data"), real=True) as services:
        yield services


def suggested(services: Services, **more):
    contestants, reference = services.comparisons.suggested("tabletop")
    chosen = {"prompt": PROMPT, "contestants": contestants, "reference": reference, "seed": 7, **more}
    return services.comparisons.resolve(**chosen)


def finished(services: Services, comparison) -> ComparisonResult:
    *_, last = services.comparisons.run(comparison)
    assert isinstance(last, ComparisonResult)
    return last


# --- what is asked ---


def test_lcm_against_perflow_against_the_teacher_is_where_it_begins(services: Services) -> None:
    comparison = suggested(services)
    assert [each.accelerator for each in comparison.contestants] == ["lcm-tabletop", "perflow-tabletop", "ddim"]
    assert comparison.reference == 2
    assert comparison.contestants[2].steps == 50
    assert len({(each.seed, each.prompt, each.width) for each in comparison.contestants}) == 1


@pytest.mark.parametrize("model", ["tabletop", "sdxl", "sd15"])
def test_the_teacher_is_guided_as_the_weights_learnt_it(services: Services, model: str) -> None:
    """SDXL's delta weights have 7.5 in them and are drawn at 2; SD 1.5's have none and are drawn at 4.5."""
    contestants, reference = services.comparisons.suggested(model)
    perflow = next(each for each in contestants if "perflow" in each["accelerator"])
    facts = services.catalog.accelerator(perflow["accelerator"]).delta
    assert facts is not None
    assert reference is not None
    expected = [facts.trained_guidance] if facts.guidance_mode == "fixed" else perflow["guidance"]
    assert contestants[reference]["guidance"] == expected
    assert model != "sdxl" or expected == [7.5]


@pytest.mark.parametrize("model", ["tabletop", "sd15", "sdxl", "sd21", "perflow-sd15-dreamshaper"])
def test_every_model_has_somebody_to_begin_with(services: Services, model: str) -> None:
    contestants, reference = services.comparisons.suggested(model)
    assert contestants
    if len(contestants) > 1:
        services.comparisons.resolve(prompt="x", contestants=contestants, reference=reference)


def test_a_random_seed_is_one_for_all(services: Services) -> None:
    comparison = suggested(services, seed=-1)
    assert len({each.seed for each in comparison.contestants}) == 1


@pytest.mark.parametrize(
    ("contestants", "words"),
    [
        ([{}, {"accelerator": "nobody"}], "for number 2, accelerator, one that fits tabletop"),
        ([{"steps": 0}, {}], "for number 1, steps, a whole number from 1 to 50"),
        ([{}, {"guidance": "much"}], "for number 2, guidance"),
        ([{}, {"prompt": "another"}], "only model, accelerator"),
        ([{}, {"model": "castle"}], "for number 2, model"),
        ([{}], "2 to 4"),
        ([{}] * 100, "2 to 4"),
        ([5, {}], "an object for each"),
        ("ddim", "a list of objects"),
        (7, "a list of objects"),
    ],
)
def test_a_contestant_that_makes_no_sense_is_named(services: Services, contestants: list, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        services.comparisons.resolve(prompt="a cube", contestants=contestants)


def test_equal_calls_are_equal(services: Services) -> None:
    plans = services.comparisons.plans(suggested(services, equal="calls", budget=8))
    assert [plan.num_network_calls for plan in plans[:2]] == [8, 8]
    assert len(plans[2].timesteps) == 50


# --- what happens ---


def test_entries_come_as_they_are_drawn_the_reference_first_and_only_shown_pictures_are_kept(
    services: Services,
) -> None:
    events = list(services.comparisons.run(suggested(services, rounds=2)))
    assert [event.index for event in events if isinstance(event, Entry)] == [2, 0, 1]
    assert isinstance(events[-1], ComparisonResult)
    assert [len(entry.seconds_rounds) for entry in events[-1].entries] == [2, 2, 2]
    assert {event.round for event in events if isinstance(event, Drawing)} == {0, 1, 2}
    kept = services.history.search(tab="compare")
    assert {entry.id for entry in kept} == {entry.image.history_id for entry in events[-1].entries}


def test_models_are_loaded_once_each_where_they_differ(services: Services) -> None:
    contestants = [{"model": "tabletop"}, {"model": "sd15", "accelerator": "ddim", "steps": 2}]
    comparison = services.comparisons.resolve(prompt="x", contestants=contestants, rounds=3)
    drawn = [event.index for event in services.comparisons.run(comparison) if isinstance(event, Drawing)]
    assert drawn == sorted(drawn)
    assert len(finished(services, comparison).entries[1].seconds_rounds) == 3


def test_closing_stops_and_keeps_what_is_done(services: Services) -> None:
    events = services.comparisons.run(suggested(services))
    for event in events:
        if isinstance(event, Entry):
            break
    events.close()
    assert len(services.history.search(tab="compare")) == 1
    assert finished(services, suggested(services, rounds=0)).entries, "the device is free again"


def test_a_training_run_on_the_device_is_said(services: Services) -> None:
    services.comparisons._is_training = lambda: True
    assert finished(services, suggested(services, rounds=0)).warnings == (SHARED,)
    services.comparisons._is_training = lambda: False
    assert finished(services, suggested(services, rounds=0)).warnings == ()


def test_equal_time_gives_the_faster_more_steps(services: Services) -> None:
    """On an engine whose steps take 30 ms for LCM and 10 ms for the others."""
    own = services.comparisons._generate

    def slower_lcm(request, **more):
        for event in own(request, **more):
            if isinstance(event, GenerationResult):
                pace = 0.03 if request.accelerator == "lcm-tabletop" else 0.01
                seconds = (pace,) * len(event.receipt.seconds_steps)
                event = replace(event, receipt=replace(event.receipt, seconds_steps=seconds, seconds_decode=0.02))
            yield event

    services.comparisons._generate = slower_lcm
    result = finished(services, suggested(services, equal="time", budget=0.14, rounds=1))
    assert [entry.request.steps for entry in result.entries] == [4, 12, 50]
    assert result.entries[0].seconds == pytest.approx(0.14)
    assert result.entries[1].seconds == pytest.approx(0.14)
    without = finished(services, suggested(services, equal="time", rounds=0))
    assert [entry.request.steps for entry in without.entries][:2] == [4, 12], "the first one's own time"


# --- with the weights that ship ---


def test_a_contestants_picture_is_the_one_that_text_to_image_makes_alone(tabletop: Services) -> None:
    result = finished(tabletop, suggested(tabletop, rounds=1))
    for entry in result.entries:
        alone = tabletop.resolve(
            prompt=PROMPT, model=entry.request.model, accelerator=entry.request.accelerator, steps=entry.request.steps,
            guidance=entry.request.guidance, seed=7,
        )  # fmt: skip
        assert alone == entry.request
        *_, drawn = tabletop.generate(alone)
        assert isinstance(drawn, GenerationResult)
        assert np.array_equal(np.asarray(drawn.images[0].image), np.asarray(entry.image.image)), entry.title
        with Image.open(tabletop.history.get(entry.image.history_id or "").path) as saved:
            assert np.array_equal(np.asarray(saved), np.asarray(entry.image.image))


def test_distances_shrink_as_a_contestant_nears_its_reference(tabletop: Services) -> None:
    contestants = [{"accelerator": "ddim", "steps": steps, "guidance": 1.5} for steps in (2, 8, 25, 50)]
    comparison = tabletop.comparisons.resolve(
        prompt="a red cube on a grey floor", contestants=contestants, reference=3, seed=5, rounds=0
    )
    entries = finished(tabletop, comparison).entries
    errors = [entry.numbers.latent_error for entry in entries[:3]]
    assert None not in errors
    assert errors == sorted(errors, reverse=True)  # pyright: ignore[reportArgumentType]
    assert entries[2].numbers.psnr > entries[0].numbers.psnr  # pyright: ignore[reportOptionalOperand]
    assert entries[3].numbers.latent_error is None, "the reference is not measured against itself"
    assert all(entry.numbers.adherence and entry.numbers.adherence.num_asked == 2 for entry in entries)
    assert all((entry.result.receipt.memory_bytes or 0) > 50e6 for entry in entries)


def test_the_order_of_contestants_does_not_change_their_times_beyond_noise(tabletop: Services) -> None:
    """Twins drawn as first and as last: over paired rounds the sign of their difference is a coin's."""
    twins = [{"accelerator": "perflow-tabletop", "steps": 4}] * 2
    between = [{"accelerator": "lcm-tabletop", "steps": 4}]
    comparison = tabletop.comparisons.resolve(
        prompt=PROMPT, contestants=[twins[0], *between, twins[1]], seed=1, rounds=9
    )
    first, _, last = finished(tabletop, comparison).entries
    gaps = np.array(first.seconds_rounds) - np.array(last.seconds_rounds)
    spread = 1.4826 * np.median(np.abs(gaps - np.median(gaps)))
    assert abs(np.median(gaps)) < 3 * spread + 0.05 * first.seconds
    assert 0.5 < first.seconds / last.seconds < 2
