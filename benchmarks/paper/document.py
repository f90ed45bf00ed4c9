"""A report as blocks, written as Markdown (pictures beside it) and as one HTML file (pictures inside it).

Knows no measure.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Level 1 to 3."""

    text: str
    level: int = 2


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; `code` in backticks, **bold** in stars."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells are texts; `marks` names a class of colour for a row, by its number."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A PNG, and what is to be seen on it."""

    path: Path
    words: str


Block = Heading | Text | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """Figures by their file names, which lie in the same folder."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Figure):
        return f"![{block.words}]({block.path.name})"
    lines = [f"| {' | '.join(row)} |" for row in (block.head, *block.rows)]
    return "\n".join([lines[0], "|" + "---|" * len(block.head), *lines[1:]])


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One file that needs no other."""
    body = "\n".join(map(_html, blocks))
    return _PAGE.format(title=html.escape(title), style=_STYLE, body=body)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Figure):
        packed = base64.b64encode(block.path.read_bytes()).decode()
        words = html.escape(block.words, quote=True)
        return (
            f'<figure><img alt="{words}" src="data:image/png;base64,{packed}"><figcaption>{words}</figcaption></figure>'
        )
    marks = [*block.marks, *[""] * (len(block.rows) - len(block.marks))]
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.head)
    rows = "\n".join(
        f'<tr class="{mark}">{"".join(f"<td>{_inline(cell)}</td>" for cell in row)}</tr>'
        for row, mark in zip(block.rows, marks, strict=True)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _inline(text: str) -> str:
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe)


_STYLE = """
:root { color-scheme: light dark; --ink: #1d1a26; --paper: #fbfaf8; --line: #e5e1ea; --muted: #676173; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f1eef7; --paper: #131118; --line: #34303f; --muted: #a7a1b5; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1.5rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .55rem; text-align: left; vertical-align: top; }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: #fff; border-radius: 6px; }
figcaption { color: var(--muted); font-size: .88rem; } code { font-size: .9em; overflow-wrap: anywhere; }
tr.reproduced td:nth-child(2) { border-left: 4px solid #f4a41c; }
tr.partly td:nth-child(2) { border-left: 4px solid #ef6a70; }
tr.not-reproduced td:nth-child(2) { border-left: 4px solid #6d4df2; }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""
