"""Enlarging through services and history: what a model does best, refusals before work, stops that keep tiles."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from studio.catalog import Catalog
from studio.conditions import Upscale
from studio.engine.fake import FakeEngine
from studio.errors import InvalidRequest, NotFound, UnsafeFile
from studio.gpu import DeviceLease
from studio.history import History
from studio.parameters import read_description
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationRequest, GenerationResult, StepDone
from studio.upscales import TAB
from tests.studio_process import ROOT
from tests.test_inputs import photo

CATALOG = Catalog.load(ROOT / "presets")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    settings = Settings(data_dir=tmp_path / "data", offline=True, hub_cache=tmp_path / "hub")
    with History(settings.data_dir, served_dir=settings.served_dir) as history:
        engine = FakeEngine(CATALOG, step_seconds=0.0, open_picture=history.inputs.open)
        yield Services(settings, CATALOG, engine, history, DeviceLease())


def request_of(services: Services, **choices) -> GenerationRequest:
    chosen = {"model": "tabletop", "prompt": "", "seed": 3, **choices}
    picture = chosen.pop("picture", None) or services.keep(photo(128, 96), shrinks=False)
    return services.upscales.resolve(picture, **chosen)


def test_what_a_model_does_best_is_data(services: Services) -> None:
    request = request_of(services)
    upscale = request.upscale
    assert upscale is not None
    assert (upscale.tile, upscale.overlap, upscale.control) == (128, 32, "tabletop-tile")
    assert (request.width, request.height) == (256, 192)
    assert (request.steps, request.guidance.scales, services.plan(request).num_network_calls) == (8, (1.0,), 2)
    alone = request_of(services, control="none", model="sd15").upscale
    held = request_of(services, model="sd15")
    assert alone is not None
    assert held.upscale is not None
    assert (alone.control, alone.creativity) == (None, 0.25)
    assert (held.upscale.control, held.upscale.creativity, held.upscale.tile) == ("sd15-tile", 1.0, 512)
    assert (held.steps, held.guidance.scales) == (4, (4.5,))


def test_a_control_that_is_not_here_is_left_out_and_one_of_another_kind_refused(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match="upscale_control: expected one that fits tabletop"):
        request_of(services, control="sd15-tile")
    with pytest.raises(InvalidRequest, match="upscale_control"):
        request_of(services, control="tabletop-ip")
    monkeypatch.setattr(services._engine, "is_on_disk", lambda _: False)
    upscale = request_of(services).upscale
    assert upscale is not None
    assert upscale.control is None


def test_the_cost_is_known_before_the_click(services: Services) -> None:
    picture = services.keep(photo(128, 128))
    request = request_of(services, picture=picture, factor=8, tile=128, overlap=32)
    estimate = services.upscales.estimate(request, services.plan(request))
    assert (estimate.width, estimate.height, estimate.num_tiles) == (1024, 1024, 121)
    assert estimate.num_network_calls == 121 * services.plan(request).num_network_calls


def test_every_pixel_of_a_large_picture_counts(services: Services) -> None:
    large = services.keep(photo(2400, 600), shrinks=False)
    assert request_of(services, picture=large, tile=512).width == 4800


def test_what_cannot_be_enlarged_ends_in_a_sentence_and_the_next_works(services: Services, tmp_path: Path) -> None:
    def saved(name: str, image: Image.Image, **options) -> Path:
        image.save(tmp_path / name, **options)
        return tmp_path / name

    bad = {
        "empty.png": (tmp_path / "empty.png", "an empty file"),
        "sliver.png": (saved("sliver.png", Image.new("RGB", (1, 5000))), "sides of 16 pixels or more"),
        "long.png": (saved("long.png", Image.new("RGB", (40, 5000))), "differ at most 8 times"),
        "moves.png": (
            saved("moves.png", photo(64, 64), save_all=True, append_images=[photo(64, 48).resize((64, 64))]),
            "stands still",
        ),
        "text.png": (tmp_path / "text.png", "PNG, JPEG or WEBP"),
        "huge.png": (saved("huge.png", Image.new("L", (7000, 6000))), "36000000 pixels"),
    }
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    for path, words in bad.values():
        with pytest.raises((InvalidRequest, UnsafeFile), match=words):
            services.keep(path, shrinks=False)
    with pytest.raises(InvalidRequest, match="67 megapixels in all"):
        request_of(services, picture=services.keep(photo(2000, 1500), shrinks=False), factor=8)
    with pytest.raises(InvalidRequest, match="10000 cover the picture"):
        request_of(services, picture=services.keep(photo(2000, 1500), shrinks=False), factor=4, tile=64, overlap=32)
    with pytest.raises(InvalidRequest, match="factor: expected one of 2, 4, 8"):
        request_of(services, factor=3)
    with pytest.raises(InvalidRequest, match="tile: expected a multiple of 32"):
        request_of(services, tile=100)
    with pytest.raises(InvalidRequest, match="creativity"):
        request_of(services, creativity=0.01)
    with pytest.raises(NotFound, match="choose the picture again"):
        request_of(services, picture="0" * 64)
    picture = services.keep(photo(64, 64))
    with pytest.raises(InvalidRequest, match="128 x 128, 2 times the picture"):
        services.resolve(prompt="", width=256, height=128, upscale=Upscale(image=picture))
    assert request_of(services).upscale is not None


def test_an_enlargement_is_a_picture_of_the_history_like_any_other(services: Services) -> None:
    request = request_of(services, factor=4)
    events = list(services.generate(request, tab=TAB))
    result = events[-1]
    assert isinstance(result, GenerationResult)
    assert {event.num_tiles for event in events if isinstance(event, StepDone)} == {20}
    [entry] = services.history.search(tab=TAB)
    assert entry.request == request == services.history.read_parameters(entry.path)
    assert (entry.width, entry.height) == (512, 384)
    report = entry.receipt["upscale"]
    assert (report["num_tiles"], report["num_refined"]) == (20, 20)
    assert report["psnr"] > 20
    upscale = request.upscale
    assert upscale is not None
    services.history.inputs.tidy(services.history._index.input_pictures())
    services.history.delete([entry.id])
    assert services.history.inputs.path(upscale.image) is None


def test_a_stop_keeps_the_tiles_that_are_done(services: Services) -> None:
    stop = threading.Event()
    events = []
    for event in services.generate(request_of(services, factor=8), tab=TAB, stop=stop):
        events.append(event)
        if isinstance(event, StepDone) and event.tile == 5:
            stop.set()
    result = events[-1]
    assert isinstance(result, GenerationResult)
    assert result.receipt.upscale is not None
    assert (result.receipt.upscale.num_refined, result.receipt.upscale.num_tiles) == (5, 88)
    assert result.images[0].history_id is not None


def test_whoever_goes_away_leaves_the_tiles_that_are_done_in_the_history(services: Services) -> None:
    events = services.generate(request_of(services, factor=8), tab=TAB)
    for event in events:
        if isinstance(event, StepDone) and event.tile == 3:
            break
    events.close()  # type: ignore[attr-defined]
    [entry] = services.history.search(tab=TAB)
    assert entry.receipt["upscale"]["num_refined"] == 3
    assert services._lease.num_waiting == 0
    assert list(services.generate(services.resolve(prompt="x")))


def test_seams_are_found_again_in_a_saved_picture_and_those_that_show_can_be_redone(services: Services) -> None:
    request = request_of(services, factor=4)
    *_, result = services.generate(request, tab=TAB)
    assert isinstance(result, GenerationResult)
    id = result.images[0].history_id
    assert id is not None
    seams = services.upscales.measure(id).seams
    assert result.receipt.upscale is not None
    assert seams.ratio == pytest.approx(result.receipt.upscale.seam_ratio)
    with pytest.raises(InvalidRequest, match="below this picture's worst seam") as caught:
        services.upscales.mend(id, 90.0)
    assert caught.value.field == "threshold"
    if seams.worst > 1.0:
        mending = services.upscales.mend(id, 1.0).upscale
        assert mending is not None
        assert mending.mend is not None
        assert services.picture(mending.mend).size == (512, 384)
    *_, plain = services.generate(services.resolve(prompt="a mug"))
    assert isinstance(plain, GenerationResult)
    with pytest.raises(NotFound, match="was not enlarged in tiles"):
        services.upscales.measure(str(plain.images[0].history_id))


@pytest.mark.slow
def test_a_picture_of_64_megapixels_is_still_in_the_history_after_a_restart(services: Services, tmp_path: Path) -> None:
    request = request_of(services, picture=services.keep(Image.new("RGB", (1000, 1000), "navy")), factor=8, tile=1024,
                         control="none", model="sdxl", overlap=128)  # fmt: skip
    *_, result = services.generate(request, tab=TAB, previews=False)
    assert isinstance(result, GenerationResult)
    path = result.images[0].path
    assert path is not None
    description = read_description(path)
    assert description is not None
    services.history._index.remove([str(result.images[0].history_id)])
    services.history._reconcile()
    assert [entry.width for entry in services.history.search(tab=TAB)] == [8000]
