"""What the form does by itself: the plan before the click, recommendations that never overwrite, presets, seeds.

A value counts as set by hand from the moment a person changes it; models and accelerators then only *offer* theirs.
This module does not know who draws, nor anything about results.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from studio.errors import InvalidRequest
from studio.types import GenerationRequest
from studio.ui.catalog_lists import CatalogLists
from studio.ui.form import (
    ADJUSTABLE,
    FIELDS,
    Form,
    Updates,
    Values,
    accelerator_facts_html,
    advice_html,
    num_time_windows,
)
from studio.ui.form_layout import EXAMPLES
from studio.ui.plain_html import picked
from studio.ui.windows_view import grid_html

if TYPE_CHECKING:
    from studio.services import Services

NO_PLAN = '<p class="facts"><span>The plan is back as soon as every value makes sense.</span></p>'
LISTS_EVERY_SECONDS = 5
QUIETLY: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# A choice made while the one before is still being answered must not be dropped, which is gradio's default.
LATEST: dict[str, Any] = {**QUIETLY, "trigger_mode": "always_last"}


def connect_form(form: Form, services: Services) -> None:
    """Give the form its own behaviour; call once, inside the Blocks."""
    act = FormActions(form, services)
    everything = {*form.inputs, form.set_by_hand}
    outputs = list(form.inputs)
    for field in ("accelerator", "accelerator_strength", "steps", "guidance", "width", "height"):
        touched = _listeners(form.components_of(field), "input")
        gr.on(touched, partial(act.mark, field), form.set_by_hand, form.set_by_hand, **QUIETLY)
    form.model.input(act.change_model, everything, [*outputs, *form.facts], **LATEST)
    form.accelerator.input(act.change_accelerator, everything, [*outputs, *form.facts], **LATEST)
    form.schedule.mode.input(act.change_mode, everything, list(form.schedule.components), **LATEST)
    form.presets.select(act.apply_preset, everything, form.outputs, **QUIETLY)
    CatalogLists(services, [(form.model, form.accelerator)]).connect(gr.Timer(LISTS_EVERY_SECONDS).tick)
    form.follow_advice.click(act.follow, everything, [*outputs, form.set_by_hand], **QUIETLY)
    form.examples.select(act.example, None, form.prompt, **QUIETLY)
    form.dice.click(lambda: -1, None, form.seed, **QUIETLY)
    planned = [each for field in FIELDS if "prompt" not in field for each in form.components_of(field)]
    shown = [form.grid, form.advice, form.follow_advice, *form.error_places]
    gr.on(_listeners(planned, "change"), act.refresh, form.inputs, shown, trigger_mode="always_last", **QUIETLY)


def _listeners(components: Iterable[Component], event: str) -> list[Any]:
    return [getattr(component, event) for component in components]


class FormActions:
    """The handlers, each from the page's values to updates of the page."""

    def __init__(self, form: Form, services: Services) -> None:
        self._form, self._services = form, services

    def windows(self, values: Values) -> int:
        """K of the model and accelerator that stand on the page."""
        return num_time_windows(self._services, values[self._form.model], values[self._form.accelerator])

    def mark(self, field: str, set_by_hand: frozenset[str]) -> frozenset[str]:
        """Remember that a person chose this field's value."""
        return set_by_hand | {field}

    def refresh(self, values: Values) -> Updates:
        """The plan and its cost, what the catalogue recommends, and the first thing that makes no sense."""
        form = self._form
        try:
            windows = self.windows(values)
            request = self._services.resolve(**form.choices(values, windows))
            plan = self._services.plan(request)
        except InvalidRequest as error:
            return {**form.error_updates(error), form.grid: NO_PLAN}
        advice, differs = self._advice(values, request)
        return {
            **form.error_updates(None),
            form.grid: grid_html(plan, request.num_images),
            form.advice: advice,
            form.follow_advice: gr.update(visible=differs),
        }

    def _advice(self, values: Values, request: GenerationRequest) -> tuple[str, bool]:
        advised = self._advised(values)
        differs = any(getattr(request, field) != value for field, value in advised.items())
        reason = self._services.catalog.accelerator(request.accelerator).reason
        return advice_html(advised, reason, differs=differs), differs

    def _advised(self, values: Values) -> dict[str, Any]:
        catalog = self._services.catalog
        model, accelerator = values[self._form.model], values[self._form.accelerator]
        return self._form.advised(catalog.model(model), catalog.accelerator(accelerator))

    def change_model(self, values: Values) -> Updates:
        """Another model: its accelerators and facts, and its recommendations where nobody chose."""
        form, services = self._form, self._services
        spec = services.catalog.model(values[form.model])
        offered = {each.id for each in services.accelerators(spec.id)}
        current = values[form.accelerator]
        keep = "accelerator" in values[form.set_by_hand] and current in offered
        accelerator = current if keep else spec.default_accelerator
        updates = form.model_updates(spec, services, accelerator)
        del updates[form.model]  # it stands there, or a newer choice that this answer must not undo
        if keep:
            del updates[form.accelerator]["value"]
        return {**updates, **self._fill({**values, form.accelerator: accelerator}, values[form.set_by_hand])}

    def change_accelerator(self, values: Values) -> Updates:
        """Another accelerator: its facts, and its recommendations where nobody chose."""
        form = self._form
        spec = self._services.catalog.accelerator(values[form.accelerator])
        return {
            form.accelerator_facts: accelerator_facts_html(spec),
            form.accelerator_strength: gr.update(visible=spec.kind in ADJUSTABLE),
            **self._fill(values, values[form.set_by_hand]),
        }

    def _fill(self, values: Values, kept: frozenset[str]) -> Updates:
        """Recommended values for every field that is not kept."""
        form, advised = self._form, self._advised(values)
        updates: Updates = {}
        if "guidance" not in kept:
            updates |= form.schedule.show(advised["guidance"], num_time_windows=self.windows(values))
        elif values[form.schedule.mode]:
            updates |= form.schedule.reveal(values[form.schedule.mode], num_time_windows=self.windows(values))
        for field in ("steps", "width", "height"):
            if field not in kept:
                updates[getattr(form, field)] = advised[field]
        return updates

    def follow(self, values: Values) -> Updates:
        """The person takes the offer: recommended values, which then follow the accelerator again."""
        kept = values[self._form.set_by_hand] - {"steps", "guidance", "width", "height"}
        return {**self._fill(values, kept), self._form.set_by_hand: kept}

    def change_mode(self, values: Values) -> Updates:
        """Another kind of schedule: show the controls it uses."""
        return self._form.schedule.reveal(values[self._form.schedule.mode], num_time_windows=self.windows(values))

    def apply_preset(self, values: Values, event: gr.EventData) -> Updates:
        """Fill what the preset says; those values then count as chosen."""
        form = self._form
        preset = next((each for each in self._services.catalog.presets if each.id == picked(event)), None)
        if preset is None:
            return {form.set_by_hand: values[form.set_by_hand]}
        chosen = {"model": values[form.model], "accelerator": values[form.accelerator], **preset.request}
        wanted = self._services.resolve(**{"prompt": "", **chosen})
        fields = {component for field in preset.request for component in form.components_of(field)}
        lists = {form.accelerator, *form.facts} if fields & {form.model, form.accelerator} else set()
        shown = form.show(wanted, self._services)
        if form.accelerator not in fields:
            del shown[form.accelerator]["value"]
        updates = {each: update for each, update in shown.items() if each in fields | lists}
        return {**updates, form.set_by_hand: values[form.set_by_hand] | set(preset.request)}

    def example(self, event: gr.EventData) -> str:
        """The example prompt of a chip."""
        return EXAMPLES[int(picked(event)) % len(EXAMPLES)]
