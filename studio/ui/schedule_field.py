"""The CFG schedule of the form: off, constant, the paper's two schedules, one slider per time window, or a list.

Guidance schedules are one scale per time window, window 0 at the noise end (PeRFlow, arXiv 2405.07510, section 3.4);
1 means off: one network call in place of two. This module does not know how a schedule meets a step grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.errors import InvalidRequest
from studio.types import MAX_GUIDANCE, MAX_STEPS, Guidance
from studio.ui.theme import window_colour

OFF, CONSTANT, WINDOWS, LIST = "Off", "Constant", "Per window", "Per step"
SYNC, FIXED = "CFG-sync 7.5-4-4-4", "CFG-fixed 2.5-1.5-1.5-1.5"
PAPER = {SYNC: (7.5, 4.0, 4.0, 4.0), FIXED: (2.5, 1.5, 1.5, 1.5)}
MAX_SLIDERS = 8
SLIDER_MAX = 15.0


@dataclass(frozen=True, kw_only=True)
class ScheduleField:
    """The components that together choose a `Guidance`."""

    mode: gr.Radio
    constant: gr.Slider
    windows: tuple[gr.Slider, ...]
    per_step: gr.Textbox

    @property
    def components(self) -> tuple[Component, ...]:
        return (self.mode, self.constant, *self.windows, self.per_step)

    def read(self, values: Mapping[Component, Any], *, num_time_windows: int, steps: int) -> Guidance:
        """What the components say, as a value. Raises `InvalidRequest` for the field `guidance`."""
        mode = values[self.mode]
        if mode == OFF:
            return Guidance(scales=(1.0,))
        if mode == CONSTANT:
            return Guidance.of(values[self.constant])
        if mode in PAPER:
            return Guidance(scales=stretched(PAPER[mode], num_time_windows))
        if mode == WINDOWS:
            return Guidance(scales=tuple(values[slider] for slider in self.windows[:num_time_windows]))
        return list_as_guidance(values[self.per_step] or "", num_time_windows=num_time_windows, steps=steps)

    def show(self, guidance: Guidance, *, num_time_windows: int) -> dict[Component, Any]:
        """Updates that make the components say this guidance."""
        mode = mode_of(guidance, num_time_windows)
        updates: dict[Component, Any] = {self.mode: gr.update(value=mode)}
        if mode == CONSTANT:
            updates[self.constant] = gr.update(value=guidance.scales[0], visible=True)
        if mode == LIST:
            updates[self.per_step] = gr.update(value=", ".join(f"{scale:g}" for scale in guidance.scales), visible=True)
        updates = {**self.reveal(mode, num_time_windows=num_time_windows), **updates}
        if mode == WINDOWS:
            for slider, scale in zip(self.windows, guidance.scales, strict=False):
                updates[slider] = gr.update(value=scale, visible=True)
        return updates

    def reveal(self, mode: str, *, num_time_windows: int) -> dict[Component, Any]:
        """Only the controls that this mode uses are on the page."""
        shown = num_time_windows if mode == WINDOWS else 0
        return {
            self.constant: gr.update(visible=mode == CONSTANT),
            self.per_step: gr.update(visible=mode == LIST),
            **{slider: gr.update(visible=i < shown) for i, slider in enumerate(self.windows)},
        }


def stretched(schedule: tuple[float, ...], num_time_windows: int) -> tuple[float, ...]:
    """The paper's schedules for another number of windows: the first scale once, the second for the rest."""
    return (schedule[0], *(schedule[1],) * (num_time_windows - 1))


def mode_of(guidance: Guidance, num_time_windows: int) -> str:
    """The simplest mode that can say this guidance."""
    if len(guidance.scales) == 1:
        return OFF if guidance.scales[0] == 1 else CONSTANT
    if guidance.per == "step":
        return LIST
    for name, schedule in PAPER.items():
        if guidance.scales == stretched(schedule, num_time_windows):
            return name
    fits = len(guidance.scales) == num_time_windows <= MAX_SLIDERS and max(guidance.scales) <= SLIDER_MAX
    return WINDOWS if fits else LIST


def list_as_guidance(text: str, *, num_time_windows: int, steps: int) -> Guidance:
    """`7.5, 4, 4, 4` as one scale per step, or per time window when there are as many of those."""
    words = text.replace(",", " ").replace(";", " ").split()
    expected = f"{steps} numbers, one per step, or {num_time_windows}, one per time window, such as 7.5, 4, 4, 4"
    try:
        scales = tuple(float(word) for word in words)
    except ValueError as error:
        raise InvalidRequest("guidance", expected, text) from error
    if len(scales) not in (steps, num_time_windows):
        raise InvalidRequest("guidance", expected, text)
    return Guidance(scales=scales, per="step" if len(scales) == steps else "window")


def build_schedule_field(name: Callable[[str], str], num_time_windows: int, guidance: Guidance) -> ScheduleField:
    """Put the components on the page, in the current context, saying `guidance`; `name` makes their element ids."""
    begin, scales = mode_of(guidance, num_time_windows), guidance.scales
    mode = gr.Radio(
        [OFF, CONSTANT, SYNC, FIXED, WINDOWS, LIST], value=begin, label="Schedule", elem_id=name("cfg-schedule"),
        info="How strongly the prompt pulls, from the noisiest time window to the last. Off halves the work.",
    )  # fmt: skip
    constant = gr.Slider(
        1, SLIDER_MAX, value=scales[0], step=0.1, label="CFG scale", elem_id=name("cfg-constant"),
        visible=begin == CONSTANT,
    )  # fmt: skip
    with gr.Row(elem_classes="window-sliders"):
        shown = num_time_windows if begin == WINDOWS else 0
        windows = tuple(
            _window_slider(window, num_time_windows, scales[min(window, len(scales) - 1)], window < shown)
            for window in range(MAX_SLIDERS)
        )
    per_step = gr.Textbox(
        label="CFG scales, noise first", placeholder="7.5, 4, 4, 4", elem_id=name("cfg-list"),
        value=", ".join(f"{scale:g}" for scale in scales) if begin == LIST else "", visible=begin == LIST,
        info=f"One number from 0 to {MAX_GUIDANCE:g} per step (up to {MAX_STEPS}); 1 is off.",
    )  # fmt: skip
    return ScheduleField(mode=mode, constant=constant, windows=windows, per_step=per_step)


def _window_slider(window: int, num_time_windows: int, scale: float, visible: bool) -> gr.Slider:
    shade = round(4 * min(window / max(1, num_time_windows - 1), 1))
    return gr.Slider(
        1, SLIDER_MAX, value=max(1.0, scale), step=0.1, label=f"Window {window + 1}", visible=visible, min_width=120,
        elem_classes=["window-slider", f"shade-{shade}"],
    )  # fmt: skip


def shades_css(count: int = 5) -> str:
    """The css classes that lend sliders their window's colour, in `count` shades from noise to data."""
    return "\n".join(
        f".shade-{i} {{ --w: {colour}; --slider-color: {colour}; }}"
        for i, colour in enumerate(window_colour(each, count) for each in range(count))
    )
