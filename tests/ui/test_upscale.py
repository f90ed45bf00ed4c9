"""The Upscale tab without a browser: from the page's values to a request, to the comparison, and back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from studio.conditions import InitialImage, ViewsOf
from studio.services import Services
from studio.types import GenerationRequest
from studio.ui import layout
from studio.ui.destinations import Destination, SettingsTaker
from studio.ui.text_to_image import build_text_to_image
from studio.ui.upscale.tab import Enlarging, build_upscale
from studio.upscales import TAB
from tests.test_inputs import photo
from tests.ui.test_control import after

SESSION: Any = SimpleNamespace(session_hash="a session")


@pytest.fixture(scope="module")
def built(services: Services) -> tuple[Enlarging, Destination]:
    with gr.Blocks(), gr.Tabs() as tabs:
        with gr.Tab("one"):
            _, _, starter = build_text_to_image(services)
        with gr.Tab("two"):
            _, taker, place = build_upscale(services, starter, tabs)
    assert taker.take.__self__ is not None  # type: ignore[attr-defined]
    return taker.take.__self__, place  # type: ignore[attr-defined]


@pytest.fixture
def drawing(built: tuple[Enlarging, Destination]) -> Enlarging:
    return built[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("given") / "small.png"
    photo(100, 70).save(path)
    return str(path)


def page(drawing: Enlarging, changes: dict[Any, Any]) -> dict[Any, Any]:
    """The page's values at first sight, with these changed."""
    return {component: component.value for component in drawing.inputs} | changes


def test_at_first_sight_it_says_what_the_model_does_best_with(drawing: Enlarging, file: str) -> None:
    request = drawing.make_request(page(drawing, {drawing.fields.picture: file}))
    assert request.upscale is not None
    assert (request.steps, request.guidance.scales) == (8, (1.0,))
    assert (request.upscale.tile, request.upscale.overlap, request.width, request.height) == (128, 32, 200, 140)


def test_the_cost_stands_there_before_the_click_and_so_does_what_is_wrong(drawing: Enlarging, file: str) -> None:
    fields = drawing.fields
    known = drawing.estimate(page(drawing, {fields.picture: file, fields.factor: 8}))
    assert "800 × 560 pixels: 48 tiles, 96 network calls" in known[fields.estimate]
    assert "the last 2 of 8 steps run" in known[fields.estimate]
    wrong = drawing.estimate(page(drawing, {fields.picture: file, fields.overlap: 128}))
    assert "Overlap: expected a whole number from 24 to 64" in wrong[fields.error]
    assert wrong[fields.estimate] == ""
    assert drawing.estimate(page(drawing, {}))[fields.estimate] == ""


def test_it_ends_with_both_pictures_of_one_size_and_the_measures(drawing: Enlarging, file: str) -> None:
    fields, result, finished = drawing.fields, drawing.result, drawing.finished
    updates = list(drawing.draw(page(drawing, {fields.picture: file, fields.factor: 4}), SESSION))
    words = [each[result.words] for each in updates if result.words in each]
    assert "Tile 3 of 12: window 4 of 4, step 2 of 2." in words
    assert any("after tile 12 of 12" in str(each.get(result.stage)) for each in updates)
    done = updates[-1]
    before, after_it = (Image.open(path) for path in done[finished.slider])
    assert before.size == after_it.size == (400, 280)
    assert "dB" in done[finished.measures]
    id = done[result.chosen]
    assert "of tile border above 2" in drawing.heat(id, 2.0)[finished.heat]
    refused = list(drawing.redo({result.chosen: id, finished.threshold: 9.0}, SESSION))[-1]
    assert "worst seam" in refused[fields.error]


def test_nothing_to_enlarge_is_said_and_the_next_works(drawing: Enlarging, file: str, tmp_path: Path) -> None:
    fields = drawing.fields
    assert "a picture" in list(drawing.draw(page(drawing, {}), SESSION))[-1][fields.error]
    (tmp_path / "empty.png").touch()
    empty = page(drawing, {fields.picture: str(tmp_path / "empty.png")})
    assert "an empty file" in list(drawing.draw(empty, SESSION))[-1][fields.error]
    *_, done = drawing.draw(page(drawing, {fields.picture: file}), SESSION)
    assert done[drawing.result.chosen]


def test_cancel_keeps_the_tiles_that_are_done(drawing: Enlarging, file: str, services: Services) -> None:
    updates: list[dict[Any, Any]] = []
    for each in drawing.draw(page(drawing, {drawing.fields.picture: file, drawing.fields.factor: 8}), SESSION):
        updates.append(each)
        if str(each.get(drawing.result.words)).startswith("Tile 5 of 48"):
            drawing.cancel(SESSION)
    report = services.history.get(updates[-1][drawing.result.chosen]).receipt["upscale"]
    assert 5 <= report["num_refined"] < 48


def test_a_request_shown_on_the_page_is_read_back_the_same(drawing: Enlarging, file: str, services: Services) -> None:
    fields = drawing.fields
    wanted = drawing.make_request(
        page(drawing, {fields.picture: file, fields.factor: 4, fields.tile: 96, fields.overlap: 24,
                       fields.creativity: 0.5, drawing.form.seed: 11, drawing.form.prompt: "a mug"})
    )  # fmt: skip
    values = after(page(drawing, {}), drawing.show(wanted))
    assert services.keep(values[fields.picture], shrinks=False) == wanted.upscale.image  # type: ignore[union-attr]
    values[fields.picture] = file  # the browser hands a file over
    assert drawing.make_request(values) == wanted


def test_pictures_come_from_other_tabs_with_their_prompt_and_model(
    built: tuple[Enlarging, Destination], services: Services
) -> None:
    drawing, place = built
    *_, result = services.generate(services.resolve(prompt="a blue mug", model="sd15", width=64, height=64, seed=1))
    updates = place.receive(result.images[0].history_id)  # type: ignore[union-attr]
    assert set(updates) <= set(place.outputs)
    values = after(page(drawing, {}), updates)
    request = drawing.make_request(values)
    assert (request.prompt, request.model, request.steps) == ("a blue mug", "sd15", 4)
    assert request.upscale is not None
    assert (request.upscale.tile, request.upscale.control, request.width) == (512, "sd15-tile", 128)


def test_settings_of_an_enlargement_go_to_its_own_tab(services: Services) -> None:
    tabs = ("plain", "following", TAB, "views")
    takers = [SettingsTaker(tab_id=name, outputs=[], take=lambda _: {}) for name in tabs]
    of_all = layout.settings_of(*takers)
    kept = services.keep(photo())
    request = services.upscales.resolve(kept, model="tabletop", prompt="")
    assert of_all.tab_for(request) == TAB
    assert of_all.tab_for(GenerationRequest(prompt="x")) == "plain"
    assert of_all.tab_for(GenerationRequest(prompt="x", initial=InitialImage(image=kept))) == "following"
    assert of_all.tab_for(GenerationRequest(prompt="", views_of=ViewsOf(image=kept))) == "views"


def test_the_whole_page_is_built_with_the_tab(services: Services) -> None:
    with layout.build(services) as built:
        labels = [block.label for block in built.blocks.values() if isinstance(block, gr.Tab)]
    assert labels[:3] == ["Text to image", "Control", "Upscale"]
