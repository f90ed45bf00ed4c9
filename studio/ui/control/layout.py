"""Where the Control tab's own fields stand: the picture to begin from, control units, references; all folded but one.

This module does not know what happens when values change.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.conditions import ANNOTATORS, MAX_CONTROL_UNITS, MAX_CONTROL_WEIGHT, MAX_REFERENCE_SCALE, MAX_REFERENCES
from studio.ui.control.fields import (
    ControlFields,
    InitialFields,
    ReferenceFields,
    UnitFields,
    control_choices,
)
from studio.ui.control.lack import lack_html, of_kind
from studio.ui.plain_html import live_html, plain_html

if TYPE_CHECKING:
    from studio.services import Services

SOURCES: Any = ["upload", "webcam", "clipboard"]
RESIZE = [("Cut to fit", "crop"), ("Stretch", "stretch"), ("Pad", "pad")]
PAINT = "#ffffff"


def build_control_fields(services: Services, tab_id: str) -> ControlFields:
    """Put the fields on the page, in the current context, filled for the starting model."""
    found = services.controls(services.default_model)
    nets, adapters = of_kind(found, "controlnet"), of_kind(found, "ip_adapter")
    name = partial("{}-{}".format, tab_id)
    initial = _build_initial(name)
    # In the place of the units and references that do not stand there.
    title = services.catalog.model(services.default_model).title
    none_here = plain_html(lack_html(found, title), elem_id=name("none-here"))
    units = tuple(_build_unit(partial("{}-unit-{}-{}".format, tab_id, number + 1), number, nets)
                  for number in range(MAX_CONTROL_UNITS))  # fmt: skip
    references = tuple(_build_reference(partial("{}-reference-{}-{}".format, tab_id, number + 1), number, adapters)
                       for number in range(MAX_REFERENCES))  # fmt: skip
    return ControlFields(initial=initial, units=units, references=references, none_here=none_here)


def _build_initial(name: Any) -> InitialFields:
    title = "Begin from a picture, or repaint a part"
    with gr.Accordion(title, open=True, elem_classes="fold", elem_id=name("initial-fold")) as fold:
        picture = gr.ImageEditor(
            label="Picture and mask", type="pil", format="png", sources=SOURCES,
            layers=False,
            brush=gr.Brush(default_size=16, colors=[PAINT], default_color=PAINT, color_mode="fixed"),
            transforms=(), height=340, elem_id=name("initial"),
        )  # fmt: skip
        strength = gr.Slider(
            0, 1, value=0.75, step=0.05, label="Strength",
            info="The share of the steps that run: near 0 hardly changes the picture, 1 begins from noise alone.",
            elem_id=name("strength"),
        )  # fmt: skip
        resize = gr.Radio(RESIZE, value="crop", label="If its proportions differ", elem_id=name("initial-resize"))
    return InitialFields(fold=fold, picture=picture, strength=strength, resize=resize)


def _build_unit(name: Any, number: int, nets: list[Any]) -> UnitFields:
    title = f"Control unit {number + 1}"
    with gr.Accordion(title, open=False, visible=bool(nets), elem_classes="fold", elem_id=name("fold")) as fold:
        control = gr.Dropdown(
            control_choices(nets), value="", label="Follow", filterable=False, elem_id=name("control")
        )
        facts = plain_html()
        picture = gr.ImageEditor(
            label="Picture or drawing", type="pil", format="png", sources=SOURCES, layers=False, transforms=(),
            height=300,
            brush=gr.Brush(default_size=3, colors=["#ffffff", "#000000"], default_color="#ffffff"),
            elem_id=name("picture"),
        )  # fmt: skip
        with gr.Row(elem_classes="pair"):
            annotator = gr.Dropdown(
                [(title, id) for id, title in ANNOTATORS.items()], value="canny", label="Make a map of it by",
                filterable=False, elem_id=name("annotator"),
            )  # fmt: skip
            make = gr.Button("Show the map", size="sm", min_width=100, elem_id=name("make"))
        shown = gr.Image(
            label="Map", interactive=False, visible=False, format="png", height=240, buttons=["download"],
            elem_id=name("map"),
        )  # fmt: skip
        words = live_html(elem_id=name("words"))
        weight = gr.Slider(
            0, MAX_CONTROL_WEIGHT, value=1.0, step=0.05, label="Weight", info="0 ignores the map, 1 as trained.",
            elem_id=name("weight"),
        )  # fmt: skip
        with gr.Row(elem_classes="pair"):
            start = gr.Slider(0, 1, value=0.0, step=0.05, label="From", info="Snapped to the steps.",
                              elem_id=name("start"))  # fmt: skip
            end = gr.Slider(0, 1, value=1.0, step=0.05, label="To", info="0 is the noise end, 1 the picture.",
                            elem_id=name("end"))  # fmt: skip
        resize = gr.Radio(RESIZE, value="crop", label="If its proportions differ", elem_id=name("resize"))
    return UnitFields(
        fold=fold, control=control, facts=facts, picture=picture, annotator=annotator, make=make, map=shown,
        words=words, weight=weight, start=start, end=end, resize=resize, map_id=gr.State(None),
    )  # fmt: skip


def _build_reference(name: Any, number: int, adapters: list[Any]) -> ReferenceFields:
    title = f"Reference {number + 1}"
    with gr.Accordion(title, open=False, visible=bool(adapters), elem_classes="fold", elem_id=name("fold")) as fold:
        adapter = gr.Dropdown(
            control_choices(adapters), value="", label="Bring in by", filterable=False, elem_id=name("adapter")
        )
        facts = plain_html()
        picture = gr.Image(
            label="Reference", type="filepath", format="png", sources=SOURCES, height=260, elem_id=name("picture")
        )
        scale = gr.Slider(
            0, MAX_REFERENCE_SCALE, value=0.6, step=0.05, label="Scale",
            info="How strongly the reference acts beside the prompt.", elem_id=name("scale"),
        )  # fmt: skip
        mask = gr.Image(
            label="Only here (optional: white on black)", type="filepath", format="png", height=160,
            sources=["upload", "clipboard"], elem_id=name("mask"),
        )  # fmt: skip
    return ReferenceFields(fold=fold, adapter=adapter, facts=facts, picture=picture, scale=scale, mask=mask)
