"""Drawings that follow pictures, through services and history: refused, kept, restored, forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from studio.catalog import Catalog
from studio.conditions import CannyLevels, ControlUnit, InitialImage, Reference
from studio.engine.fake import FakeEngine
from studio.errors import InvalidRequest, ModelUnavailable, NotFound
from studio.gpu import DeviceLease
from studio.history import History
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationResult
from tests.studio_process import ROOT
from tests.test_inputs import photo

CATALOG = Catalog.load(ROOT / "presets")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    settings = Settings(data_dir=tmp_path / "data", offline=True, hub_cache=tmp_path / "hub")
    with History(settings.data_dir) as history:
        yield Services(settings, CATALOG, FakeEngine(CATALOG, step_seconds=0.0), history, DeviceLease())


def square() -> Image.Image:
    image = Image.new("RGB", (96, 96), "navy")
    image.paste("gold", (24, 24, 72, 72))
    return image


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_the_published_controls_are_listed_for_their_family_only() -> None:
    kinds = {family: [each for each in CATALOG.controls if each.family == family] for family in ("sd15", "sdxl")}
    assert {each.source for each in kinds["sd15"] if each.kind == "controlnet"} >= {
        f"lllyasviel/control_v11{name}"
        for name in ("p_sd15_canny", "f1p_sd15_depth", "p_sd15_openpose", "f1e_sd15_tile", "p_sd15_normalbae",
                     "p_sd15_lineart", "p_sd15_softedge")
    }  # fmt: skip
    for specs in kinds.values():
        assert {"controlnet", "ip_adapter"} == {each.kind for each in specs}
        assert all(each.license != "unknown" and each.download_bytes for each in specs)
    assert {each.family for each in CATALOG.controls_for("dreamshaper-8")} == {"sd15"}


def test_what_is_not_from_the_hub_is_listed_once_it_is_there(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(services.controls("tabletop")) == 5
    monkeypatch.setattr(services._engine, "is_on_disk", lambda _: False)
    assert services.controls("tabletop") == ()
    assert len(services.controls("sd15")) == 8


# --- maps -------------------------------------------------------------------------------------------------------------


def test_a_map_is_made_at_the_canvas_and_kept(services: Services) -> None:
    kept = services.keep(square())
    edges = services.picture(services.annotate(kept, "canny", size=(128, 64)))
    assert edges.size == (128, 64)
    assert {colour for _, colour in edges.getcolors() or []} == {(0, 0, 0), (255, 255, 255)}
    coarse = services.picture(services.annotate(kept, "tile"))
    assert coarse.size == (96, 96)
    assert services.annotate(kept, "none") == kept
    assert services.annotate(kept, "canny", size=(128, 64)) == services.annotate(kept, "canny", size=(128, 64))


def test_resize_modes_meet_another_canvas(services: Services) -> None:
    kept = services.keep(square())
    shown = {
        mode: services.picture(services.annotate(kept, "none", size=(128, 64), resize=mode))
        for mode in ("crop", "stretch", "pad")
    }
    assert {image.size for image in shown.values()} == {(128, 64)}
    assert shown["pad"].getpixel((2, 32)) == (0, 0, 0)
    assert shown["stretch"].getpixel((2, 32)) == shown["crop"].getpixel((2, 2)) == (0, 0, 128)
    assert shown["crop"].getpixel((64, 32)) == (255, 215, 0)


def test_maps_that_cannot_be_are_refused_in_a_sentence(services: Services) -> None:
    kept, even = services.keep(square()), services.keep(Image.new("RGB", (64, 64), "grey"))
    with pytest.raises(InvalidRequest, match="one even colour"):
        services.annotate(even, "canny")
    with pytest.raises(InvalidRequest, match="annotator: expected one of none, canny"):
        services.annotate(kept, "telepathy")
    with pytest.raises(InvalidRequest, match="control_resize"):
        services.annotate(kept, "canny", size=(64, 64), resize="melt")
    with pytest.raises(InvalidRequest, match="canny_low"):
        CannyLevels(low=300, high=100)
    assert services.annotate(kept, "canny")


@pytest.mark.slow
def test_depth_without_its_weights_names_the_command(services: Services) -> None:
    with pytest.raises(ModelUnavailable, match="hf download depth-anything"):
        services.annotate(services.keep(square()), "depth")


@pytest.mark.slow
@pytest.mark.parametrize("annotator", ["lineart", "shuffle"])
def test_lines_and_shuffle_come_the_same_every_time(services: Services, annotator: str) -> None:
    small = Image.new("RGB", (40, 24), "white")
    small.paste("black", (10, 6, 30, 18))
    for picture in (photo(96, 80), small):
        kept = services.keep(picture)
        made = services.annotate(kept, annotator)
        assert made == services.annotate(kept, annotator) != kept
        assert services.picture(made).size == picture.size


# --- requests ---------------------------------------------------------------------------------------------------------


def test_conditions_are_refused_before_any_work(services: Services) -> None:
    kept, even = services.keep(square()), services.keep(Image.new("RGB", (64, 64), "grey"))
    mask = services.keep(photo(64, 32))
    refused = {
        "control": {"controls": (ControlUnit(control="sd15-canny", image=kept),)},
        "reference_adapter": {"references": (Reference(adapter="tabletop-canny", image=kept),)},
        "control_image": {"controls": (ControlUnit(control="tabletop-canny", image=even),)},
        "mask": {"initial": InitialImage(image=kept, mask=mask)},
        "strength": {"initial": InitialImage(image=kept, strength=0.1)},
    }
    for field, conditions in refused.items():
        with pytest.raises(InvalidRequest) as caught:
            services.resolve(prompt="x", **conditions)  # type: ignore[arg-type]
        assert caught.value.field == field
    with pytest.raises(NotFound, match="choose the picture again"):
        services.resolve(prompt="x", initial=InitialImage(image="0" * 64))
    assert services.resolve(prompt="x", initial=InitialImage(image=kept, strength=0.5)).first_step == 2


def test_too_many_units_are_refused(services: Services) -> None:
    unit = ControlUnit(control="tabletop-canny", image=services.keep(square()))
    with pytest.raises(InvalidRequest, match="controls: expected at most 3"):
        services.resolve(prompt="x", controls=(unit,) * 4)
    reference = Reference(adapter="tabletop-ip", image=services.keep(square()))
    with pytest.raises(InvalidRequest, match="references: expected at most 2"):
        services.resolve(prompt="x", references=(reference,) * 3)


def test_a_drawing_remembers_what_it_followed_through_file_and_restart(tmp_path: Path, services: Services) -> None:
    picture = services.keep(square())
    mask = services.keep_mask(Image.new("L", (96, 96), 255), picture)
    request = services.resolve(
        prompt="x", seed=3, controls=(ControlUnit(control="tabletop-tile", image=picture, end=0.5),),
        references=(Reference(adapter="tabletop-ip", image=picture),),
        initial=InitialImage(image=picture, strength=0.5, mask=mask),
    )  # fmt: skip
    *_, result = services.generate(request, tab="control")
    assert isinstance(result, GenerationResult)
    assert result.receipt.plan.timesteps == (500, 250)
    path = result.images[0].path
    assert path is not None
    assert services.history.read_parameters(path) == request
    for folder in ("outputs", "inputs"):  # and not the index, which the next start makes from the files
        shutil.copytree(services.settings.data_dir / folder, tmp_path / "next" / folder)
    with History(tmp_path / "next") as again:
        [entry] = again.search(tab="control")
        assert entry.request == request
        assert again.inputs.open(picture).tobytes() == square().tobytes()


def test_deleting_the_last_drawing_forgets_its_pictures(services: Services) -> None:
    shared, own = services.keep(square()), services.keep(photo(96, 96))
    ids = []
    for picture in (shared, own):
        units = tuple(ControlUnit(control="tabletop-tile", image=each) for each in {shared, picture})
        *_, result = services.generate(services.resolve(prompt="x", controls=units), tab="control")
        assert isinstance(result, GenerationResult)
        ids.append(result.images[0].history_id)
    services.history.delete([ids[1]])
    assert services.history.inputs.path(shared) is not None
    assert services.history.inputs.path(own) is None
    services.history.delete([ids[0]])
    assert services.history.inputs.path(shared) is None
