"""The form's behaviour without a browser: handlers from values to updates, over real services and the fake engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from studio.catalog import Catalog
from studio.engine.fake import FakeEngine
from studio.errors import InvalidRequest, OutOfMemory
from studio.gpu import DeviceLease
from studio.history import History
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationRequest, Guidance
from studio.ui import feedback
from studio.ui.catalog_lists import CatalogLists
from studio.ui.form import FIELDS, Form, accelerator_choices
from studio.ui.form_events import FormActions
from studio.ui.form_layout import build_form
from studio.ui.text_to_image import Drawing, build_result

SESSION = SimpleNamespace(session_hash="a session")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("studio"))
    catalog = Catalog.load(settings.presets_dir)
    with History(settings.data_dir, served_dir=settings.served_dir) as history:
        yield Services(settings, catalog, FakeEngine(catalog, step_seconds=0.001), history, DeviceLease())


@pytest.fixture(scope="module")
def form(services: Services) -> Form:
    with gr.Blocks():
        return build_form(services, "test")


@pytest.fixture(scope="module")
def drawing(services: Services, form: Form) -> Drawing:
    with gr.Blocks():
        return Drawing(services, form, build_result("test", ""))


def page_of(form: Form, **changes) -> dict:
    """What the page hands over at first sight, with some fields changed."""
    values = {component: component.value for component in form.inputs}
    values[form.set_by_hand] = frozenset()
    return values | {getattr(form, field): value for field, value in changes.items()}


def after(values: dict, updates: dict) -> dict:
    """The page's values after updates, as the browser would apply them."""
    new = dict(values)
    for component, update in updates.items():
        if component in new:
            is_update = isinstance(update, dict) and update.get("__type__") == "update"
            new[component] = update.get("value", new[component]) if is_update else update
    return new


def request_of(form: Form, services: Services, values: dict) -> GenerationRequest:
    return services.resolve(**form.choices(values, FormActions(form, services).windows(values)))


def test_the_form_starts_with_what_the_catalogue_recommends(form: Form, services: Services) -> None:
    assert request_of(form, services, page_of(form, prompt="a cube", seed=7)) == services.resolve(
        prompt="a cube", seed=7
    )


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(scales=(1.0,)),
        Guidance(scales=(6.5,)),
        Guidance(scales=(7.5, 4.0, 4.0, 4.0)),
        Guidance(scales=(5.0, 4.0, 3.0, 2.0)),
        Guidance(scales=(7.0, 6.0, 5.0, 4.0, 3.0, 2.0), per="step"),
    ],
)
def test_a_request_survives_the_form(form: Form, services: Services, guidance) -> None:
    wanted = services.resolve(
        prompt="a cube",
        negative_prompt="fog",
        model="sd15",
        accelerator_strength=0.7,
        steps=6,
        guidance=guidance,
        width=192,
        height=64,
        seed=12,
        num_images=3,
    )
    values = after(page_of(form), form.show(wanted, services))
    assert request_of(form, services, values) == wanted
    assert values[form.set_by_hand] == frozenset(FIELDS)


def test_an_accelerator_fills_only_what_nobody_set(form: Form, services: Services) -> None:
    act = FormActions(form, services)
    values = page_of(form, accelerator="ddim", steps=7)
    values[form.set_by_hand] = act.mark("steps", frozenset())
    values = after(values, act.change_accelerator(values))
    chosen = request_of(form, services, values)
    assert chosen.steps == 7
    assert chosen.guidance.scales == services.catalog.accelerator("ddim").recommended_guidance

    values = after(values, act.follow(values))
    assert request_of(form, services, values).steps == services.catalog.accelerator("ddim").recommended_steps


def test_a_model_brings_its_accelerator_and_size(form: Form, services: Services) -> None:
    act = FormActions(form, services)
    values = page_of(form, model="sdxl")
    chosen = request_of(form, services, after(values, act.change_model(values)))
    assert (chosen.accelerator, chosen.width) == ("perflow-sdxl", 1024)

    values = page_of(form, model="sdxl", accelerator="ddim", width=640)
    values[form.set_by_hand] = frozenset({"accelerator", "width"})
    chosen = request_of(form, services, after(values, act.change_model(values)))
    assert (chosen.accelerator, chosen.width, chosen.height) == ("ddim", 640, 1024)


def test_a_preset_fills_what_it_says_and_nothing_else(form: Form, services: Services) -> None:
    act = FormActions(form, services)
    values = page_of(form, prompt="mine", seed=-1)
    values = after(values, act.apply_preset(values, SimpleNamespace(pick="paper-cfg-sync")))
    chosen = request_of(form, services, values)
    assert chosen.guidance.scales == (7.5, 4.0, 4.0, 4.0)
    assert chosen.prompt == "mine"
    assert values[form.seed] == -1
    assert values[form.set_by_hand] == {"steps", "guidance"}


def test_the_plan_says_what_is_wrong_beside_the_field(form: Form, services: Services) -> None:
    updates = FormActions(form, services).refresh(page_of(form, width=100))
    assert "multiple of" in updates[form.errors["width"]]
    assert [field for field, place in form.errors.items() if updates[place]] == ["width"]


@pytest.mark.parametrize(("field", "value"), [("steps", 4.5), ("seed", None), ("width", 7), ("num_images", 17)])
def test_nonsense_names_its_field(form: Form, services: Services, field, value) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(form, services, page_of(form, **{field: value}))
    assert caught.value.field == field


def test_drawing_ends_with_the_picture_in_the_history(drawing: Drawing, services: Services) -> None:
    updates = list(drawing.draw(page_of(drawing.form, prompt="a cube", num_images=2), SESSION))
    pictures = [update[drawing.result.stage] for update in updates if drawing.result.stage in update]
    assert sum("preview" in html for html in pictures) == 8
    shown = updates[-1][drawing.result.shown]
    newest = services.history.search(limit=2)
    assert [picture.history_id for picture in shown.pictures] == [entry.id for entry in newest][::-1]
    assert updates[-1][drawing.form.cancel]["visible"] is False


def test_cancel_ends_within_one_step_and_saves_nothing(drawing: Drawing, services: Services) -> None:
    before = services.history.search()
    updates = drawing.draw(page_of(drawing.form, prompt="a cube", steps=32), SESSION)
    for _ in range(4):
        next(updates)
    drawing.cancel(SESSION)
    rest = list(updates)
    assert len(rest) == 1
    assert "Cancelled" in rest[0][drawing.result.words]
    assert services.history.search() == before


@pytest.mark.parametrize(
    ("error", "words"),
    [(OutOfMemory("Too big: try 512."), "Too big: try 512."), (RuntimeError("boom"), feedback.BROKE)],
)
def test_a_failure_is_said_and_the_button_comes_back(
    drawing: Drawing, services: Services, monkeypatch, error, words
) -> None:
    def fail(*_, **__):
        raise error
        yield

    monkeypatch.setattr(services, "generate", fail)
    last = list(drawing.draw(page_of(drawing.form, prompt="a cube"), SESSION))[-1]
    assert words in last[drawing.result.stage]
    assert "boom" not in last[drawing.result.stage]
    assert last[drawing.form.generate]["visible"] is True


def test_an_empty_prompt_is_refused_before_any_work(drawing: Drawing) -> None:
    updates = list(drawing.draw(page_of(drawing.form, prompt="  "), SESSION))
    assert len(updates) == 1
    assert "some words" in updates[0][drawing.form.errors["prompt"]]


@pytest.fixture
def lists(form: Form, services: Services) -> Iterator[CatalogLists]:
    with gr.Blocks():
        yield CatalogLists(services, [(form.model, form.accelerator)])
    services.catalog.show_results(models=(), accelerators=())


def trained(services: Services, title: str = "Mine") -> None:
    """A run has brought forth an accelerator."""
    mine = replace(services.catalog.accelerator("perflow-tabletop"), id="run-mine", title=title)
    services.catalog.show_results(models=(), accelerators=(mine,))


def test_an_open_page_lists_what_was_trained_meanwhile_and_loses_what_was_deleted(
    form: Form, services: Services, lists: CatalogLists
) -> None:
    fresh = {**page_of(form), lists.made_for: ""}
    values = after(fresh, lists.refresh(fresh))
    assert lists.refresh(values) == {lists.made_for: gr.skip()}  # nothing new: nothing is sent
    trained(services)
    updates = lists.refresh(values)
    assert ("Mine", "run-mine") in updates[form.accelerator]["choices"]
    values = after(values, updates) | {form.accelerator: "run-mine"}
    services.catalog.show_results(models=(), accelerators=())
    updates = lists.refresh(values)
    assert updates[form.accelerator]["value"] == services.catalog.model(values[form.model]).default_accelerator
    assert "value" not in updates[form.model]
    gone = lists.refresh({**values, form.model: "run-gone"})
    assert gone[form.model]["value"] == services.default_model


def test_lists_asked_for_before_a_choice_and_answered_after_it_leave_it(
    form: Form, services: Services, lists: CatalogLists
) -> None:
    asked = {**page_of(form), lists.made_for: ""}
    trained(services)
    late = lists.refresh(asked)
    assert not any("value" in late[each] for each in (form.model, form.accelerator))
    wanted = services.resolve(prompt="", model="sd15", seed=0)
    values = after(after(asked, form.show(wanted, services)), late)
    assert (values[form.model], values[form.accelerator]) == (wanted.model, wanted.accelerator)
    mended = lists.refresh(values)  # its arrival asks again, for it was made for another model
    assert mended[form.accelerator]["choices"] == accelerator_choices(services.accelerators("sd15"))
    assert "value" not in mended[form.accelerator]
    assert lists.refresh(after(values, mended)) == {lists.made_for: gr.skip()}


def test_lists_of_another_model_wait_for_its_accelerator(form: Form, lists: CatalogLists) -> None:
    changing = {**page_of(form, model="sd15"), lists.made_for: ""}  # its answer, which brings one, is on its way
    assert lists.refresh(changing) == {lists.made_for: gr.skip()}


def test_no_answer_writes_back_what_it_was_asked_with(
    form: Form, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = FormActions(form, services)
    values = page_of(form, model="sdxl", accelerator="ddim")
    assert form.model not in act.change_model(values)
    updates = act.change_model({**values, form.set_by_hand: frozenset({"accelerator"})})
    assert "value" not in updates[form.accelerator]
    preset = replace(services.catalog.presets[0], id="another", request={"model": "sd15"})
    monkeypatch.setattr(services.catalog, "presets", (preset,))
    updates = act.apply_preset(page_of(form, accelerator="ddim"), SimpleNamespace(pick="another"))
    assert updates[form.model]["value"] == "sd15"
    assert "value" not in updates[form.accelerator]
