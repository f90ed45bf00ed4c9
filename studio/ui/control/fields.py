"""The Control tab's own inputs: control units, references, a picture to begin from; and the values of a request.

A unit's picture becomes a map by its annotator, at the size of the canvas; the map is shown, kept by its content, and
used again until its picture or its annotator changes. Pictures go through `Services`, which refuses what no drawing can
use. This module does not know where the fields stand on the page, nor what draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from studio.conditions import ControlUnit, InitialImage, Reference
from studio.errors import InvalidRequest
from studio.specs import ControlSpec
from studio.types import GenerationRequest
from studio.ui.control.lack import lack_html, of_kind
from studio.ui.editor_pictures import as_layer, background, drawn_picture, painted
from studio.ui.feedback import bytes_in_words, licence_html

if TYPE_CHECKING:
    from studio.services import ControlStatus, Services

Values = Mapping[Component, Any]
Updates = dict[Any, Any]


@dataclass(frozen=True, kw_only=True)
class UnitFields:
    """One control unit; `map_id` is the kept map that its preview shows, `None` while there is none."""

    fold: gr.Accordion
    control: gr.Dropdown
    facts: gr.HTML
    picture: gr.ImageEditor
    annotator: gr.Dropdown
    make: gr.Button
    map: gr.Image
    words: gr.HTML
    weight: gr.Slider
    start: gr.Slider
    end: gr.Slider
    resize: gr.Radio
    map_id: gr.State

    @property
    def inputs(self) -> set[Any]:
        """Everything that chooses it."""
        return {self.control, self.picture, self.annotator, self.weight, self.start, self.end, self.resize, self.map_id}

    @property
    def outputs(self) -> list[Any]:
        """Everything that `show` writes."""
        return [self.fold, *self.inputs, self.facts, self.map, self.words]


@dataclass(frozen=True, kw_only=True)
class ReferenceFields:
    """One reference for an IP-Adapter."""

    fold: gr.Accordion
    adapter: gr.Dropdown
    facts: gr.HTML
    picture: gr.Image
    scale: gr.Slider
    mask: gr.Image

    @property
    def inputs(self) -> set[Any]:
        """Everything that chooses it."""
        return {self.adapter, self.picture, self.scale, self.mask}

    @property
    def outputs(self) -> list[Any]:
        """Everything that `show` writes."""
        return [self.fold, *self.inputs, self.facts]


@dataclass(frozen=True, kw_only=True)
class InitialFields:
    """The picture to begin from; what is painted over it is the mask."""

    fold: gr.Accordion
    picture: gr.ImageEditor
    strength: gr.Slider
    resize: gr.Radio

    @property
    def inputs(self) -> set[Any]:
        """Everything that chooses it."""
        return {self.picture, self.strength, self.resize}

    @property
    def outputs(self) -> list[Any]:
        """Everything that `show` writes."""
        return [self.fold, *self.inputs]


@dataclass(frozen=True, kw_only=True)
class ControlFields:
    """All pictures that a drawing can follow."""

    initial: InitialFields
    units: tuple[UnitFields, ...]
    references: tuple[ReferenceFields, ...]
    none_here: gr.HTML

    @property
    def inputs(self) -> set[Any]:
        """Everything `conditions` reads."""
        return {each for part in (self.initial, *self.units, *self.references) for each in part.inputs}

    @property
    def outputs(self) -> list[Any]:
        """Everything `show` and `offer` write."""
        return [*(each for part in (self.initial, *self.units, *self.references) for each in part.outputs),
                self.none_here]  # fmt: skip

    @property
    def pickers(self) -> dict[gr.Dropdown, gr.HTML]:
        """What chooses a control, and where its facts stand."""
        units = {unit.control: unit.facts for unit in self.units}
        return units | {each.adapter: each.facts for each in self.references}

    # --- from the page to a request ---

    def conditions(self, values: Values, services: Services, size: tuple[int, int]) -> dict[str, Any]:
        """`controls`, `references` and `initial` for `Services.resolve`. Raises `InvalidRequest`, `StudioError`."""
        controls = tuple(self._unit(unit, values, services, size) for unit in self.units if values[unit.control])
        references = tuple(
            self._reference(each, values, services)
            for each in self.references
            if values[each.adapter] and values[each.picture]
        )
        return {"controls": controls, "references": references, "initial": self._initial(values, services)}

    def map_of(self, unit: UnitFields, values: Values, services: Services, size: tuple[int, int]) -> str:
        """The kept map of a unit: the one it has, else made from its picture now."""
        if values[unit.map_id]:
            return values[unit.map_id]
        drawn = drawn_picture(values[unit.picture])
        if drawn is None:
            expected = "a picture or a drawing for every control unit that is on, or that unit off"
            raise InvalidRequest("control_image", expected, "nothing")
        picture = services.keep(drawn, "control_image")
        return services.annotate(picture, values[unit.annotator], size=size, resize=values[unit.resize])

    def _unit(self, unit: UnitFields, values: Values, services: Services, size: tuple[int, int]) -> ControlUnit:
        return ControlUnit(
            control=values[unit.control],
            image=self.map_of(unit, values, services, size),
            weight=values[unit.weight],
            start=values[unit.start],
            end=values[unit.end],
            resize=values[unit.resize],
        )

    def _reference(self, fields: ReferenceFields, values: Values, services: Services) -> Reference:
        image = services.keep(values[fields.picture], "reference_image")
        mask = values[fields.mask]
        return Reference(
            adapter=values[fields.adapter],
            image=image,
            scale=values[fields.scale],
            mask=None if not mask else services.keep(mask, "reference_mask"),
        )

    def _initial(self, values: Values, services: Services) -> InitialImage | None:
        edited = values[self.initial.picture]
        if background(edited) is None:
            return None
        image = services.keep(background(edited), "initial_image")
        mask = painted(edited)
        return InitialImage(
            image=image,
            strength=values[self.initial.strength],
            resize=values[self.initial.resize],
            mask=None if mask is None else services.keep_mask(mask, image),
        )

    # --- from a request to the page ---

    def show(self, request: GenerationRequest, services: Services) -> Updates:
        """Updates that make these fields say exactly the request's conditions. Raises `NotFound` for a lost picture."""
        updates = self.offer(services.controls(request.model), services.catalog.model(request.model).title)
        for picker, facts in self.pickers.items():
            updates |= {picker: _and(updates[picker], value=""), facts: ""}
        for unit in self.units:
            updates |= {unit.picture: None, unit.map: gr.update(visible=False), unit.map_id: None, unit.words: ""}
        for fields in self.references:
            updates |= {fields.picture: None, fields.mask: None}
        for unit, chosen in zip(self.units, request.controls, strict=False):
            updates |= _show_unit(unit, chosen, updates, services)
        for fields, reference in zip(self.references, request.references, strict=False):
            updates |= _show_reference(fields, reference, updates, services)
        updates |= self.show_initial(request.initial, services)
        if request.initial is None and (request.controls or request.references):
            updates[self.initial.fold] = gr.update(open=False)  # what is followed stands below it
        return updates

    def show_initial(self, initial: InitialImage | None, services: Services) -> Updates:
        """The picture to begin from, its mask painted on it."""
        fields = self.initial
        if initial is None:
            return {fields.picture: None}
        image = services.picture(initial.image)
        layers = [as_layer(services.picture(initial.mask))] if initial.mask else []
        return {
            fields.fold: gr.update(open=True),
            fields.picture: {"background": image, "layers": layers, "composite": None},
            fields.strength: initial.strength,
            fields.resize: initial.resize,
        }

    def offer(self, found: tuple[ControlStatus, ...], title: str) -> Updates:
        """The controls that fit the model of that title, which fields make sense with them, and what it lacks.

        What is chosen stays, also where it does not fit: see `drop`.
        """
        nets, adapters = of_kind(found, "controlnet"), of_kind(found, "ip_adapter")
        updates: Updates = {self.none_here: lack_html(found, title)}
        for unit in self.units:
            updates[unit.fold] = gr.update(visible=bool(nets))
            updates[unit.control] = gr.update(choices=control_choices(nets))
        for fields in self.references:
            updates[fields.fold] = gr.update(visible=bool(adapters))
            updates[fields.adapter] = gr.update(choices=control_choices(adapters))
        return updates

    def drop(self, found: tuple[ControlStatus, ...], values: Values) -> Updates:
        """Off where what is chosen is none of these controls."""
        ids = {"", *(each.spec.id for each in found)}
        lost = {picker: facts for picker, facts in self.pickers.items() if values[picker] not in ids}
        return {self.none_here: gr.skip(), **dict.fromkeys([*lost, *lost.values()], "")}


def control_choices(found: list[ControlStatus]) -> list[tuple[str, str]]:
    """What a picker offers: off, and each with its whereabouts."""
    return [("Off", ""), *((_label(each), each.spec.id) for each in found)]


def _label(status: ControlStatus) -> str:
    spec = status.spec
    if status.on_disk or spec.download_bytes is None:
        return spec.title
    return f"{spec.title} · {bytes_in_words(spec.download_bytes)} to download"


def control_facts_html(spec: ControlSpec) -> str:
    """One quiet line about a ControlNet or an IP-Adapter."""
    words = escape(" ".join(part for part in (spec.description, spec.reason) if part))
    return f'<p class="facts"><span>{words}</span>{licence_html(spec.license)}</p>'


def _and(update: Any, **more: Any) -> Any:
    """An update with more in it."""
    return gr.update(**{**(update if isinstance(update, dict) else {}), **more})


def _show_unit(unit: UnitFields, chosen: ControlUnit, updates: Updates, services: Services) -> Updates:
    return {
        unit.fold: _and(updates[unit.fold], open=True),
        unit.control: _and(updates[unit.control], value=chosen.control),
        unit.facts: control_facts_html(services.catalog.control(chosen.control)),
        unit.annotator: "none",
        unit.map: gr.update(value=services.picture(chosen.image), visible=True),
        unit.map_id: chosen.image,
        unit.weight: chosen.weight,
        unit.start: chosen.start,
        unit.end: chosen.end,
        unit.resize: chosen.resize,
    }


def _show_reference(fields: ReferenceFields, chosen: Reference, updates: Updates, services: Services) -> Updates:
    return {
        fields.fold: _and(updates[fields.fold], open=True),
        fields.adapter: _and(updates[fields.adapter], value=chosen.adapter),
        fields.facts: control_facts_html(services.catalog.control(chosen.adapter)),
        fields.picture: services.picture(chosen.image),
        fields.scale: chosen.scale,
        fields.mask: services.picture(chosen.mask) if chosen.mask else None,
    }
