"""The stage: the large picture at the right, from the empty page over live previews to the result.

Each function turns a state of the work into the HTML of the stage; buttons in it carry `data-pick`, which the page's
`select` event hands back to Python. This module does not know gradio, nor how pictures are made.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from studio.types import GeneratedImage, GenerationRequest, GenerationResult, StepPreview
from studio.ui.feedback import alt_text
from studio.ui.theme import STOPS
from studio.ui.windows_view import data_uri, lens_card_html, progress_html

THUMBNAIL_SIDE_PIXELS = 128
SCENE = (
    '<svg viewBox="0 0 64 64"><rect width="64" height="64" fill="#dfe6ee"/>'
    '<rect y="34" width="64" height="30" fill="#c9c2b8"/>'
    '<path d="M10 26l14-5 12 4v20l-13 5-13-5z" fill="#d3372f"/><path d="M23 31l13-6v20l-13 5z" fill="#a5231f"/>'
    '<path d="M10 26l14-5 12 4-13 6z" fill="#ee6a5c"/><path d="M47 28l8 18q-8 5-16 0z" fill="#3f6fd1"/>'
    '<path d="M47 28l8 18q-4 2.500-8 2.500z" fill="#2f55a8"/></svg>'
)
"""The empty page's little drawing: a red cube to the left of a blue cone."""


@dataclass(frozen=True, kw_only=True)
class ShownPicture:
    """One finished picture as the page shows it; `source` is a data URI of the original file."""

    source: str
    thumbnail: str
    alt: str
    seed: int
    history_id: str | None
    lens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the stage holds after a generation: its pictures and which one is large."""

    request: GenerationRequest
    pictures: tuple[ShownPicture, ...]
    num_time_windows: int
    chosen: int = 0


def shown_result(result: GenerationResult) -> Shown:
    """A result as the page will show it."""
    return Shown(
        request=result.request,
        pictures=tuple(_shown_picture(image, result.request) for image in result.images),
        num_time_windows=result.receipt.plan.num_time_windows,
    )


def _shown_picture(image: GeneratedImage, request: GenerationRequest) -> ShownPicture:
    if image.path is not None:
        source = "data:image/png;base64," + base64.b64encode(image.path.read_bytes()).decode("ascii")
    else:
        source = data_uri(image.image, max(image.image.size))
    return ShownPicture(
        source=source,
        thumbnail=data_uri(image.image, THUMBNAIL_SIDE_PIXELS),
        alt=alt_text(request, image.seed),
        seed=image.seed,
        history_id=image.history_id,
        lens=tuple(lens_card_html(preview) for preview in image.lens),
    )


def empty_html(example: str) -> str:
    """Before the first picture: what this page does, one example, one button."""
    last = len(STOPS) - 1
    tiles = "".join(
        f'<span style="--w:{colour}; --grain:{1 - i / last:.2f}">{SCENE}</span>' for i, colour in enumerate(STOPS)
    )
    return (
        f'<div class="stage empty"><div class="stage-tiles" aria-hidden="true">{tiles}</div>'
        f"<h2>From noise to picture in four steps</h2>"
        f"<p>Write what you want to see, or begin with an example:</p>"
        f'<p class="stage-example">“{escape(example)}”</p>'
        f'<button type="button" class="pill primary" data-pick="example">Draw this</button></div>'
    )


def frame_html(inner: str, request: GenerationRequest, *, busy: bool = False) -> str:
    """The fixed frame in the picture's proportions, so that nothing jumps while previews come."""
    ratio = f"--ratio:{request.width}/{request.height}; --aspect:{request.width / request.height:.4f}"
    return f'<div class="stage{" busy" if busy else ""}"><div class="stage-frame" style="{ratio}">{inner}</div></div>'


def waiting_html(request: GenerationRequest, fraction: float | None = None) -> str:
    """Work was accepted and no preview is there yet: a queue, a download, weights being read."""
    bar = "" if fraction is None else f'<progress max="1" value="{fraction:.3f}" aria-label="Loading"></progress>'
    return frame_html(f'<div class="stage-noise"></div>{bar}', request, busy=True)


def preview_html(preview: StepPreview, request: GenerationRequest, windows: Sequence[int]) -> str:
    """The prediction of the final picture so far, over its progress."""
    alt = f"Preview after step {preview.step} of {preview.num_steps}"
    image = f'<img class="stage-picture preview" src="{data_uri(preview.image)}" alt="{alt}" decoding="sync">'
    return frame_html(image + progress_html(preview, windows), request, busy=True)


def result_html(shown: Shown) -> str:
    """The finished picture, large, and buttons for the others of its batch."""
    picture = shown.pictures[shown.chosen]
    image = f'<img class="stage-picture result" src="{picture.source}" alt="{escape(picture.alt)}" decoding="sync">'
    return frame_html(image, shown.request) + _batch_html(shown)


def _batch_html(shown: Shown) -> str:
    if len(shown.pictures) == 1:
        return ""
    buttons = "".join(
        f'<button type="button" data-pick="{index}" aria-pressed="{str(index == shown.chosen).lower()}">'
        f'<img src="{picture.thumbnail}" alt="Picture {index + 1}, seed {picture.seed}"></button>'
        for index, picture in enumerate(shown.pictures)
    )
    return f'<div class="stage-batch" role="group" aria-label="Pictures of this batch">{buttons}</div>'


def failed_html(words: str) -> str:
    """What went wrong, in place of the picture."""
    return f'<div class="stage failed" role="alert"><h2>No picture this time</h2><p>{escape(words)}</p></div>'
