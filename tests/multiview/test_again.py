"""A sheet of views remembers the picture it was drawn from: drawn again, restored into the tab, forgotten with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image, ImageDraw

from studio.catalog import Catalog
from studio.conditions import ViewsOf
from studio.engine.fake import FakeEngine
from studio.engine.multiview import WonderEngine
from studio.errors import NotFound
from studio.gpu import DeviceLease
from studio.history import History, HistoryEntry
from studio.multiviews import TAB, Multiviews
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationRequest, GenerationResult
from studio.ui.destinations import SettingsTaker, either
from studio.ui.multiview.layout import Parts, build_inputs, build_result
from studio.ui.multiview.tab import ViewsOnPage, build_multiview, no_views
from tests.multiview.tiny_views import write_studio


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    assets, presets = write_studio(tmp_path)
    settings = Settings(data_dir=tmp_path / "data", assets_dir=assets, presets_dir=presets)
    catalog = Catalog.load(presets)
    with (
        History(settings.data_dir, served_dir=settings.served_dir) as history,
        closing(WonderEngine(catalog, assets_dir=assets, device="cpu", dtype="fp32", offline=True)) as views,
    ):
        yield Services(
            settings, catalog, FakeEngine(catalog, step_seconds=0), history, DeviceLease(), None, views
        )  # fmt: skip


@pytest.fixture
def views(services: Services) -> Multiviews:
    assert services.multiview is not None
    return services.multiview


def cut_out() -> Image.Image:
    """An object on nothing."""
    image = Image.new("RGBA", (90, 70))
    ImageDraw.Draw(image).ellipse((20, 10, 60, 60), fill=(200, 60, 30, 255))
    return image


def drawn(services: Services, views: Multiviews) -> tuple[HistoryEntry, bytes]:
    """A saved sheet of the cut-out object, and its pixels."""
    given = ViewsOf(image=views.keep(cut_out()), background="alpha")
    request = views.resolve(steps=1, guidance=1.5, seed=11, accelerator_strength=0.5, views_of=given)
    *_, result = views.draw(request, previews=False)
    assert isinstance(result, GenerationResult)
    [image] = result.images
    assert image.history_id is not None
    return services.history.get(image.history_id), image.image.tobytes()


def test_its_file_names_its_picture_and_draws_the_same_again(
    services: Services, views: Multiviews, tmp_path: Path
) -> None:
    entry, pixels = drawn(services, views)
    request = services.history.read_parameters(entry.path)
    assert request == entry.request
    assert request.views_of is not None
    kept = services.picture(request.views_of.image)
    assert (kept.mode, kept.tobytes()) == ("RGBA", cut_out().tobytes())
    *_, again = views.draw(request, previews=False)
    assert isinstance(again, GenerationResult)
    assert again.images[0].image.tobytes() == pixels
    for folder in ("outputs", "inputs"):  # a restart without the index, which is made anew from the files
        shutil.copytree(services.settings.data_dir / folder, tmp_path / "next" / folder)
    with History(tmp_path / "next") as restarted:
        assert restarted.search(tab=TAB)[0].request == request
        assert restarted.inputs.open(request.views_of.image).tobytes() == cut_out().tobytes()
        restarted.delete([each.id for each in restarted.search(tab=TAB)])
        with pytest.raises(NotFound, match="choose the picture again"):
            restarted.inputs.open(request.views_of.image)


def test_restoring_it_brings_its_picture_and_its_choices_back_into_the_tab(
    services: Services, views: Multiviews
) -> None:
    entry, _ = drawn(services, views)
    with gr.Blocks():
        page = ViewsOnPage(services, views, Parts(**build_inputs(views), **build_result()))
    updates = page.show(entry.request)
    parts = page.parts
    assert set(updates) <= set(parts.settings)
    assert updates[parts.picture].tobytes() == cut_out().tobytes()
    assert "What the network will see" in updates[parts.seen]
    values = {part: getattr(part, "value", None) for part in parts.choices}
    for part, update in updates.items():
        values[part] = update["value"] if isinstance(update, dict) else update
    assert page._request(values) == entry.request


def test_settings_of_views_go_to_their_tab_and_without_a_network_a_sentence_says_so(
    services: Services, views: Multiviews
) -> None:
    entry, _ = drawn(services, views)
    plain = SettingsTaker(tab_id="plain", outputs=[], take=lambda _: {})
    with gr.Blocks():
        source, taker, _ = build_multiview(services, views)
        assert not source.row.visible, "there is nothing to send yet"
    for there in (taker, no_views()):
        settings = either(plain, there, lambda request: request.views_of is not None)
        assert settings.tab_for(entry.request) == TAB
        assert settings.tab_for(GenerationRequest(prompt="x")) == "plain"
    assert taker.take(entry.request)
    with pytest.raises(NotFound, match="no network that draws views is here"):
        no_views().take(entry.request)
