"""The Control tab without a browser: from the page's values to a request, and from a request to the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from studio.catalog import Catalog
from studio.conditions import ControlUnit, InitialImage, Reference
from studio.engine.fake import FakeEngine
from studio.errors import InvalidRequest, NotFound
from studio.gpu import DeviceLease
from studio.history import History
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationRequest
from studio.ui.control.examples import example_request, examples, examples_html
from studio.ui.control.layout import build_control_fields
from studio.ui.control.tab import ControlDrawing, build_control, with_errors_of_pictures
from studio.ui.destinations import either
from studio.ui.editor_pictures import background, drawn_picture, painted
from studio.ui.form_layout import build_form
from studio.ui.text_to_image import build_result
from tests.test_inputs import photo

SESSION = SimpleNamespace(session_hash="a session")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("studio"))
    catalog = Catalog.load(settings.presets_dir)
    with History(settings.data_dir, served_dir=settings.served_dir) as history:
        yield Services(settings, catalog, FakeEngine(catalog, step_seconds=0.001), history, DeviceLease())


@pytest.fixture(scope="module")
def drawing(services: Services) -> ControlDrawing:
    with gr.Blocks():
        fields = build_control_fields(services, "test")
        form = with_errors_of_pictures(build_form(services, "test"), gr.HTML())
        return ControlDrawing(services, form, build_result("test", ""), fields)


def edited(picture: Image.Image | None = None, paint: tuple[int, int, int, int] | None = None) -> dict[str, Any]:
    """What an editor hands over: an opaque background (white where there is none) and a layer of paint."""
    ground = picture or Image.new("RGB", (64, 64), "white")
    layer = Image.new("RGBA", ground.size)
    if paint:
        layer.paste("white", paint)
    return {"background": ground, "layers": [layer], "composite": None}


def after(values: dict[Any, Any], updates: dict[Any, Any]) -> dict[Any, Any]:
    """The page's values after updates, as the browser would apply them."""
    new = dict(values)
    for component, update in updates.items():
        if isinstance(update, dict) and "__type__" in update:
            new[component] = update.get("value", new.get(component))
        else:
            new[component] = update
    return new


def page(drawing: ControlDrawing, **changes: Any) -> dict[Any, Any]:
    """The page's values at first sight, with a prompt."""
    values = {component: component.value for component in drawing.inputs}
    return values | {drawing.form.prompt: "a red cube"} | changes.pop("values", {})


def test_an_editors_values_are_read_as_picture_drawing_and_mask() -> None:
    assert background(None) is background(edited()) is drawn_picture(edited()) is painted(edited()) is None
    assert background(edited(photo())) is not None
    mask = painted(edited(photo(), (8, 8, 24, 24)))
    assert mask is not None
    assert (mask.getpixel((10, 10)), mask.getpixel((40, 40))) == (255, 0)
    alone = drawn_picture(edited(None, (8, 8, 24, 24)))
    assert alone is not None
    assert (alone.getpixel((10, 10)), alone.getpixel((40, 40))) == ((255, 255, 255), (0, 0, 0))


def test_image_to_image_and_inpainting_come_from_the_editor(drawing: ControlDrawing, services: Services) -> None:
    initial = drawing.fields.initial
    plain = drawing.make_request(page(drawing, values={initial.picture: edited(photo())}))
    assert plain.initial is not None
    assert (plain.initial.mask, plain.initial.strength) == (None, 0.75)
    assert services.picture(plain.initial.image).tobytes() == photo().tobytes()
    painted_over = drawing.make_request(page(drawing, values={initial.picture: edited(photo(), (0, 0, 20, 48))}))
    assert painted_over.initial is not None
    assert painted_over.initial.mask is not None
    assert services.picture(painted_over.initial.mask).size == (64, 48)


def test_a_unit_makes_its_map_at_the_canvas(drawing: ControlDrawing, services: Services) -> None:
    unit = drawing.fields.units[1]
    values = {unit.control: "tabletop-canny", unit.annotator: "canny", unit.picture: edited(photo(), (8, 8, 30, 30))}
    request = drawing.make_request(page(drawing, values=values))
    [chosen] = request.controls
    assert chosen.control == "tabletop-canny"
    assert services.picture(chosen.image).size == (request.width, request.height)
    again = drawing.make_request(page(drawing, values={**values, unit.map_id: chosen.image, unit.picture: None}))
    assert again.controls == request.controls


def test_nothing_to_follow_and_a_unit_without_a_picture_are_said(drawing: ControlDrawing) -> None:
    with pytest.raises(InvalidRequest, match="a picture to begin from"):
        drawing.make_request(page(drawing))
    unit = drawing.fields.units[0]
    with pytest.raises(InvalidRequest, match="for every control unit that is on") as caught:
        drawing.make_request(page(drawing, values={unit.control: "tabletop-canny"}))
    assert caught.value.field == "control_image"
    updates = list(drawing.draw(page(drawing), SESSION))  # type: ignore[arg-type]
    place = drawing.form.errors["control_image"]
    assert "a picture to begin from" in updates[-1][place]


def test_a_drawing_ends_with_its_picture_and_the_next_works_after_a_refusal(drawing: ControlDrawing) -> None:
    initial = drawing.fields.initial
    weak = {initial.picture: edited(photo()), initial.strength: 0.1}
    *_, refused = drawing.draw(page(drawing, values=weak), SESSION)  # type: ignore[arg-type]
    assert "at least 0.25 with 4 steps" in refused[drawing.form.errors["strength"]]
    *_, done = drawing.draw(page(drawing, values={**weak, initial.strength: 0.5}), SESSION)  # type: ignore[arg-type]
    assert done[drawing.result.shown].request.initial.strength == 0.5


def test_a_request_shown_on_the_page_is_read_back_the_same(drawing: ControlDrawing, services: Services) -> None:
    picture = services.keep(photo())
    request = services.resolve(
        prompt="x", seed=4,
        controls=(ControlUnit(control="tabletop-tile", image=picture, weight=0.5, start=0.25, end=0.75),),
        references=(Reference(adapter="tabletop-ip", image=picture, scale=0.9),),
        initial=InitialImage(image=picture, strength=0.5, mask=services.keep_mask(_half(), picture)),
    )  # fmt: skip
    values = after(page(drawing), drawing.fields.show(request, services))
    form_values = after(values, drawing.form.show(request, services))
    reference = drawing.fields.references[0]
    path = services.history.inputs.path(picture)
    form_values[reference.picture] = str(path)  # the browser hands a file over
    assert drawing.make_request(form_values) == request


def _half() -> Image.Image:
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    return mask


def test_the_tab_takes_pictures_and_settings_from_other_tabs(services: Services) -> None:
    with gr.Blocks(), gr.Tabs(), gr.Tab("Control") as tab:
        source, taker, places = build_control(services, tab)
    assert source.chosen is not None
    assert [each.title for each in places] == ["Begin from it", "Follow it", "Refer to it"]
    *_, result = services.generate(services.resolve(prompt="a mug", seed=1))
    entry = services.history.get(result.images[0].history_id)  # type: ignore[union-attr]
    begin, follow, refer = places
    told = ((begin, ()), (follow, ("tabletop", "", "none")), (refer, ("tabletop", "")))
    chosen = set()
    for place, values in told:
        assert len(values) == len(place.inputs)
        updates = place.receive(entry.id, *values)
        assert set(updates) <= set(place.outputs)
        chosen |= {each for each in updates.values() if isinstance(each, str)}
    assert {"tabletop-canny", "tabletop-ip"} <= chosen  # a picker that was off now names what can be used
    kept = follow.receive(entry.id, "tabletop", "tabletop-depth", "none")
    assert "tabletop-depth" in kept.values()
    both = either(taker, replace(taker, tab_id="elsewhere"), lambda request: request.seed == 1)
    assert both.tab_for(GenerationRequest(prompt="x")) == "control"
    assert both.tab_for(GenerationRequest(prompt="x", seed=1)) == "elsewhere"


def test_where_a_model_has_nothing_to_follow_by_a_sentence_stands_and_nothing_moves(
    services: Services, drawing: ControlDrawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, result = services.generate(services.resolve(prompt="a mug", seed=1))
    id = result.images[0].history_id  # type: ignore[union-attr]
    with gr.Blocks(), gr.Tabs(), gr.Tab("Control") as tab:
        _, _, (_, follow, refer) = build_control(services, tab)
    fields = drawing.fields
    unit, reference = fields.units[0], fields.references[0]
    following = page(drawing, values={unit.picture: edited(photo())})
    referring = page(drawing, values={reference.picture: services.history.get(id).path})
    with pytest.raises(InvalidRequest, match="control: expected a choice of ControlNet beside the picture, got 'Off'"):
        drawing.make_request(following)
    with pytest.raises(InvalidRequest, match="reference_adapter: expected a choice of IP-Adapter"):
        drawing.make_request(referring)
    assert fields.offer(services.controls("sd15"), "SD 1.5")[fields.none_here] == ""
    monkeypatch.setattr(services._engine, "is_on_disk", lambda _: False)
    words = fields.offer(services.controls("tabletop"), "Tabletop")[fields.none_here]
    assert "No ControlNet for Tabletop is here yet" in words
    assert "No IP-Adapter for Tabletop is here yet" in words
    with pytest.raises(
        NotFound, match=r"No ControlNet for Tabletop .*the model in the Control tab, is here yet.*choose Stable"
    ):
        follow.receive(id, "tabletop", "", "none")
    with pytest.raises(NotFound, match="No IP-Adapter for Tabletop"):
        refer.receive(id, "tabletop", "")
    with pytest.raises(InvalidRequest, match=r"expected a model that has one .*Tabletop .*no ControlNet is here"):
        drawing.make_request(following)
    with pytest.raises(InvalidRequest, match=r"expected a model that has one .*no IP-Adapter is here"):
        drawing.make_request(referring)
    assert "" in follow.receive(id, "sd15", "", "none").values()  # nothing that needs a download is chosen unasked


def test_controls_are_offered_late_and_only_what_does_not_fit_is_dropped(
    drawing: ControlDrawing, services: Services
) -> None:
    fields = drawing.fields
    unit, reference = fields.units[0], fields.references[0]
    offered = fields.offer(services.controls("tabletop"), "Tabletop")
    assert not any("value" in offered[picker] for picker in fields.pickers)
    chosen = page(drawing, values={unit.control: "tabletop-canny", reference.adapter: "tabletop-ip"})
    assert fields.drop(services.controls("tabletop"), chosen) == {fields.none_here: gr.skip()}
    dropped = fields.drop(services.controls("sd15"), chosen)
    assert {picker for picker in fields.pickers if dropped.get(picker) == ""} == {unit.control, reference.adapter}
    plain = fields.show(services.resolve(prompt="x", model="tabletop"), services)
    assert all(plain[picker]["value"] == "" for picker in fields.pickers)


def test_every_example_is_a_request_that_its_chip_sets_up(drawing: ControlDrawing, services: Services) -> None:
    shown = examples(services)
    assert {spec.id for spec in shown} == {f"tabletop-{name}" for name in ("canny", "depth", "pose", "tile", "ip")}
    page_html = examples_html(services)
    for spec in shown:
        assert f'data-pick="{spec.id}"' in page_html
        request = example_request(services, spec.id)
        updates = {**drawing.form.show(request, services), **drawing.fields.show(request, services)}
        again = drawing.make_request(after(page(drawing), updates))
        assert (again.prompt, again.controls, again.references) == (
            request.prompt, request.controls, request.references,
        )  # fmt: skip
    with pytest.raises(InvalidRequest, match="one of"):
        example_request(services, "telepathy")
