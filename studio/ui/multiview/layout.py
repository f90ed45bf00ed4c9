"""Where the Multiview tab's components stand: the picture and its choices at the left, views and mesh at the right.

This module does not know what happens when values change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.multiviews import Multiviews
from studio.types import MAX_ACCELERATOR_STRENGTH, MAX_STEPS, GenerationRequest
from studio.ui.multiview.view import EMPTY
from studio.ui.plain_html import live_html, plain_html
from studio.ui.windows_view import grid_html

MAX_VIEW_GUIDANCE = 5.0
BACKGROUNDS = [
    ("find it for me", "auto"),
    ("transparent", "alpha"),
    ("one plain colour", "plain"),
    ("varied (GrabCut)", "grabcut"),
]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components of the tab."""

    picture: gr.Image
    background: gr.Radio
    seen: gr.HTML
    error: gr.HTML
    prepared: gr.State
    model: gr.Dropdown
    accelerator: gr.Dropdown
    strength: gr.Slider
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Number
    grid: gr.HTML
    generate: gr.Button
    cancel: gr.Button
    stage: gr.HTML
    words: gr.HTML
    actions: gr.Row
    chosen: gr.State
    download: gr.Button
    make: gr.Button
    mesh: gr.Model3D
    turntable: gr.HTML
    mesh_words: gr.HTML
    mesh_actions: gr.Row
    mesh_path: gr.State
    download_mesh: gr.Button

    @property
    def choices(self) -> set[Any]:
        """What a generation reads."""
        return {
            self.model, self.accelerator, self.strength, self.steps, self.guidance, self.seed, self.prepared
        }  # fmt: skip

    @property
    def settings(self) -> list[Any]:
        """What a restored request fills."""
        return [*self.choices, self.picture, self.background, self.seen, self.error]

    @property
    def result(self) -> list[Any]:
        """What a generation changes."""
        return [
            self.stage,
            self.words,
            self.actions,
            self.chosen,
            self.generate,
            self.cancel,
            self.error,
            *self.of_mesh,
        ]

    @property
    def of_mesh(self) -> list[Any]:
        return [self.mesh, self.turntable, self.mesh_words, self.mesh_actions, self.mesh_path]


def build_inputs(views: Multiviews) -> dict[str, Any]:
    """The left column, filled with what the first network recommends."""
    start = views.resolve(seed=0)
    parts: dict[str, Any] = {
        "picture": gr.Image(
            label="Picture of one object", type="filepath", image_mode=None, format="png", height=260,
            sources=["upload", "webcam", "clipboard"], elem_id="multiview-picture",
        ),
        "background": gr.Radio(BACKGROUNDS, value="auto", label="Background", elem_id="multiview-background"),
        "error": plain_html(elem_classes="field-error-place", elem_id="multiview-error"),
        "seen": plain_html(elem_id="multiview-seen"),
        "prepared": gr.State(None),
    }  # fmt: skip
    with gr.Row(elem_classes="go"):
        parts["generate"] = gr.Button("Draw the views", variant="primary", size="lg", elem_id="multiview-generate")
        parts["cancel"] = gr.Button("Cancel", size="lg", visible=False, elem_id="multiview-cancel")
    return {**parts, **_build_choices(views, start)}


def _build_choices(views: Multiviews, start: GenerationRequest) -> dict[str, Any]:
    networks = [(spec.title, spec.id) for spec in views.models()]
    return {
        "model": gr.Dropdown(networks, value=start.model, label="Network", visible=len(networks) > 1),
        "accelerator": gr.Dropdown(
            accelerator_choices(views, start.model), value=start.accelerator, label="Accelerator",
            elem_id="multiview-accelerator",
        ),
        "steps": gr.Slider(1, MAX_STEPS, start.steps, step=1, label="Steps", elem_id="multiview-steps"),
        "grid": plain_html(grid_html(views.plan(start)), elem_id="multiview-grid"),
        "guidance": gr.Slider(
            1, MAX_VIEW_GUIDANCE, start.guidance.scales[0], step=0.1, label="CFG Scale",
            info="1 is off: the published setting of PeRFlow on Wonder3D", elem_id="multiview-guidance",
        ),
        "strength": gr.Slider(
            0, MAX_ACCELERATOR_STRENGTH, start.accelerator_strength, step=0.05, label="Accelerator strength",
            info="How much of the delta weights is added: 0 is the bare network, 1 as trained.",
            elem_id="multiview-strength",
        ),
        "seed": gr.Number(-1, label="Seed", precision=0, info="-1 is random", elem_id="multiview-seed"),
    }  # fmt: skip


def build_result() -> dict[str, Any]:
    """The right column."""
    parts: dict[str, Any] = {
        "stage": plain_html(EMPTY, elem_id="multiview-stage"),
        "words": live_html(elem_id="multiview-words", elem_classes="words"),
        "chosen": gr.State(None),
        "mesh_path": gr.State(None),
    }
    with gr.Row(visible=False, elem_classes="actions", elem_id="multiview-actions") as actions:
        parts["make"] = gr.Button("Make a mesh", size="sm", min_width=80, elem_id="multiview-make")
        parts["download"] = gr.Button("Download", size="sm", min_width=80)
    parts["mesh_words"] = live_html(elem_id="multiview-mesh-words", elem_classes="words")
    with gr.Row(visible=False, elem_id="multiview-mesh-row") as mesh_actions:
        with gr.Column(scale=3, min_width=280):
            parts["mesh"] = gr.Model3D(label="Mesh", height=360, clear_color=(1.0, 1.0, 1.0, 1.0))
            parts["download_mesh"] = gr.Button("Download GLB", size="sm", min_width=80)
        with gr.Column(scale=2, min_width=200):
            parts["turntable"] = plain_html(elem_id="multiview-turntable")
    return {**parts, "actions": actions, "mesh_actions": mesh_actions}


def accelerator_choices(views: Multiviews, model: str) -> list[tuple[str, str]]:
    """Titles and ids of what fits a network."""
    return [(each.title, each.id) for each in views.accelerators(model)]
