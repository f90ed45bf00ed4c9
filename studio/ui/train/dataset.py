"""A dataset as the page shows it: how many pictures are kept and why others are not, how large they are, in which
shapes they will be trained, what some of them look like and say.

All functions turn a summary into HTML text; every string from a stranger's file is escaped. This module does not know
gradio, nor where pictures are kept.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from studio.datasets.buckets import Bucket
from studio.datasets.manifest import DatasetSummary, Reason, SideCount
from studio.ui.feedback import bytes_in_words
from studio.ui.windows_view import plural

TABLETOP_HTML = (
    '<div class="dataset-card"><p class="dataset-counts"><b>Tabletop scenes</b><span>rendered when the run begins'
    "</span></p><p>The built-in little world, with captions that leave nothing unsaid. Nothing to bring and nothing to "
    "download: the quickest way to see a run from beginning to end.</p></div>"
)
EMPTY_HTML = (
    '<div class="dataset-card empty"><p>No pictures yet. Drop a zip (or single pictures) below: captions come from '
    ".txt files beside the pictures, from metadata.jsonl or metadata.csv, or one caption for all. Nothing starts "
    "before you have seen what will be used and why.</p></div>"
)


def summary_html(summary: DatasetSummary, thumbnails: Sequence[tuple[bytes, str]]) -> str:
    """The whole card; `thumbnails` are JPEG bytes and captions."""
    facts = [
        f"{plural(summary.num_kept, 'picture')} kept of {plural(summary.num_files, 'file')}",
        bytes_in_words(summary.num_bytes),
        summary.num_rotated and f"{summary.num_rotated} turned upright",
        summary.num_without_caption and f"{summary.num_without_caption} without a caption",
        summary.num_smaller
        and f"{summary.num_smaller} smaller than {summary.resolution} × {summary.resolution}: enlarged",
    ]
    line = "".join(f"<span>{escape(str(fact))}</span>" for fact in facts if fact)
    return (
        f'<div class="dataset-card"><p class="dataset-counts"><b>{escape(summary.title)}</b>{line}</p>'
        f"{_warnings(summary.warnings)}{_dropped(summary.num_dropped, summary.reasons)}{_thumbnails(thumbnails)}"
        f'<div class="dataset-sizes">{_sides(summary.sides)}{_buckets(summary.buckets, summary.resolution)}</div>'
        f"{_captions(summary.captions)}</div>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return f'<ul class="run-warnings">{"".join(f"<li>{escape(each)}</li>" for each in warnings[:8])}</ul>'


def _dropped(count: int, reasons: Sequence[Reason]) -> str:
    """Why files are not used: by reason, with names; open, because nobody should miss it."""
    if not count:
        return '<p class="facts"><span>Every picture file is used.</span></p>'
    rows = "".join(_reason(each) for each in reasons)
    return f'<details class="dropped" open><summary>{plural(count, "file")} not used</summary><ul>{rows}</ul></details>'


def _reason(reason: Reason) -> str:
    examples = "".join(f"<li>{escape(each)}</li>" for each in reason.examples)
    more = reason.count - len(reason.examples)
    rest = f"<li>and {more} more</li>" if more > 0 and reason.examples else ""
    return f"<li><b>{escape(reason.kind)}</b> × {reason.count}<ul>{examples}{rest}</ul></li>"


def _thumbnails(thumbnails: Sequence[tuple[bytes, str]]) -> str:
    if not thumbnails:
        return ""
    cells = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(content).decode("ascii")}" loading="lazy" '
        f'alt="{escape(caption) or "picture without a caption"}" title="{escape(caption)}">'
        for content, caption in thumbnails
    )
    return f'<div class="thumbnails">{cells}</div>'


def _sides(sides: Sequence[SideCount]) -> str:
    """How many pictures there are of each size, by their shorter side."""
    most = max((side.count for side in sides), default=0)
    if not most:
        return ""
    rows = "".join(
        f'<div><dt>{f"{side.low}+" if side.high is None else f"{side.low} to {side.high - 1}"}</dt>'
        f'<dd><i style="width:{100 * side.count / most:.0f}%"></i>{side.count}</dd></div>'
        for side in sides
    )  # fmt: skip
    return f'<figure><figcaption>Shorter side in pixels</figcaption><dl class="histogram">{rows}</dl></figure>'


def _buckets(buckets: Sequence[Bucket], resolution: int) -> str:
    """The shapes of training, drawn to scale, each with its number of pictures."""
    if not buckets:
        return ""
    longest = max(max(bucket.width, bucket.height) for bucket in buckets)
    cells = "".join(
        f'<li class="{"repeats" if bucket.repeats else ""}"><i style="--bw:{bucket.width / longest:.3f};'
        f'--bh:{bucket.height / longest:.3f}"></i><b>{bucket.count}</b>'
        f"<span>{bucket.width} × {bucket.height}</span></li>"
        for bucket in buckets
    )
    return f'<figure><figcaption>Shapes at {resolution} pixels</figcaption><ol class="buckets">{cells}</ol></figure>'


def _captions(captions: Sequence[str]) -> str:
    if not captions:
        return '<p class="facts"><span>No picture has a caption: the base learns them without words.</span></p>'
    rows = "".join(f"<li>{escape(caption)}</li>" for caption in captions[:6])
    return f'<details class="captions"><summary>Some captions</summary><ul>{rows}</ul></details>'
