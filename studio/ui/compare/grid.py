"""Grids on the page: drawing them cell by cell, stopping and resuming, looking at one cell.

A cell that is drawn is in the history, so a grid that was stopped goes on where it was. One piece of work per session
and tab: a contest and a grid do not run at once. This module does not know how pictures are made.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image

from studio.comparing.numbers import mean_distance, plain_features, vendi
from studio.errors import InvalidRequest, NotFound, StudioError
from studio.grids import CellDone, CellDrawing, GridResult, cell_words
from studio.ui.compare.contest import BUSY, Contest
from studio.ui.compare.grid_layout import GridParts
from studio.ui.compare.grid_view import (
    CELL_SIDE_PIXELS,
    MANY_CELLS,
    SMALL_SIDE_PIXELS,
    RowNumbers,
    ShownGrid,
    cell_card_html,
    grid_sheets_html,
)
from studio.ui.compare.sweeps import SWEEPS, rows_over_seeds
from studio.ui.compare.wishes import Asked, Wishes
from studio.ui.feedback import event_in_words, failure_html
from studio.ui.form import Updates, Values
from studio.ui.plain_html import picked
from studio.ui.windows_view import data_uri

if TYPE_CHECKING:
    import threading

    from studio.services import Services

SECONDS_BETWEEN_UPDATES = 0.3


class Grids:
    """The handlers of grids, each from the page's values to updates of the page."""

    def __init__(self, services: Services, contest: Contest, parts: GridParts) -> None:
        self.services, self.contest, self.parts = services, contest, parts
        self.wishes = Wishes(services, contest, parts)

    @property
    def inputs(self) -> set[Any]:
        """Everything a grid is read from."""
        return self.wishes.inputs

    @property
    def outputs(self) -> list[Any]:
        """Everything that drawing a grid may change."""
        return [*self.parts.outputs, *self.contest.fields.error_places]

    # --- drawing ---

    def draw_sweep(self, values: Values, event: gr.EventData, session: gr.Request) -> Iterator[Updates]:
        """One of the grids by one click."""
        sweep = next((each for each in SWEEPS if each.id == picked(event)), None)
        if sweep is not None:
            yield from self._draw(partial(self.wishes.sweep, values, sweep), session)

    def draw_built(self, values: Values, session: gr.Request) -> Iterator[Updates]:
        """The builder's grid; what is there of it already is not drawn again."""
        yield from self._draw(partial(self.wishes.built, values), session)

    def resume(self, values: Values, session: gr.Request) -> Iterator[Updates]:
        """The grid on the page, where it was stopped."""
        shown: ShownGrid | None = values[self.parts.shown]
        if shown is not None:
            asked = Asked(grid=shown.grid, reference_row=shown.reference_row)
            yield from self._draw(lambda: asked, session)

    def cancel(self, session: gr.Request) -> Updates:
        """Cancel or Esc: the work ends within one step."""
        if not self.contest.stops.stop(session.session_hash):
            return {self.parts.cancel: gr.skip()}
        return {self.parts.cancel: gr.update(value="Stopping…", interactive=False)}

    def _draw(self, ask: Callable[[], Asked], session: gr.Request) -> Iterator[Updates]:
        parts = self.parts
        with self.contest.stops.enter(session.session_hash) as stop:
            if stop is None:
                yield {parts.words: BUSY}
                return
            try:
                asked = ask()
                prepared = self.services.grids.prepare(asked.grid)
                shown = ShownGrid(prepared=prepared, reference_row=asked.reference_row)
                yield {**self.wishes.errors(None), **self._begin(shown)}
                yield from self._work(shown, stop)
            except InvalidRequest as error:
                yield {**self.wishes.errors(error), **self._idle()}
            except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
                yield {**self._idle(), parts.error: failure_html(error)}

    def _work(self, shown: ShownGrid, stop: threading.Event) -> Iterator[Updates]:
        parts, told = self.parts, 0.0
        with closing(self.services.grids.run(shown.prepared)) as events:  # pyright: ignore[reportArgumentType]
            for event in events:
                if isinstance(event, GridResult):
                    yield self._end(shown, self._result_words(shown))
                    return
                if stop.is_set():
                    break
                if isinstance(event, CellDone):
                    shown = self._with_cell(shown, event)
                elif not isinstance(event, CellDrawing):
                    continue
                if time.monotonic() - told >= SECONDS_BETWEEN_UPDATES:
                    told = time.monotonic()
                    yield {parts.words: _words(shown, event), parts.stage: grid_sheets_html(shown, event.cell)}
        yield self._end(shown, f"Cancelled: {len(shown.ids)} of {shown.grid.num_cells} cells are there and stay.")

    def _with_cell(self, shown: ShownGrid, event: CellDone) -> ShownGrid:
        side = SMALL_SIDE_PIXELS if event.num_cells > MANY_CELLS else CELL_SIDE_PIXELS
        return replace(
            shown, ids={**shown.ids, event.cell: event.history_id},
            sources={**shown.sources, event.cell: data_uri(event.image, side)},
        )  # fmt: skip

    def _begin(self, shown: ShownGrid) -> Updates:
        parts = self.parts
        return {
            parts.run: gr.update(interactive=False),
            parts.words: "Starting…",
            parts.cancel: gr.update(visible=True, value="Cancel", interactive=True),
            parts.resume: gr.update(visible=False),
            parts.download_sheet: gr.update(visible=False),
            parts.stage: grid_sheets_html(shown),
            parts.cell: "",
            parts.actions: gr.update(visible=False),
            parts.shown: None,
            parts.chosen: None,
        }

    def _idle(self) -> Updates:
        parts = self.parts
        return {
            parts.run: gr.update(interactive=True, value="Draw this grid"), parts.words: "",
            parts.cancel: gr.update(visible=False),
        }  # fmt: skip

    def _end(self, shown: ShownGrid, words: str) -> Updates:
        parts = self.parts
        if shown.is_whole:
            shown = self._measured(shown)
        return {
            **self._idle(),
            parts.words: words,
            parts.resume: gr.update(visible=not shown.is_whole, value=f"Resume: {len(shown.ids)} are there"),
            parts.download_sheet: gr.update(visible=bool(shown.ids)),
            parts.stage: grid_sheets_html(shown),
            parts.shown: shown,
        }

    def _result_words(self, shown: ShownGrid) -> str:
        before = len(shown.prepared.done)
        there = f", {before} of them were there already" if before else ""
        return f"{shown.grid.num_cells} cells{there}. Click one to see it large."

    def _measured(self, shown: ShownGrid) -> ShownGrid:
        """Rows over seeds tell how diverse they are."""
        rows = rows_over_seeds(shown.grid)
        if rows is None:
            return shown
        requests = shown.prepared.requests
        family = self.services.catalog.model(requests[0].model).family
        features, judged_by = [], "a judge network's features"
        for row in rows:
            pictures = [self._picture(shown.ids[cell]) for cell in row]
            seen = self.services.judges.see(family, pictures)
            if seen is None:
                judged_by = "small copies' pixels: there is no judge of this model's pictures"
                features.append(plain_features(pictures))
            else:
                features.append(np.stack([each.features for each in seen]))
        return replace(shown, numbers=diversity(features, shown.reference_row), judged_by=judged_by)

    def _picture(self, history_id: str) -> Image.Image:
        with Image.open(self.services.history.get(history_id).path, formats=("PNG",)) as file:
            return file.convert("RGB")

    # --- looking and leaving ---

    def pick(self, shown: ShownGrid | None, event: gr.EventData) -> Updates:
        """A cell, large."""
        parts, choice = self.parts, picked(event).removeprefix("cell-")
        if shown is None or not choice.isdecimal() or int(choice) not in shown.ids:
            return {parts.cell: gr.skip()}
        now = replace(shown, chosen=int(choice))
        history_id = shown.ids[int(choice)]
        try:
            source = base64.b64encode(self.services.history.get(history_id).path.read_bytes()).decode("ascii")
        except (StudioError, OSError) as error:
            raise gr.Error("This picture is gone from the history: draw the grid again.", duration=6,
                           print_exception=False) from error  # fmt: skip
        return {
            parts.cell: cell_card_html(now, f"data:image/png;base64,{source}"),
            parts.stage: grid_sheets_html(now),
            parts.actions: gr.update(visible=True),
            parts.shown: now,
            parts.chosen: history_id,
        }

    def export(self, shown: ShownGrid | None) -> Path:
        """The sheet of what is drawn. Raises `NotFound` where nothing is."""
        if shown is None:
            raise NotFound("There is no grid on the page yet: draw one first.")
        return self.services.grids.export(shown.prepared)


def diversity(features: list[np.ndarray], reference: int | None) -> tuple[RowNumbers, ...]:
    """Rows' mean distances relative to the reference's, and their Vendi scores, from features `[N, D]` of each row."""
    distances = [mean_distance(each) for each in features]
    whole = None if reference is None else distances[reference]
    return tuple(
        RowNumbers(share=distance / whole if whole else None, vendi=vendi(each))
        for distance, each in zip(distances, features, strict=True)
    )


def _words(shown: ShownGrid, event: CellDone | CellDrawing) -> str:
    count = f"{len(shown.ids)} of {shown.grid.num_cells} cells"
    if isinstance(event, CellDone):
        return f"{count} are there."
    told = event_in_words(event.event)  # pyright: ignore[reportArgumentType]  # results come as cells
    return f"{count} are there. {cell_words(shown.grid, event.cell)}: {told}"
