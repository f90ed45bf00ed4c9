"""Time windows as pictures: the step grid before the click, the progress while drawing, the lens afterwards.

Time runs from left (timestep 1000, noise, violet) to right (0, data, amber), as the steps do. A dot on the grid is one
step: where the network is asked. All functions turn values into HTML text; every string from outside is escaped.
This module does not know gradio, nor where the values come from.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from studio.types import StepDone, StepPlan, StepPreview
from studio.ui.theme import window_colour

NUM_TRAIN_TIMESTEPS = 1000
LENS_SIDE_PIXELS = 192


def data_uri(image: Image.Image, longest_side_pixels: int = 1024) -> str:
    """A small JPEG of a picture as text, at most so long on its longer side: what previews travel as."""
    small = image.convert("RGB")
    small.thumbnail((longest_side_pixels, longest_side_pixels))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def plural(count: int, noun: str) -> str:
    """`1 step`, `4 steps`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def cost_in_words(plan: StepPlan, num_images: int = 1) -> str:
    """What a click will cost, such as `4 steps, 8 network calls`, for all its pictures."""
    calls = sum(1 if scale == 1 else 2 for scale in plan.guidance)
    words = f"{plural(len(plan.timesteps), 'step')}, {plural(calls, 'network call')}"
    return words if num_images == 1 else f"{num_images} × ({words}) = {num_images * calls} network calls"


def grid_html(plan: StepPlan, num_images: int = 1) -> str:
    """The effective grid: coloured windows, a dot per step, and below each window its steps and guidance."""
    count = plan.num_time_windows
    dots = "".join(_dot_html(plan, step) for step in range(len(plan.timesteps)))
    windows = "".join(_window_html(plan, window) for window in range(count))
    notes = "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
    words = cost_in_words(plan, num_images)
    label = f"{words}, over {plural(count, 'time window')} from noise to picture"
    return (
        f'<figure class="grid" role="group" aria-label="{escape(label)}">'
        f'<div class="grid-ends"><span>noise</span><span>picture</span></div>'
        f'<div class="grid-track"><div class="grid-windows" style="--count:{count}">{windows}</div>{dots}</div>'
        f'<figcaption><span class="cost">{words}</span>{f"<ul>{notes}</ul>" if notes else ""}</figcaption></figure>'
    )


def _dot_html(plan: StepPlan, step: int) -> str:
    timestep, scale = plan.timesteps[step], plan.guidance[step]
    place = 100 * (1 - timestep / NUM_TRAIN_TIMESTEPS)
    title = f"step {step + 1}: timestep {timestep}, {_guidance_words(scale)}"
    hollow = " hollow" if scale == 1 else ""
    return f'<i class="grid-dot{hollow}" style="left:{place:.2f}%" title="{title}"></i>'


def _window_html(plan: StepPlan, window: int) -> str:
    scales = [scale for scale, at in zip(plan.guidance, plan.windows, strict=True) if at == window]
    steps = plural(len(scales), "step") if scales else "passed over"
    guidance = " · ".join(dict.fromkeys(_guidance_words(scale) for scale in scales))
    colours = f"--w:{window_colour(window, plan.num_time_windows)}"
    if plan.num_time_windows == 1:
        colours = "--w:linear-gradient(90deg, var(--stop-0), var(--stop-1), var(--stop-2), var(--stop-3))"
    return (
        f'<div class="grid-window{"" if scales else " skipped"}" style="{colours}">'
        f"<b></b><span>{steps}</span><small>{guidance}</small></div>"
    )


def _guidance_words(scale: float) -> str:
    return "CFG off" if scale == 1 else f"CFG {scale:g}"


def where_in_words(preview: StepDone) -> str:
    """`window 2 of 4, step 2 of 4`, with the picture's number when there are several."""
    words = f"window {preview.window + 1} of {preview.num_time_windows}, step {preview.step} of {preview.num_steps}"
    if preview.num_images > 1:
        return f"picture {preview.image_index + 1} of {preview.num_images}, {words}"
    return words


def progress_html(preview: StepPreview, windows: Sequence[int]) -> str:
    """One segment per step in its window's colour, filled up to this preview's step."""
    colours = [window_colour(window, preview.num_time_windows) for window in windows]
    segments = "".join(
        f'<i class="{"done" if step < preview.step else ""}" style="--w:{colour}"></i>'
        for step, colour in enumerate(colours)
    )
    done = preview.image_index * preview.num_steps + preview.step
    return (
        f'<div class="steps-bar" role="progressbar" aria-label="{where_in_words(preview)}" aria-valuemin="0" '
        f'aria-valuenow="{done}" aria-valuemax="{preview.num_images * preview.num_steps}">{segments}</div>'
    )


def lens_card_html(preview: StepPreview) -> str:
    """One card of the lens: what the network took the final picture to be after this step, and how long it took."""
    colour = window_colour(preview.window, preview.num_time_windows)
    alt = f"Predicted picture after step {preview.step}, window {preview.window + 1} of {preview.num_time_windows}"
    return (
        f'<li class="lens-card" style="--w:{colour}">'
        f'<img src="{data_uri(preview.image, LENS_SIDE_PIXELS)}" alt="{alt}">'
        f"<b>window {preview.window + 1}</b><span>step {preview.step} · t {preview.timestep}</span>"
        f"<span>{_guidance_words(preview.guidance)} · {preview.seconds * 1000:.0f} ms</span></li>"
    )


def lens_html(cards: Sequence[str], num_windows: int) -> str:
    """The window lens: the cards of one picture side by side."""
    if not cards:
        return ""
    return (
        f'<section class="lens" aria-label="Window lens"><h3>Window lens</h3>'
        f"<p>What the network took the picture to be in each of its {plural(num_windows, 'time window')}.</p>"
        f"<ol>{''.join(cards)}</ol></section>"
    )
