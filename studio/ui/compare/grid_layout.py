"""Where the Compare tab's grids stand: three of them by one click, a builder of any other, and the one that is shown.

This module does not know what happens when values change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.comparing.contest import MAX_CONTESTANTS
from studio.comparing.grid import MAX_AXIS_VALUES, MAX_CELLS
from studio.ui.compare.layout import TAB_ID
from studio.ui.compare.sweeps import NO_AXIS, axis_choices
from studio.ui.compare.view import LETTERS
from studio.ui.plain_html import live_html, pickable_html, plain_html

START = (("x", "steps", "2, 4, 8"), ("y", "guidance", "1, 3, 5"), ("z", NO_AXIS, ""))
VALUES_INFO = f"Commas between; 1-8 or 1-9 (+2) for numbers. Up to {MAX_AXIS_VALUES} an axis, {MAX_CELLS} cells in all."


@dataclass(frozen=True, kw_only=True)
class AxisFields:
    """One axis of the builder: its parameter, and its values as typed."""

    name: gr.Dropdown
    values: gr.Textbox
    error: gr.HTML


@dataclass(frozen=True, kw_only=True)
class GridParts:
    """Everything about grids. `shown` holds the grid on the page, `chosen` the history id of its open cell."""

    sweeps: gr.HTML
    axes: dict[str, AxisFields]
    like: gr.Radio
    estimate: gr.HTML
    run: gr.Button
    error: gr.HTML
    words: gr.HTML
    cancel: gr.Button
    resume: gr.Button
    download_sheet: gr.Button
    stage: gr.HTML
    cell: gr.HTML
    actions: gr.Row
    download: gr.Button
    shown: gr.State
    chosen: gr.State

    @property
    def built(self) -> list[Any]:
        """What the builder's grid is read from."""
        return [*(each for axis in self.axes.values() for each in (axis.name, axis.values)), self.like]

    @property
    def error_places(self) -> list[Any]:
        """Where errors stand."""
        return [self.error, *(axis.error for axis in self.axes.values())]

    @property
    def outputs(self) -> list[Any]:
        """Everything that drawing a grid may change."""
        return [
            self.run, self.words, self.cancel, self.resume, self.download_sheet, self.stage, self.cell, self.actions,
            self.shown, self.chosen, *self.error_places,
        ]  # fmt: skip


def _id(name: str) -> str:
    return f"{TAB_ID}-grid-{name}"


def build_grids(count: int) -> GridParts:
    """Put the grids on the page, in the current context; `count` contestants are there at first."""
    sweeps = pickable_html(elem_id=_id("sweeps"))
    with gr.Accordion("XY grid", open=False, elem_classes="fold", elem_id=_id("builder")):
        axes = {place: _build_axis(place, name, values) for place, name, values in START}
        plain_html(f'<p class="facts"><span>{VALUES_INFO}</span></p>')
        like = gr.Radio(
            [(LETTERS[index], index) for index in range(count)], value=min(1, count - 1), label="All else as",
            info="What no axis sets is this contestant's.", elem_id=_id("like"), elem_classes="choice-row",
        )  # fmt: skip
        estimate = plain_html(elem_id=_id("estimate"))
        run = gr.Button("Draw this grid", size="lg", elem_id=_id("run"))
    error = plain_html(elem_classes="field-error-place", elem_id=_id("error"))
    with gr.Row(elem_classes="actions", elem_id=_id("control")):
        cancel = gr.Button("Cancel", variant="stop", size="sm", visible=False, min_width=90, elem_id=_id("cancel"),
                           elem_classes="cancel-button")  # fmt: skip
        resume = gr.Button("Resume", variant="primary", size="sm", visible=False, min_width=90, elem_id=_id("resume"))
        sheet = gr.Button("Download sheet", size="sm", visible=False, min_width=120, elem_id=_id("sheet"))
    words = live_html(elem_id=_id("words"), elem_classes="words")
    stage = pickable_html(elem_id=_id("stage"))
    cell = plain_html(elem_id=_id("cell"))
    with gr.Row(visible=False, elem_classes="actions", elem_id=_id("actions")) as actions:
        download = gr.Button("Download", size="sm", min_width=80, elem_id=_id("download"))
    return GridParts(
        sweeps=sweeps, axes=axes, like=like, estimate=estimate, run=run, error=error, words=words, cancel=cancel,
        resume=resume, download_sheet=sheet, stage=stage, cell=cell, actions=actions, download=download,
        shown=gr.State(None), chosen=gr.State(None),
    )  # fmt: skip


def _build_axis(place: str, name: str, values: str) -> AxisFields:
    choices = [("nothing", NO_AXIS), *axis_choices()] if place != "x" else axis_choices()
    with gr.Row(elem_classes="axis"):
        chosen = gr.Dropdown(choices, value=name, label=f"{place.upper()} axis", filterable=False, scale=2,
                             min_width=140, elem_id=_id(place))  # fmt: skip
        typed = gr.Textbox(
            values, label=f"Values of {place}", lines=1, max_lines=6, min_width=160, scale=3, visible=name != NO_AXIS,
            elem_id=_id(f"{place}-values"),
        )  # fmt: skip
    error = plain_html(elem_classes="field-error-place", elem_id=_id(f"{place}-error"))
    return AxisFields(name=chosen, values=typed, error=error)


def like_choices(count: int) -> list[tuple[str, int]]:
    """The contestants that there are."""
    return [(LETTERS[index], index) for index in range(min(count, MAX_CONTESTANTS))]
