"""Where the form's components stand: prompt and button first, then the model, the steps, and the rest folded.

The same order in every tab that draws. This module does not know what happens when values change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.specs import AcceleratorSpec, ModelSpec
from studio.types import MAX_ACCELERATOR_STRENGTH, MAX_IMAGES, MAX_STEPS, GenerationRequest
from studio.ui.feedback import availability
from studio.ui.form import (
    ADJUSTABLE,
    Form,
    accelerator_choices,
    accelerator_facts_html,
    advice_html,
    hint_html,
    model_facts_html,
    num_time_windows,
    recommended,
    size_facts_html,
)
from studio.ui.plain_html import pickable_html, plain_html
from studio.ui.schedule_field import build_schedule_field
from studio.ui.windows_view import grid_html

if TYPE_CHECKING:
    from studio.services import ModelStatus, Services

Naming = Callable[[str], str]
Advised = Callable[[ModelSpec, AcceleratorSpec], dict[str, Any]]
EXAMPLES = (
    "a glossy red cube to the left of a small blue cone",
    "a green tree to the right of a small orange house",
    "a metal yellow ball on top of a purple box",
    "a small white mug on top of a blue cylinder at sunset",
)


def build_form(
    services: Services, tab_id: str, *, advised: Advised = recommended, has_size: bool = True
) -> Form:  # fmt: skip
    """Put the form on the page, in the current context, filled with what is advised for the starting model.

    Elements are named `<tab_id>-<field>`, so that several tabs may have the form. Without `has_size` the picture's size
    and number are not for the form to choose, and so it does not tell the plan and its cost either.
    """
    start = services.resolve(prompt="", seed=0)
    spec = services.catalog.model(start.model)
    best = advised(spec, services.catalog.accelerator(start.accelerator))
    start = replace(start, steps=best["steps"], guidance=best["guidance"])
    parts: dict[str, Any] = {"errors": {}, "set_by_hand": gr.State(frozenset()), "advised": advised}
    name = partial("{}-{}".format, tab_id)
    _build_prompt(parts, name, spec)
    _build_model(parts, name, services, start)
    _build_steps(parts, name, services, start, has_size)
    with gr.Accordion("CFG schedule", open=False, elem_classes="fold"):
        count = num_time_windows(services, start.model, start.accelerator)
        parts["schedule"] = build_schedule_field(name, count, start.guidance)
        _error(parts, name, "guidance")
    with gr.Accordion("Size, seed and batch" if has_size else "Seed", open=False, elem_classes="fold"):
        _build_canvas(parts, name, spec, start, has_size)
    return Form(**parts)


def _error(parts: dict[str, Any], name: Naming, field: str) -> None:
    parts["errors"][field] = plain_html(elem_classes="field-error-place", elem_id=name(f"error-{field}"))


def chips_html(label: str, chips: Iterable[tuple[str, str, str]]) -> str:
    """Small buttons: what they pick, what they say, what they say at length."""
    buttons = "".join(
        f'<button type="button" class="chip" data-pick="{escape(pick)}" title="{escape(title)}">{escape(text)}</button>'
        for pick, text, title in chips
    )
    return f'<div class="chips" role="group" aria-label="{label}">{buttons}</div>'


def _build_prompt(parts: dict[str, Any], name: Naming, spec: ModelSpec) -> None:
    parts["prompt"] = gr.Textbox(
        label="Prompt",
        placeholder="What do you want to see?",
        lines=3,
        max_lines=8,
        autofocus=True,
        elem_id=name("prompt"),
        elem_classes="prompt",
    )
    _error(parts, name, "prompt")
    examples = ((str(index), text, "Use this prompt") for index, text in enumerate(EXAMPLES))
    parts["examples"] = pickable_html(chips_html("Examples", examples), elem_id=name("examples"))
    parts["hint"] = plain_html(hint_html(spec))
    with gr.Row(elem_classes="go"):
        parts["generate"] = gr.Button(
            "Generate", variant="primary", size="lg", elem_id=name("generate"), elem_classes="generate-button"
        )
        parts["cancel"] = gr.Button(
            "Cancel", variant="stop", size="lg", visible=False, elem_id=name("cancel"), elem_classes="cancel-button"
        )
    parts["negative_prompt"] = gr.Textbox(
        label="Negative prompt",
        placeholder="What should stay out of it",
        lines=1,
        max_lines=4,
        elem_id=name("negative-prompt"),
    )
    _error(parts, name, "negative_prompt")


def _build_model(parts: dict[str, Any], name: Naming, services: Services, start: GenerationRequest) -> None:
    spec, accelerator = services.catalog.model(start.model), services.catalog.accelerator(start.accelerator)
    models = services.models()
    choices = model_choices(models)
    parts["model"] = gr.Dropdown(choices, value=spec.id, label="Model", filterable=False, elem_id=name("model"))
    on_disk = next(each.on_disk for each in models if each.spec.id == spec.id)
    parts["model_facts"] = plain_html(model_facts_html(spec, on_disk=on_disk))
    _error(parts, name, "model")
    parts["accelerator"] = gr.Dropdown(
        accelerator_choices(services.accelerators(spec.id)),
        value=accelerator.id,
        label="Accelerator",
        filterable=False,
        elem_id=name("accelerator"),
    )
    parts["accelerator_facts"] = plain_html(accelerator_facts_html(accelerator))
    _error(parts, name, "accelerator")
    parts["accelerator_strength"] = gr.Slider(
        0,
        MAX_ACCELERATOR_STRENGTH,
        value=start.accelerator_strength,
        step=0.05,
        label="Accelerator strength",
        info="0 is the bare model, 1 as trained.",
        visible=accelerator.kind in ADJUSTABLE,
        elem_id=name("strength"),
    )
    _error(parts, name, "accelerator_strength")


def model_choices(models: Iterable[ModelStatus]) -> list[tuple[str, str]]:
    """What the model picker offers: titles with size and whereabouts, and ids."""
    return [(_model_label(each), each.spec.id) for each in models]


def _model_label(status: ModelStatus) -> str:
    where = availability(status.spec, on_disk=status.on_disk)
    return status.spec.title if status.spec.kind == "builtin" else f"{status.spec.title} · {where}"


def _build_steps(
    parts: dict[str, Any], name: Naming, services: Services, start: GenerationRequest, has_size: bool
) -> None:  # fmt: skip
    spec, accelerator = services.catalog.model(start.model), services.catalog.accelerator(start.accelerator)
    parts["steps"] = gr.Slider(1, MAX_STEPS, value=start.steps, step=1, label="Steps", elem_id=name("steps"))
    _error(parts, name, "steps")
    presets = [(each.id, each.title, each.description) for each in services.catalog.presets]
    parts["presets"] = pickable_html(chips_html("Presets", presets), elem_id=name("presets"), visible=bool(presets))
    parts["grid"] = plain_html(grid_html(services.plan(start)), elem_id=name("grid"), visible=has_size)
    advice = advice_html(parts["advised"](spec, accelerator), accelerator.reason, differs=False)
    parts["advice"] = plain_html(advice, elem_id=name("advice"), visible=has_size)
    parts["follow_advice"] = gr.Button(
        "Use the recommended values", size="sm", visible=False, elem_id=name("follow-advice")
    )


def _build_canvas(
    parts: dict[str, Any], name: Naming, spec: ModelSpec, start: GenerationRequest, has_size: bool
) -> None:  # fmt: skip
    with gr.Row(elem_classes="pair", visible=has_size):
        parts["width"] = gr.Number(start.width, label="Width", elem_id=name("width"), min_width=120)
        parts["height"] = gr.Number(start.height, label="Height", elem_id=name("height"), min_width=120)
    _error(parts, name, "width")
    _error(parts, name, "height")
    parts["size_facts"] = plain_html(size_facts_html(spec), visible=has_size)
    with gr.Row(elem_classes="seed"):
        parts["seed"] = gr.Number(
            -1, label="Seed", info="-1 takes a new one each time.", elem_id=name("seed"), min_width=140
        )
        parts["dice"] = gr.Button("Random", size="sm", elem_id=name("dice"), min_width=80)
        parts["reuse_seed"] = gr.Button("Reuse last", size="sm", elem_id=name("reuse-seed"), min_width=80)
    _error(parts, name, "seed")
    parts["num_images"] = gr.Slider(
        1,
        MAX_IMAGES,
        value=start.num_images,
        step=1,
        label="Batch count",
        info="Picture i uses seed + i.",
        visible=has_size,
        elem_id=name("num-images"),
    )
    _error(parts, name, "num_images")
