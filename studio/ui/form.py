"""The one form: components on one side, the arguments of `Services.resolve` on the other.

Every tab that draws uses this schema: `choices` reads the page, `show` writes a request to it, `error_updates` puts a
sentence beside the field it is about. Which values a person has set by hand is remembered, so that recommendations
fill only the others.
This module does not know where the components stand (form_layout.py), nor what they do (form_events.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from studio.errors import InvalidRequest
from studio.specs import AcceleratorSpec, ModelSpec
from studio.types import GenerationRequest, Guidance
from studio.ui.feedback import availability, field_error_html, licence_html
from studio.ui.schedule_field import ScheduleField
from studio.ui.windows_view import plural

if TYPE_CHECKING:
    from studio.services import Services

Values = Mapping[Component, Any]
Updates = dict[Any, Any]
ADJUSTABLE = ("perflow_delta", "lora")
"""Kinds of accelerator whose strength can be chosen."""
FIELDS = (
    "prompt", "negative_prompt", "model", "accelerator", "accelerator_strength", "steps", "guidance", "width", "height",
    "seed", "num_images",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Form:
    """The components of the form, by the names of the request's fields."""

    prompt: gr.Textbox
    examples: gr.HTML
    hint: gr.HTML
    generate: gr.Button
    cancel: gr.Button
    negative_prompt: gr.Textbox
    presets: gr.HTML
    model: gr.Dropdown
    model_facts: gr.HTML
    accelerator: gr.Dropdown
    accelerator_facts: gr.HTML
    accelerator_strength: gr.Slider
    steps: gr.Slider
    grid: gr.HTML
    advice: gr.HTML
    follow_advice: gr.Button
    schedule: ScheduleField
    width: gr.Number
    height: gr.Number
    size_facts: gr.HTML
    seed: gr.Number
    dice: gr.Button
    reuse_seed: gr.Button
    num_images: gr.Slider
    set_by_hand: gr.State
    errors: Mapping[str, gr.HTML]
    advised: Callable[[ModelSpec, AcceleratorSpec], dict[str, Any]]

    def components_of(self, field: str) -> tuple[Component, ...]:
        """The components that choose one field of the request."""
        return self.schedule.components if field == "guidance" else (getattr(self, field),)

    @property
    def inputs(self) -> set[Any]:
        """Everything `choices` reads."""
        return {component for field in FIELDS for component in self.components_of(field)}

    @property
    def facts(self) -> tuple[gr.HTML, ...]:
        """The quiet lines about what is chosen."""
        return (self.hint, self.model_facts, self.accelerator_facts, self.size_facts)

    @property
    def error_places(self) -> tuple[gr.HTML, ...]:
        """Where errors stand, each place once."""
        return tuple(dict.fromkeys(self.errors.values()))

    @property
    def outputs(self) -> list[Block]:
        """Everything `show` writes."""
        return [*self.inputs, *self.facts, self.set_by_hand]

    def choices(self, values: Values, num_time_windows: int) -> dict[str, Any]:
        """The arguments of `Services.resolve`. Raises `InvalidRequest` naming the field."""
        chosen = {field: values[getattr(self, field)] for field in FIELDS if field != "guidance"}
        for field in ("steps", "width", "height", "seed", "num_images"):
            chosen[field] = _whole(field, chosen[field])
        chosen["prompt"], chosen["negative_prompt"] = chosen["prompt"] or "", chosen["negative_prompt"] or ""
        chosen["guidance"] = self.schedule.read(values, num_time_windows=num_time_windows, steps=chosen["steps"])
        return chosen

    def show(self, request: GenerationRequest, services: Services) -> Updates:
        """Updates that make the form say exactly this request; all of it then counts as set by hand."""
        spec = services.catalog.model(request.model)
        updates: Updates = {
            getattr(self, field): gr.update(value=getattr(request, field))
            for field in FIELDS
            if field not in ("guidance", "model", "accelerator", "accelerator_strength")
        }
        windows = num_time_windows(services, request.model, request.accelerator)
        updates |= self.schedule.show(request.guidance, num_time_windows=windows)
        updates |= self.model_updates(spec, services, request.accelerator)
        updates[self.accelerator_strength]["value"] = request.accelerator_strength
        updates[self.set_by_hand] = frozenset(FIELDS)
        return updates

    def model_updates(self, spec: ModelSpec, services: Services, accelerator_id: str) -> Updates:
        """Model, its accelerators and the facts about both."""
        accelerators = services.accelerators(spec.id)
        chosen = services.catalog.accelerator(accelerator_id)
        on_disk = {status.spec.id: status.on_disk for status in services.models()}.get(spec.id, False)
        return {
            self.model: gr.update(value=spec.id),
            self.hint: hint_html(spec),
            self.model_facts: model_facts_html(spec, on_disk=on_disk),
            self.accelerator: gr.update(choices=accelerator_choices(accelerators), value=chosen.id),
            self.accelerator_facts: accelerator_facts_html(chosen),
            self.accelerator_strength: gr.update(visible=chosen.kind in ADJUSTABLE),
            self.size_facts: size_facts_html(spec),
        }

    def error_updates(self, error: InvalidRequest | None) -> Updates:
        """The sentence beside its field, and no other; the prompt's place takes fields that the form lacks."""
        updates: Updates = dict.fromkeys(self.errors.values(), "")
        if error is not None:
            updates[self.errors.get(error.field, self.errors["prompt"])] = field_error_html(error)
        return updates


def accelerator_choices(accelerators: Iterable[AcceleratorSpec]) -> list[tuple[str, str]]:
    """What the accelerator picker offers: titles and ids."""
    return [(each.title, each.id) for each in accelerators]


def num_time_windows(services: Services, model: str, accelerator: str) -> int:
    """K as the engine's own plan states it for this pair."""
    request = services.resolve(prompt="", model=model, accelerator=accelerator, guidance=1.0, seed=0)
    return services.plan(request).num_time_windows


def recommended(model: ModelSpec, accelerator: AcceleratorSpec) -> dict[str, Any]:
    """What the catalogue advises for a pair, by field."""
    return {
        "steps": accelerator.recommended_steps,
        "guidance": Guidance(scales=accelerator.recommended_guidance),
        "width": model.native_width,
        "height": model.native_height,
    }


def _whole(field: str, value: Any) -> Any:
    """Gradio hands whole numbers over as floats; what is no whole number is left for validation to refuse."""
    if value is None:
        raise InvalidRequest(field, "a whole number", "an empty field")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def hint_html(spec: ModelSpec) -> str:
    """What this model understands, where that is not simply everything."""
    if not spec.hint:
        return ""
    summary = f"<summary>What {escape(spec.title)} understands</summary>"
    return f'<details class="hint">{summary}<p>{escape(spec.hint)}</p></details>'


def model_facts_html(spec: ModelSpec, *, on_disk: bool) -> str:
    """One quiet line: at once or after a download, and under which licence."""
    return f'<p class="facts"><span>{availability(spec, on_disk=on_disk)}</span>{licence_html(spec.license)}</p>'


def accelerator_facts_html(spec: AcceleratorSpec) -> str:
    """One quiet line about an accelerator, with its licence when it has one."""
    licence = "" if spec.license in ("unknown", "none needed") else licence_html(spec.license)
    return f'<p class="facts"><span>{escape(spec.description)}</span>{licence}</p>'


def size_facts_html(spec: ModelSpec) -> str:
    """What sizes this model draws well."""
    words = f"Made for {spec.native_width} × {spec.native_height} pixels; sides in steps of {spec.size_multiple}."
    return f'<p class="facts"><span>{words}</span></p>'


def advice_html(advised: Mapping[str, Any], reason: str, *, differs: bool) -> str:
    """What the catalogue recommends and why; only the reason where the form already says so."""
    scales = "-".join(f"{scale:g}" for scale in advised["guidance"].scales)
    size = f"{advised['width']} × {advised['height']}"
    words = (
        f"Recommended: {plural(advised['steps'], 'step')}, CFG {scales}, {size}. " if differs else "As recommended: "
    )
    return f'<p class="facts"><span>{words}{escape(reason)}</span></p>'
