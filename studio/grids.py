"""What the page and the API may call to draw grids of pictures: checked before any work, resumable, on one sheet.

grid -> `prepare` (every cell's request, its cost, what is drawn already) -> `run` (cell by cell, the accelerator
changed as rarely as can be) -> `sheet`. A cell is a picture of the history like any other; beside the history,
`grids/<id>.json` remembers which picture is which cell, so a grid that was cancelled, or met a crash, goes on where it
was when the same grid is asked for again. This module knows neither gradio nor torch.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from studio.comparing.grid import Grid
from studio.comparing.sheet import compose, encode
from studio.errors import InvalidRequest, NotFound, StorageError
from studio.history import History, HistoryEntry
from studio.storage import storage_error, write_whole
from studio.types import GenerationEvent, GenerationRequest, GenerationResult, StepPlan

LOG = logging.getLogger(__name__)
TAB = "grid"
MAX_CALLS = 20_000
NUM_REMEMBERED = 64

Generate = Callable[..., Iterator[GenerationEvent]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A grid before the click: its cells' requests and plans, the pictures that are there, and the cost of the rest.

    `seconds` is an estimate from what this studio measured lately, `None` before it has drawn anything.
    """

    grid: Grid
    requests: tuple[GenerationRequest, ...]
    plans: tuple[StepPlan, ...]
    done: dict[int, str]
    seconds: float | None

    @property
    def missing(self) -> tuple[int, ...]:
        """Cells still to be drawn, those of one accelerator together."""
        left = [cell for cell in range(len(self.requests)) if cell not in self.done]

        def worn(cell: int) -> tuple[str, str, float]:
            request = self.requests[cell]
            return request.model, request.accelerator, request.accelerator_strength

        groups = {key: place for place, key in enumerate(dict.fromkeys(map(worn, left)))}
        return tuple(sorted(left, key=lambda cell: groups[worn(cell)]))

    @property
    def num_network_calls(self) -> int:
        """Of the cells still to be drawn."""
        return sum(self.plans[cell].num_network_calls for cell in self.missing)


@dataclass(frozen=True, kw_only=True)
class CellDrawing:
    """A step, a wait or a load of a cell."""

    cell: int
    event: GenerationEvent


@dataclass(frozen=True, kw_only=True, eq=False)
class CellDone:
    """A cell's picture is in the history; `num_done` of all cells are."""

    cell: int
    history_id: str
    image: Image.Image
    num_done: int
    num_cells: int


@dataclass(frozen=True, kw_only=True, eq=False)
class GridResult:
    """The last event: every cell's picture."""

    prepared: Prepared
    history_ids: tuple[str, ...]


GridEvent = CellDrawing | CellDone | GridResult


@dataclass(kw_only=True)
class _Pace:
    """Seconds a network call of each model took lately, all in."""

    seconds: dict[str, deque[float]] = field(default_factory=dict)

    def learn(self, result: GenerationResult) -> None:
        calls = result.receipt.num_network_calls
        if calls:
            known = self.seconds.setdefault(result.request.model, deque(maxlen=NUM_REMEMBERED))
            known.append((result.seconds - result.receipt.seconds_load) / calls)

    def estimate(self, model: str, num_calls: int) -> float | None:
        known = self.seconds.get(model)
        return num_calls * statistics.median(known) if known else None


class Grids:
    """Grids, on the house's terms; built by `Services`, whose `resolve`, `plan` and `generate` draw every cell."""

    def __init__(
        self, data_dir: Path, history: History, resolve: Callable[..., GenerationRequest],
        plan: Callable[[GenerationRequest], StepPlan], generate: Generate,
    ) -> None:  # fmt: skip
        self._folder, self._history = data_dir / "grids", history
        self._resolve, self._plan, self._generate = resolve, plan, generate
        self._pace = _Pace()

    def prepare(self, grid: Grid) -> Prepared:
        """Check every cell and say what it will cost. Raises `InvalidRequest` naming the cell's labels and field.

        A random seed (-1) in the base becomes one concrete seed for all cells.
        """
        seeded = self._seeded(grid)
        requests = tuple(self._request(seeded, cell) for cell in range(seeded.num_cells))
        plans = tuple(map(self._plan, requests))
        done = self._drawn(seeded, requests)
        prepared = Prepared(grid=seeded, requests=requests, plans=plans, done=done, seconds=None)
        if prepared.num_network_calls > MAX_CALLS:
            expected = f"at most {MAX_CALLS:,} network calls: fewer cells or fewer steps"
            raise InvalidRequest("axis", expected, f"{prepared.num_network_calls:,}")
        return replace(prepared, seconds=self._seconds(prepared))

    def _seeded(self, grid: Grid) -> Grid:
        if any(axis.name == "seed" for axis in grid.axes):
            return replace(grid, base={**grid.base, "seed": 0})
        return replace(grid, base={**grid.base, "seed": self._resolve(prompt="", seed=grid.base.get("seed", -1)).seed})

    def _request(self, grid: Grid, cell: int) -> GenerationRequest:
        try:
            return self._resolve(**{"prompt": "", **grid.choices(cell)})
        except InvalidRequest as error:
            where = f"{error.expected} (in the cell {cell_words(grid, cell)})"
            raise InvalidRequest(error.field, where, error.got) from error

    def _seconds(self, prepared: Prepared) -> float | None:
        parts = [
            self._pace.estimate(prepared.requests[cell].model, prepared.plans[cell].num_network_calls)
            for cell in prepared.missing
        ]
        return None if None in parts else sum(part for part in parts if part is not None)

    # --- running ---

    def run(self, prepared: Prepared) -> Iterator[GridEvent]:
        """`CellDone` for what is there already and for each cell as it is drawn, and last the `GridResult`.

        Closing the iterator stops within a step; cells that are done are kept. Raises what `generate` raises.
        """
        total, done = len(prepared.requests), dict(prepared.done)
        for cell in sorted(done):
            yield CellDone(cell=cell, history_id=done[cell], image=self._picture(done[cell]), num_done=len(done),
                           num_cells=total)  # fmt: skip
        for cell in prepared.missing:
            with closing(self._generate(prepared.requests[cell], tab=TAB, previews=False)) as events:  # pyright: ignore[reportArgumentType]
                for event in events:
                    if not isinstance(event, GenerationResult):
                        yield CellDrawing(cell=cell, event=event)
                        continue
                    self._pace.learn(event)
                    done[cell] = _saved_id(event)
                    self._remember(prepared.grid, done)
                    yield CellDone(cell=cell, history_id=done[cell], image=event.images[0].image,
                                   num_done=len(done), num_cells=total)  # fmt: skip
        yield GridResult(prepared=prepared, history_ids=tuple(done[cell] for cell in range(total)))

    def sheet(self, grid: Grid, history_ids: dict[int, str]) -> bytes:
        """The grid so far as one PNG: labelled axes, empty places where nothing is drawn, and all settings inside."""
        pictures = {cell: self._picture(id) for cell, id in history_ids.items()}
        requests = {cell: self._history.get(id).request.to_json() for cell, id in history_ids.items()}
        return encode(compose(grid, pictures), grid, requests)

    def export(self, prepared: Prepared) -> Path:
        """The sheet of what is drawn by now, as a file to fetch. Raises `NotFound` where nothing is."""
        done = self._drawn(prepared.grid, prepared.requests)
        if not done:
            raise NotFound("Nothing of this grid is drawn yet: run it first.")
        return self._history.export_file(f"grid-{prepared.grid.id}.png", self.sheet(prepared.grid, done))

    def cells(self, prepared: Prepared) -> dict[int, str]:
        """Which picture of the history each drawn cell is."""
        return self._drawn(prepared.grid, prepared.requests)

    # --- what is there ---

    def _path(self, grid: Grid) -> Path:
        return self._folder / f"{grid.id}.json"

    def _drawn(self, grid: Grid, requests: tuple[GenerationRequest, ...]) -> dict[int, str]:
        """Cells whose picture is still in the history and still is what the cell asks for."""
        try:
            remembered: dict[str, Any] = json.loads(self._path(grid).read_text(encoding="utf-8"))["cells"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError):
            LOG.warning("The notes of grid %s cannot be read: it is drawn anew.", grid.id)
            return {}
        found = {}
        for cell, request in enumerate(requests):
            entry = self._entry(remembered.get(str(cell)))
            if entry is not None and entry.request == request and entry.path.is_file():
                found[cell] = entry.id
        return found

    def _entry(self, id: str | None) -> HistoryEntry | None:
        try:
            return self._history.get(id) if id else None
        except NotFound:
            return None

    def _remember(self, grid: Grid, done: dict[int, str]) -> None:
        notes = {"grid": grid.to_json(), "cells": {str(cell): id for cell, id in sorted(done.items())}}
        try:
            write_whole(self._path(grid), json.dumps(notes, indent=1).encode(), sync=False)
        except OSError as error:
            raise storage_error(self._folder, error) from error

    def _picture(self, id: str) -> Image.Image:
        with Image.open(self._history.get(id).path, formats=("PNG",)) as file:
            return file.convert("RGB")


def cell_words(grid: Grid, cell: int) -> str:
    """`Steps 4, CFG 1.5`: where a cell stands, for a person."""
    place = grid.places()[cell]
    named = [(axis, place[i]) for i, axis in enumerate((grid.x, grid.y, grid.z)) if axis is not None]
    return ", ".join(f"{axis.title} {axis.label(index)}" for axis, index in named)


def _saved_id(result: GenerationResult) -> str:
    id = result.images[0].history_id
    if id is None:
        raise StorageError(f"A cell was drawn but could not be saved. {result.receipt.warnings[-1]}")
    return id
