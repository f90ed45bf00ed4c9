"""Switching in any order leaves no residue: whatever came before, a request draws what fresh engines draw for it.

One seeded walk over everything that can be put on and taken off: models, delta weights at two strengths, LoRAs, plain
solvers, ControlNets, two IP-Adapters, references with masks, image-to-image, inpainting, and views of one object with
delta weights on and off, by the two engines side by side as the studio runs them. Its length bounds its time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from studio.catalog import Catalog
from studio.conditions import ControlUnit, InitialImage, Reference
from studio.engine.diffusion import DiffusionEngine
from studio.engine.multiview import WonderEngine
from studio.inputs import PictureStore
from studio.perflow import weights_sha256
from studio.types import GenerationRequest, GenerationResult
from tests.engine.conftest import result_of
from tests.test_inputs import photo

NUM_TURNS = 20
COMPARED_EVERY = 4
VIEWS_MODEL, VIEW_PIXELS = "views-sd15", 64
SHEET = {"width": 6 * VIEW_PIXELS, "height": 2 * VIEW_PIXELS}
Ask = Callable[..., GenerationRequest]
Resident = Callable[[GenerationRequest], "DiffusionEngine | WonderEngine"]
MUST_OCCUR = {
    "perflow_delta", "half strength", "lora", "none", "two controls", "two adapters", "one adapter twice", "masked",
    "image to image", "inpainting", "views bare", "views with delta", "sd15", "sdxl", "tabletop",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Makes both engines of a studio, and draws with the one that a request's model belongs to."""

    new_pictures: Callable[[], DiffusionEngine]
    new_views: Callable[[], WonderEngine]
    thing: Image.Image

    def draw(self, request: GenerationRequest, engine: DiffusionEngine | WonderEngine) -> GenerationResult:
        if isinstance(engine, WonderEngine):
            return result_of(engine.generate(request, self.thing, previews=False))
        return result_of(engine.generate(request))

    def draw_afresh(self, request: GenerationRequest) -> GenerationResult:
        """By an engine that shares nothing with any other but the files."""
        new = self.new_views if request.model == VIEWS_MODEL else self.new_pictures
        with closing(new()) as engine:
            return self.draw(request, engine)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Kept pictures for requests."""

    lines: str
    photo: str
    mask: str


@pytest.fixture
def engines(catalog: Catalog, assets: Path, pictures: PictureStore) -> Engines:
    where: dict[str, Any] = {"assets_dir": assets, "device": "cpu", "dtype": "fp32", "offline": True}
    thing = Image.new("RGB", (VIEW_PIXELS, VIEW_PIXELS), "white")
    ImageDraw.Draw(thing).ellipse((10, 6, 50, 58), fill=(40, 160, 90))
    return Engines(
        new_pictures=lambda: DiffusionEngine(catalog, open_picture=pictures.open, **where),
        new_views=lambda: WonderEngine(catalog, **where),
        thing=thing,
    )


@pytest.fixture
def resident(engines: Engines) -> Iterator[Resident]:
    """The two engines of a studio that goes on, by the request."""
    with closing(engines.new_pictures()) as of_pictures, closing(engines.new_views()) as of_views:
        yield lambda request: of_views if request.model == VIEWS_MODEL else of_pictures


@pytest.fixture
def inputs(pictures: PictureStore) -> Inputs:
    lines, mask = Image.new("RGB", (64, 64)), Image.new("L", (80, 80))
    ImageDraw.Draw(lines).rectangle([12, 12, 40, 44], outline="white", width=2)
    mask.paste(255, (0, 0, 40, 80))
    return Inputs(lines=pictures.keep(lines), photo=pictures.keep(photo(80, 80)), mask=pictures.keep(mask))


def _views(turn: random.Random, ask: Ask) -> GenerationRequest:
    return ask(
        model=VIEWS_MODEL, accelerator=turn.choice(["perflow-sd15", "ddim"]), steps=turn.choice([1, 2]),
        accelerator_strength=turn.choice([1.0, 0.5]), guidance=turn.choice([1.0, 2.0]), **SHEET,
    )  # fmt: skip


def _picture(turn: random.Random, ask: Ask, inputs: Inputs) -> GenerationRequest:
    family = turn.choice(["sd15", "sd15", "sd15", "sdxl", "tabletop"])
    controls = turn.sample([f"canny-{family}", f"depth-{family}"], turn.randint(0, 2))
    one, other = f"ip-{family}", f"ip2-{family}"
    adapters = turn.choice([(), (), (one,), (one, one), (one, other), (other, one)])
    initial = InitialImage(
        image=inputs.photo, strength=turn.choice([0.5, 1.0]), mask=turn.choice([None, inputs.mask])
    )  # fmt: skip
    return ask(
        family,
        accelerator=turn.choice([f"perflow-{family}", f"lcm-{family}", "ddim", "dpmpp"]),
        accelerator_strength=turn.choice([1.0, 0.5]),
        guidance=turn.choice([1.0, 3.0, [3.0, 1.0, 1.0, 3.0]]),
        steps=2,
        controls=tuple(
            ControlUnit(control=id, image=turn.choice([inputs.lines, inputs.photo]), weight=0.8) for id in controls
        ),
        references=tuple(
            Reference(adapter=id, image=inputs.photo, mask=turn.choice([None, inputs.mask])) for id in adapters
        ),
        initial=turn.choice([None, initial]),
    )


def _occurs(request: GenerationRequest, catalog: Catalog) -> set[str]:
    """What a request puts on, in the words of `MUST_OCCUR`."""
    kind = catalog.accelerator(request.accelerator).kind
    if request.model == VIEWS_MODEL:
        return {"views bare" if kind == "none" else "views with delta"}
    adapters = [each.adapter for each in request.references]
    found = {
        kind: True,
        "half strength": kind == "perflow_delta" and request.accelerator_strength == 0.5,
        "two controls": len(request.controls) == 2,
        "two adapters": len(set(adapters)) == 2,
        "one adapter twice": len(adapters) == 2 and len(set(adapters)) == 1,
        "masked": any(each.mask for each in request.references),
        "image to image": request.initial is not None and request.initial.mask is None,
        "inpainting": request.initial is not None and request.initial.mask is not None,
        catalog.model(request.model).family: True,
    }
    return {name for name, is_so in found.items() if is_so}


def _levels(result: GenerationResult) -> np.ndarray:
    return np.asarray(result.images[0].image).astype(int)


def test_a_walk_over_everything_leaves_nothing_behind(
    engines: Engines, resident: Resident, ask: Ask, catalog: Catalog, inputs: Inputs
) -> None:
    """Every request after any other draws what a fresh engine draws, and no base's hash ever changes."""
    turn = random.Random(82)  # with which everything of `MUST_OCCUR` does
    hashes: dict[str, str] = {}
    occurred: set[str] = set()
    for number in range(NUM_TURNS):
        request = _views(turn, ask) if turn.random() < 0.25 else _picture(turn, ask, inputs)
        result = engines.draw(request, resident(request))
        occurred |= _occurs(request, catalog)
        base = result.receipt.base_sha256
        assert hashes.setdefault(request.model, base) == base
        if number % COMPARED_EVERY == COMPARED_EVERY - 1:
            again = engines.draw_afresh(request)
            assert again.receipt.base_sha256 == base
            difference = np.abs(_levels(again) - _levels(result)).max()
            assert difference <= 1, (difference, number, request)
    assert occurred >= MUST_OCCUR, MUST_OCCUR - occurred
    assert len(hashes) == 4
    _undressed(resident, ask, hashes)


def _undressed(resident: Resident, ask: Ask, hashes: dict[str, str]) -> None:
    """With everything taken off, what is in memory is the base, bit by bit."""
    pictures, views = resident(ask()), resident(ask(model=VIEWS_MODEL))
    assert isinstance(pictures, DiffusionEngine)
    assert isinstance(views, WonderEngine)
    dressed, of_views = pictures._loader._resident, views._resident
    assert dressed is not None
    assert of_views is not None
    of_views.base.restore()
    assert weights_sha256(of_views.networks.unet) == hashes[VIEWS_MODEL]
    dressed.controls.detach_adapters()
    dressed.unet.undress()
    assert weights_sha256(dressed.pipe.unet) in hashes.values()


def test_views_of_one_object_are_those_of_a_fresh_network_after_every_switch_of_delta_weights(
    engines: Engines, resident: Resident, ask: Ask
) -> None:
    """On, half on, off, and on again, with pictures of the same base and delta weights drawn in between."""
    sheets: dict[tuple[str, float], np.ndarray] = {}
    for accelerator, strength in (("perflow-sd15", 1.0), ("ddim", 1.0), ("perflow-sd15", 0.5), ("perflow-sd15", 1.0)):
        choices: dict[str, Any] = {"accelerator": accelerator, "accelerator_strength": strength, "steps": 1}
        between, request = ask(**choices), ask(model=VIEWS_MODEL, guidance=1.0, **SHEET, **choices)
        engines.draw(between, resident(between))
        sheet = _levels(engines.draw(request, resident(request)))
        assert np.array_equal(sheets.setdefault((accelerator, strength), sheet), sheet)
        assert np.abs(_levels(engines.draw_afresh(request)) - sheet).max() <= 1
    assert len({sheet.tobytes() for sheet in sheets.values()}) == 3
