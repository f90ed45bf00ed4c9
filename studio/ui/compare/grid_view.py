"""A grid of pictures on the page: labelled rows and columns that fill as cells come, and one cell, large.

Turns values into HTML text: real tables, a button for each drawn cell (`data-pick`). Knows no gradio and draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from studio.comparing.grid import Grid
from studio.comparing.numbers import EXPLAINED
from studio.grids import Prepared, cell_words
from studio.types import GenerationRequest
from studio.ui.compare.shown import settings_in_words
from studio.ui.compare.sweeps import Sweep
from studio.ui.feedback import alt_text

CELL_SIDE_PIXELS = 160
SMALL_SIDE_PIXELS = 112
MANY_CELLS = 40
NOISE = '<div class="stage-noise"></div>'


@dataclass(frozen=True, kw_only=True)
class RowNumbers:
    """How diverse a row's pictures are: `share` of the reference's mean distance, and the Vendi score."""

    share: float | None
    vendi: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownGrid:
    """What the page shows of a grid: its drawn cells as history ids and small pictures, and the chosen one."""

    prepared: Prepared
    reference_row: int | None = None
    ids: Mapping[int, str] = field(default_factory=dict)
    sources: Mapping[int, str] = field(default_factory=dict)
    chosen: int | None = None
    numbers: Sequence[RowNumbers] = ()
    judged_by: str = ""

    @property
    def grid(self) -> Grid:
        """Its axes."""
        return self.prepared.grid

    @property
    def is_whole(self) -> bool:
        """Whether every cell is drawn."""
        return len(self.ids) == self.grid.num_cells


def sweeps_html(costs: Sequence[tuple[Sweep, str]]) -> str:
    """The grids by one click, each with what it shows and what it takes."""
    buttons = "".join(
        f'<button type="button" class="sweep" data-pick="{sweep.id}"><b>{escape(sweep.title)}</b>'
        f"<span>{escape(sweep.shows)}</span><small>{escape(cost)}</small></button>"
        for sweep, cost in costs
    )
    return (
        '<section class="sweeps" aria-label="Grids by one click"><h2>Many at once</h2>'
        '<p class="facts"><span>Every contestant over seeds, steps or scales, with this prompt.</span></p>'
        f'<div class="sweep-row">{buttons}</div></section>'
    )


def grid_sheets_html(shown: ShownGrid, drawing: int | None = None) -> str:
    """All sheets of a grid; `drawing` is the cell at work."""
    sheets = range(shown.grid.shape[2])
    tables = "".join(_sheet_html(shown, sheet, drawing) for sheet in sheets)
    return f'<div class="stage xy-stage">{tables}{_numbers_note(shown)}</div>'


def _sheet_html(shown: ShownGrid, sheet: int, drawing: int | None) -> str:
    grid = shown.grid
    columns, rows, _ = grid.shape
    heads = "".join(f'<th scope="col">{escape(grid.x.label(column))}</th>' for column in range(columns))
    extra = '<th scope="col">Diversity</th><th scope="col">Vendi</th>' if shown.numbers else ""
    corner = escape(grid.x.title) if grid.y is None else f"{escape(grid.y.title)} \\ {escape(grid.x.title)}"
    first = sheet * rows * columns
    lines = "".join(_row_html(shown, row, range(first + row * columns, first + (row + 1) * columns), drawing)
                    for row in range(rows))  # fmt: skip
    title = "" if grid.z is None else f"<caption>{escape(grid.z.title)}: {escape(grid.z.label(sheet))}</caption>"
    request = shown.prepared.requests[0]
    return (
        f'<div class="xy" style="--ratio:{request.width}/{request.height}" role="region" tabindex="0" '
        f'aria-label="Grid of pictures"><table>{title}<thead><tr><th scope="col">{corner}</th>{heads}{extra}</tr>'
        f"</thead><tbody>{lines}</tbody></table></div>"
    )


def _row_html(shown: ShownGrid, row: int, cells: Sequence[int], drawing: int | None) -> str:
    grid = shown.grid
    label = grid.y.label(row) if grid.y is not None else ""
    mark = '<em class="tag">reference</em>' if row == shown.reference_row else ""
    pictures = "".join(f"<td>{_cell_html(shown, cell, is_drawing=cell == drawing)}</td>" for cell in cells)
    extra = ""
    if shown.numbers:
        numbers = shown.numbers[row]
        share = "–" if numbers.share is None else f"{numbers.share:.0%}"
        extra = f'<td class="xy-number">{share}</td><td class="xy-number">{numbers.vendi:.2f}</td>'
    return f'<tr><th scope="row"><span>{escape(label)}</span>{mark}</th>{pictures}{extra}</tr>'


def _cell_html(shown: ShownGrid, cell: int, *, is_drawing: bool) -> str:
    words = escape(cell_words(shown.grid, cell))
    if cell not in shown.sources:
        state = "is being drawn" if is_drawing else "is not drawn yet"
        return f'<span class="xy-cell" role="img" aria-label="{words} {state}">{NOISE if is_drawing else ""}</span>'
    alt = escape(alt_text(shown.prepared.requests[cell], shown.prepared.requests[cell].seed))
    return (
        f'<button type="button" class="xy-cell" data-pick="cell-{cell}" title="{words}" '
        f'aria-pressed="{str(cell == shown.chosen).lower()}" aria-label="{words}">'
        f'<img src="{shown.sources[cell]}" alt="{alt}" decoding="sync"></button>'
    )


def _numbers_note(shown: ShownGrid) -> str:
    if not shown.numbers:
        return ""
    return (
        f'<p class="facts"><span>Diversity: {escape(EXPLAINED["diversity"])}</span>'
        f"<span>Vendi: {escape(EXPLAINED['vendi'])}</span><span>Compared in {escape(shown.judged_by)}.</span></p>"
    )


def cell_card_html(shown: ShownGrid, source: str) -> str:
    """The chosen cell, large, with what made it."""
    assert shown.chosen is not None
    request: GenerationRequest = shown.prepared.requests[shown.chosen]
    words = cell_words(shown.grid, shown.chosen)
    return (
        f'<article class="cell-card" aria-label="{escape(words)}">'
        f'<img src="{source}" alt="{escape(alt_text(request, request.seed))}" style="--ratio:{request.width}/'
        f'{request.height}" decoding="sync"><div><h3>{escape(words)}</h3>'
        f'<p class="facts"><span>{escape(settings_in_words(request))}</span><span>seed {request.seed}</span>'
        f"<span>{escape(request.prompt) or 'no prompt'}</span></p></div></article>"
    )
