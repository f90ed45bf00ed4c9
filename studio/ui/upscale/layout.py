"""Where the Upscale tab's own components stand: picture, factor and tiles at the left, the comparison at the right.

This module does not know what happens when values change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.conditions import (
    DEFAULT_SEAM_THRESHOLD,
    MAX_CONTROL_WEIGHT,
    MAX_TILE_PIXELS,
    MIN_OVERLAP_PIXELS,
    MIN_TILE_PIXELS,
    OVERLAP_STEP_PIXELS,
    TILE_STEP_PIXELS,
    UPSCALE_FACTORS,
)
from studio.ui.plain_html import live_html, plain_html
from studio.ui.upscale.view import facts_html
from studio.upscales import NO_CONTROL

if TYPE_CHECKING:
    from studio.services import Services

SOURCES: Any = ["upload", "webcam", "clipboard"]


@dataclass(frozen=True, kw_only=True)
class UpscaleFields:
    """What is enlarged, and how."""

    picture: gr.Image
    factor: gr.Radio
    control: gr.Dropdown
    facts: gr.HTML
    creativity: gr.Slider
    weight: gr.Slider
    tile: gr.Slider
    overlap: gr.Slider
    estimate: gr.HTML
    error: gr.HTML

    @property
    def inputs(self) -> set[Any]:
        """Everything that chooses it."""
        return {self.picture, self.factor, *self.tiles}

    @property
    def tiles(self) -> list[Any]:
        """What depends on the model."""
        return [self.control, self.creativity, self.weight, self.tile, self.overlap]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The finished picture beside what it was, and how it measures."""

    box: gr.Column
    slider: gr.ImageSlider
    measures: gr.HTML
    heat: gr.HTML
    threshold: gr.Slider
    redo: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """Everything a result changes here."""
        return [self.box, self.slider, self.measures, self.heat, self.redo]


def build_picture(tab_id: str) -> dict[str, Any]:
    """The picture and how much larger it becomes."""
    return {
        "picture": gr.Image(
            label="Picture", type="filepath", format="png", image_mode=None, sources=SOURCES, height=260,
            elem_id=f"{tab_id}-picture",
        ),
        "factor": gr.Radio(
            [(f"{factor}×", factor) for factor in UPSCALE_FACTORS], value=2, label="Enlarge", elem_id=f"{tab_id}-factor"
        ),
        "estimate": plain_html(elem_id=f"{tab_id}-estimate"),
        "error": plain_html(elem_classes="field-error-place", elem_id=f"{tab_id}-error-picture"),
    }  # fmt: skip


def build_tiles(services: Services, tab_id: str) -> dict[str, Any]:
    """How its tiles are refined, filled for the starting model."""
    spec = services.catalog.model(services.default_model)
    advised, control = services.upscales.advised(spec)
    with gr.Accordion("Tiles", open=False, elem_classes="fold", elem_id=f"{tab_id}-tiles"):
        fields = {
            "control": gr.Dropdown(
                control_choices(services, spec.id), value=control or NO_CONTROL, label="Hold tiles by",
                filterable=False, elem_id=f"{tab_id}-control",
            ),
            "facts": plain_html(facts_html(advised, has_control=control is not None)),
            "creativity": gr.Slider(
                0, 1, value=advised.creativity if control else advised.creativity_alone, step=0.025, label="Creativity",
                info="The share of the steps that run on each tile: low refines, high invents.",
                elem_id=f"{tab_id}-creativity",
            ),
            "weight": gr.Slider(
                0, MAX_CONTROL_WEIGHT, value=advised.weight, step=0.05, label="Weight of the tile ControlNet",
                visible=control is not None, elem_id=f"{tab_id}-weight",
            ),
        }  # fmt: skip
        with gr.Row(elem_classes="pair"):
            fields["tile"] = gr.Slider(
                MIN_TILE_PIXELS, MAX_TILE_PIXELS, value=advised.tile, step=TILE_STEP_PIXELS, label="Tile",
                info="Pixels a side.", elem_id=f"{tab_id}-tile",
            )  # fmt: skip
            fields["overlap"] = gr.Slider(
                MIN_OVERLAP_PIXELS, MAX_TILE_PIXELS // 2, value=advised.overlap, step=OVERLAP_STEP_PIXELS,
                label="Overlap", info="Pixels shared with each neighbour.", elem_id=f"{tab_id}-overlap",
            )  # fmt: skip
    return fields


def build_finished(tab_id: str) -> Finished:
    """The comparison, below the stage until there is one."""
    with gr.Column(visible=False, elem_id=f"{tab_id}-finished") as box:
        slider = gr.ImageSlider(
            label="Before and after", show_label=False, type="filepath", interactive=False, max_height=620,
            buttons=["fullscreen"], elem_id=f"{tab_id}-slider",
        )  # fmt: skip
        measures = live_html(elem_id=f"{tab_id}-measures")
        with gr.Accordion("Where seams could be", open=False, elem_classes="fold", elem_id=f"{tab_id}-seams"):
            heat = plain_html(elem_id=f"{tab_id}-heat")
            with gr.Row(elem_classes="pair"):
                threshold = gr.Slider(
                    1, 10, value=DEFAULT_SEAM_THRESHOLD, step=0.1, label="Seams above",
                    info="Times the gradient energy beside the border.", elem_id=f"{tab_id}-threshold",
                )  # fmt: skip
                redo = gr.Button("Redo these seams only", size="sm", min_width=140, elem_id=f"{tab_id}-redo")
    return Finished(box=box, slider=slider, measures=measures, heat=heat, threshold=threshold, redo=redo)


def control_choices(services: Services, model: str) -> list[tuple[str, str]]:
    """Nothing, and the tile ControlNets that are here for a model."""
    found = [(spec.title, spec.id) for spec in services.upscales.controls(model)]
    return [*found, ("Nothing (plain image-to-image)", NO_CONTROL)]
