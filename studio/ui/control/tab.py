"""The Control tab: drawings that follow pictures. The form of every tab, and above it what to follow.

It draws by the same path as text to image: `ControlDrawing` only adds conditions to the request. This module does not
know how a map steers a network.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.conditions import InitialImage
from studio.errors import InvalidRequest, NotFound, StudioError
from studio.types import CONDITIONS, GenerationRequest
from studio.ui.control.examples import example_request, examples_html
from studio.ui.control.fields import (
    ControlFields,
    UnitFields,
    Updates,
    Values,
    control_facts_html,
)
from studio.ui.control.lack import lack_in_words, of_kind, off_or_lacking
from studio.ui.control.layout import build_control_fields
from studio.ui.destinations import Destination, SettingsTaker, Source
from studio.ui.editor_pictures import drawn_picture
from studio.ui.feedback import failure_html, field_error_html
from studio.ui.form import Form
from studio.ui.form_events import LATEST, connect_form
from studio.ui.form_layout import build_form
from studio.ui.plain_html import pickable_html, picked, plain_html
from studio.ui.text_to_image import Drawing, Result, build_result, connect_generation, connect_result

if TYPE_CHECKING:
    from studio.services import Services

TAB_ID = "control"
TITLE = "Control"
EMPTY = (
    '<div class="stage empty"><h2>Draw what a picture shows</h2><p>Bring a picture at the left: begin from it, paint '
    "over a part to draw that anew, or let a control unit follow its edges, depth or pose. Then say in words what it "
    "shall become. Or click an example there.</p></div>"
)
OF_PICTURES = (
    "control", "control_image", "control_weight", "control_start", "control_end", "control_resize",
    "reference_image", "reference_adapter", "reference_scale", "reference_mask",
    "initial_image", "initial_resize", "mask", "strength",
)  # fmt: skip
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_control(services: Services, tab: gr.Tab) -> tuple[Source, SettingsTaker, tuple[Destination, ...]]:
    """Put the tab's content on the page, in the current context; say what it gives to and takes from other tabs."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
            shown = pickable_html(examples_html(services), elem_id=f"{TAB_ID}-examples")
            fields = build_control_fields(services, TAB_ID)
            place = plain_html(elem_classes="field-error-place", elem_id=f"{TAB_ID}-error-picture")
            form = with_errors_of_pictures(build_form(services, TAB_ID), place)
        with gr.Column(scale=8, min_width=300, elem_classes="output"):
            result = build_result(TAB_ID, EMPTY)
    connect_form(form, services)
    drawing = ControlDrawing(services, form, result, fields)
    connect_generation(drawing)
    connect_result(services, form, result, TAB_ID)
    _connect_fields(services, form, fields, tab)

    def take(request: GenerationRequest) -> Updates:
        return {**form.show(request, services), **fields.show(request, services)}

    def show_example(event: gr.EventData) -> Updates:
        return take(example_request(services, picked(event)))

    shown.select(show_example, None, [*form.outputs, *fields.outputs], **QUIETLY)
    taker = SettingsTaker(tab_id=TAB_ID, outputs=[*form.outputs, *fields.outputs], take=take)
    return Source(row=result.actions, chosen=result.chosen), taker, _destinations(services, form, fields)


def with_errors_of_pictures(form: Form, place: gr.HTML) -> Form:
    """The form with a place for errors about pictures, above the prompt."""
    return replace(form, errors={**form.errors, **dict.fromkeys(OF_PICTURES, place)})


class ControlDrawing(Drawing):
    """Generations with the conditions that stand on the page."""

    tab_id = TAB_ID
    empty = EMPTY

    def __init__(self, services: Services, form: Form, result: Result, fields: ControlFields) -> None:
        super().__init__(services, form, result)
        self.fields = fields

    @property
    def inputs(self) -> set[Any]:
        return {*self.form.inputs, *self.fields.inputs}

    def make_request(self, values: Values) -> GenerationRequest:
        plain = super().make_request(values)
        conditions = self.fields.conditions(values, self.services, (plain.width, plain.height))
        if not any(conditions.values()):
            raise self._nothing_to_follow(values, plain.model)
        return self.services.resolve(**{**_choices(plain), **conditions})

    def _nothing_to_follow(self, values: Values, model: str) -> InvalidRequest:
        """Why there are no conditions: a picture whose picker is off, a model that has none to pick, or no picture."""
        units = [each for each in self.fields.units if values[each.map_id] or drawn_picture(values[each.picture])]
        references = [each for each in self.fields.references if values[each.picture]]
        found, title = self.services.controls(model), self.services.catalog.model(model).title
        if units or references:
            return off_or_lacking(found, "controlnet" if units else "ip_adapter", title)
        expected = "a picture to begin from, or a control unit or reference with its picture"
        return InvalidRequest("initial_image", expected, "nothing")


def _choices(request: GenerationRequest) -> dict[str, Any]:
    """A request's fields without its conditions, as `Services.resolve` takes them."""
    return {name: getattr(request, name) for name in GenerationRequest.__dataclass_fields__ if name not in CONDITIONS}


# --- what the fields do -----------------------------------------------------------------------------------------------


def _connect_fields(services: Services, form: Form, fields: ControlFields, tab: gr.Tab) -> None:
    def offer(model: str) -> Updates:
        """The controls of the model that stands there."""
        return fields.offer(services.controls(model), services.catalog.model(model).title)

    def drop(values: Values) -> Updates:
        """What was chosen for another model, by what stands there once the change is complete: a request that is shown
        brings its model and its controls together, and these must not go."""
        return fields.drop(services.controls(values[form.model]), values)

    lists: dict[str, Any] = {**LATEST, "preprocess": False}
    offered = gr.on([tab.select, form.model.change], offer, form.model, fields.outputs, **lists)
    offered.then(drop, {form.model, *fields.pickers}, fields.outputs, **lists)
    for unit in fields.units:
        _connect_unit(services, form, fields, unit)
    for each in fields.references:
        each.adapter.input(partial(_choose_adapter, services), each.adapter, [each.facts, each.scale], **LATEST)


def _connect_unit(services: Services, form: Form, fields: ControlFields, unit: UnitFields) -> None:
    def make(values: Values) -> Updates:
        """The map of the unit's picture, as drawing would make it; a restored map without its picture stays."""
        if values[unit.map_id] and drawn_picture(values[unit.picture]) is None:
            return {unit.words: ""}
        try:
            size = int(values[form.width]), int(values[form.height])
            id = fields.map_of(unit, {**values, unit.map_id: None}, services, size)
        except InvalidRequest as error:
            return {unit.words: field_error_html(error), unit.map: gr.update(visible=False), unit.map_id: None}
        except (StudioError, TypeError) as error:
            return {unit.words: failure_html(error), unit.map: gr.update(visible=False), unit.map_id: None}
        return {unit.words: "", unit.map: gr.update(value=services.picture(id), visible=True), unit.map_id: id}

    shown = [unit.words, unit.map, unit.map_id]
    unit.make.click(make, {*unit.inputs, form.width, form.height}, shown, **QUIETLY)
    forget = {unit.map_id: None, unit.map: gr.update(visible=False), unit.words: ""}
    gr.on(
        [unit.picture.input, unit.annotator.input, unit.resize.input], lambda: forget, None, shown, queue=False,
        **QUIETLY,
    )  # fmt: skip
    unit.control.input(
        partial(_choose_control, services, unit), {unit.control, unit.annotator},
        [unit.facts, unit.annotator, unit.weight, *shown], **LATEST,
    )  # fmt: skip


def _choose_control(services: Services, unit: UnitFields, values: Values) -> Updates:
    """The facts of a ControlNet, its annotator and its recommended weight; a map by another annotator goes."""
    if not values[unit.control]:
        return {unit.facts: ""}
    spec = services.catalog.control(values[unit.control])
    updates: Updates = {unit.facts: control_facts_html(spec), unit.weight: spec.recommended_weight}
    if spec.annotator != values[unit.annotator]:
        updates |= {unit.annotator: spec.annotator, unit.map_id: None, unit.map: gr.update(visible=False)}
    return updates


def _choose_adapter(services: Services, id: str) -> tuple[Any, Any]:
    if not id:
        return "", gr.skip()
    spec = services.catalog.control(id)
    return control_facts_html(spec), spec.recommended_weight


# --- pictures from other tabs -----------------------------------------------------------------------------------------


def _destinations(services: Services, form: Form, fields: ControlFields) -> tuple[Destination, ...]:
    """Begin from a picture, follow it, or take it as a reference."""
    unit, reference = fields.units[0], fields.references[0]

    def begin(history_id: str) -> Updates:
        entry = services.history.get(history_id)
        image = services.keep(entry.path, "initial_image")
        shown = fields.show_initial(InitialImage(image=image), services)
        return {**shown, form.prompt: entry.prompt, form.width: entry.width, form.height: entry.height}

    def follow(history_id: str, model: str, control: str, annotator: str) -> Updates:
        chosen = _pick(services, model, "controlnet", control)
        picture = {"background": str(services.history.get(history_id).path), "layers": [], "composite": None}
        values: dict[Any, Any] = {unit.control: chosen, unit.annotator: annotator}
        facts = {} if chosen == control else _choose_control(services, unit, values)
        return {
            unit.fold: gr.update(open=True), unit.control: chosen, **facts, unit.picture: picture, unit.words: "",
            unit.map_id: None, unit.map: gr.update(visible=False),
        }  # fmt: skip

    def refer(history_id: str, model: str, adapter: str) -> Updates:
        chosen = _pick(services, model, "ip_adapter", adapter)
        path = services.history.get(history_id).path
        facts, scale = (gr.skip(), gr.skip()) if chosen == adapter else _choose_adapter(services, chosen)
        return {
            reference.fold: gr.update(open=True), reference.adapter: chosen, reference.facts: facts,
            reference.scale: scale, reference.picture: services.picture(services.keep(path)),
        }  # fmt: skip

    begun = [*fields.initial.outputs, form.prompt, form.width, form.height]
    followed = [
        unit.fold, unit.control, unit.facts, unit.annotator, unit.weight, unit.picture, unit.map_id, unit.map,
        unit.words,
    ]  # fmt: skip
    referred = [reference.fold, reference.adapter, reference.facts, reference.scale, reference.picture]
    return (
        Destination(title="Begin from it", tab_id=TAB_ID, outputs=begun, receive=begin),
        Destination(
            title="Follow it", tab_id=TAB_ID, outputs=followed, receive=follow,
            inputs=[form.model, unit.control, unit.annotator],
        ),
        Destination(
            title="Refer to it", tab_id=TAB_ID, outputs=referred, receive=refer, inputs=[form.model, reference.adapter]
        ),
    )  # fmt: skip


def _pick(services: Services, model: str, kind: str, chosen: str) -> str:
    """What is chosen where it fits the model, else the first that is on disk; off where all must be downloaded first.

    Raises `NotFound` with what to do where the model has none.
    """
    found = of_kind(services.controls(model), kind)
    if not found:
        title = f"{services.catalog.model(model).title}, the model in the {TITLE} tab,"
        raise NotFound(lack_in_words(kind, title))
    if chosen in {each.spec.id for each in found}:
        return chosen
    return next((each.spec.id for each in found if each.on_disk), "")
