"""Words and pictures of the Upscale tab: what it will take, tiles at work, how the result measures. Knows no gradio."""

from __future__ import annotations

import io
from html import escape

from PIL import Image

from studio.specs import UpscaleSpec
from studio.types import GenerationRequest, StepDone, StepPlan, StepPreview, UpscaleReport
from studio.ui import stage
from studio.ui.windows_view import data_uri, grid_html, plural, where_in_words
from studio.upscales import Estimate, Measured
from studio.upscaling.measures import heat_map

EMPTY = (
    '<div class="stage empty"><h2>Larger, and drawn to the last pixel</h2><p>Give a picture at the left, or send one '
    "from another tab. It is enlarged and refined tile by tile; tiles meet in the latents, so no seam arises.</p></div>"
)
COMPARED_SIDE_PIXELS = 4096
NO_CONTROL_HERE = "No tile ControlNet for this model is here: tiles are held by their own beginning alone."


def facts_html(spec: UpscaleSpec, *, has_control: bool) -> str:
    """What the model does best with, and why; and whether anything holds its tiles."""
    words = spec.reason if has_control else f"{NO_CONTROL_HERE} {spec.reason}"
    return f'<p class="facts"><span>{escape(words)}</span></p>'


def estimate_html(estimate: Estimate, plan: StepPlan) -> str:
    """What a click will make and take, and the steps of each tile."""
    words = (
        f"{estimate.width} × {estimate.height} pixels: {plural(estimate.num_tiles, 'tile')}, "
        f"{plural(estimate.num_network_calls, 'network call')}"
    )
    return f'<p class="facts"><span class="cost">{words}. </span>Each tile:</p>{grid_html(plan)}'


def tile_in_words(event: StepDone) -> str:
    """`Tile 5 of 16: window 4 of 4, step 1 of 1.`"""
    return f"Tile {event.tile} of {event.num_tiles}: {where_in_words(event)}."


def tiles_html(event: StepPreview, request: GenerationRequest) -> str:
    """The canvas so far, over how many of its tiles are done."""
    alt = f"The picture after tile {event.tile} of {event.num_tiles}"
    image = f'<img class="stage-picture preview" src="{data_uri(event.image)}" alt="{alt}" decoding="sync">'
    share = 100 * event.tile / event.num_tiles
    bar = (
        f'<div class="tiles-bar" role="progressbar" aria-label="{alt}" aria-valuemin="0" aria-valuenow="{event.tile}" '
        f'aria-valuemax="{event.num_tiles}"><i style="width:{share:.1f}%"></i></div>'
    )
    return stage.frame_html(image + bar, request, busy=True)


def measures_html(report: UpscaleReport) -> str:
    """Seams and fidelity, with what they mean."""
    seams = f"{report.seam_ratio:.2f}"
    if report.seam_ratio_before is not None:
        seams = f"{report.seam_ratio_before:.2f} → {seams}"
    rows = (
        ("Seams", seams, "gradient energy across tile borders over that beside them; 1 or less: none"),
        ("Worst stretch", f"{report.worst_seam:.2f}", "of all tile borders"),
        ("Fidelity", f"{report.psnr:.1f} dB", "the result, shrunk, against the picture it came from (PSNR)"),
    )
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><small>{words}</small></div>" for name, value, words in rows)
    return f'<dl class="measures">{cells}</dl>'


def heat_html(measured: Measured, threshold: float) -> str:
    """The picture with its tile borders coloured, and how many show."""
    count = len(measured.seams.above(threshold))
    total = len(measured.seams.all)
    words = (
        f"{count} of {plural(total, 'stretch').replace('stretchs', 'stretches')} of tile border above {threshold:g}."
    )
    picture = data_uri(heat_map(measured.picture, measured.seams.all, threshold))
    alt = f"Heat map of tile borders: {words}"
    return (
        f'<figure class="heat"><img src="{picture}" alt="{escape(alt)}"><figcaption>{escape(words)} Red: above; amber: '
        f"below, the stronger the nearer.</figcaption></figure>"
    )


def jpeg_for_comparison(image: Image.Image) -> bytes:
    """A picture for the slider: all its pixels up to 4096 a side."""
    shown = image
    if max(image.size) > COMPARED_SIDE_PIXELS:
        shown = image.copy()
        shown.thumbnail((COMPARED_SIDE_PIXELS, COMPARED_SIDE_PIXELS))
    file = io.BytesIO()
    shown.save(file, format="JPEG", quality=95, subsampling=0)
    return file.getvalue()
