"""The typed endpoints for fair contests and grids: /compare and /grid.

Both are told like /text_to_image: JSON of the state until the files are there. Cells and contestants that are done by
the time a client cancels stay in the history. Annotations are evaluated here (no `from __future__ import annotations`),
because gradio documents the API from them.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

from studio.comparing.grid import Grid
from studio.comparing.numbers import EXPLAINED
from studio.comparisons import ComparisonResult, Drawing, Entry
from studio.errors import StorageError
from studio.grids import CellDone, GridResult, cell_words
from studio.services import RANDOM_SEED, Services
from studio.types import GenerationEvent

Files = list[FileData]
Json = dict[str, Any]
Drawn = Iterator[tuple[Files, Json]]


def compare_endpoints(
    services: Services, file: Callable[[Path], FileData], state: Callable[[GenerationEvent], Json]
) -> tuple[Callable[..., Any], ...]:
    """The functions that draw; `file` hands a picture over, `state` tells of an event."""

    def compare(
        prompt: str,
        contestants: list[dict[str, Any]] | None = None,
        negative_prompt: str = "",
        equal: str = "own",
        budget: float | None = None,
        reference: int | None = None,
        rounds: int = 3,
        width: int | None = None,
        height: int | None = None,
        seed: int = RANDOM_SEED,
    ) -> Drawn:
        """Draw 2 to 4 contestants from the same prompt, seed and noise; their files, and JSON of what they cost.

        A contestant is an object of model, accelerator, accelerator_strength, steps and guidance, each of which may be
        left out for the recommended value; none at all is LCM against PeRFlow with the bare model in many steps as the
        reference. equal is own, steps, calls or time, budget what all but the reference then have (seconds for time;
        left out, the first contestant's). reference is the index of the one that distances are taken to. rounds are
        timed after the first pass. explained in the report says what each number means.
        """
        if contestants is None:
            contestants, reference = services.comparisons.suggested(services.default_model)
        comparison = services.comparisons.resolve(
            prompt=prompt, contestants=contestants, negative_prompt=negative_prompt, width=width, height=height,
            seed=seed, equal=equal, budget=budget, reference=reference, rounds=rounds,
        )  # fmt: skip
        for event in services.comparisons.run(comparison):
            if isinstance(event, Drawing):
                yield [], {**state(event.event), "contestant": event.index, "round": event.round}
            elif isinstance(event, ComparisonResult):
                files = [file(services.history.export(_kept(entry))) for entry in event.entries]
                yield files, _comparison_report(event)

    def grid(
        base: dict[str, Any],
        x: dict[str, Any],
        y: dict[str, Any] | None = None,
        z: dict[str, Any] | None = None,
    ) -> Drawn:
        """Draw a grid of pictures over one to three parameters: its sheet with labelled axes, and JSON of its cells.

        base holds prompt, negative_prompt, model, accelerator, accelerator_strength, steps, guidance, width, height
        and seed, as far as no axis sets them. An axis is {"name": ..., "values": [...]}, its name one of those, or
        prompt_replace (the first value is found in the prompt, the others take its place), or contestant (objects as
        in /compare, with a name). The same grid asked for again goes on where it was: give its seed, not -1.
        """
        prepared = services.grids.prepare(Grid.from_json({"base": base, "x": x, "y": y, "z": z}))
        yield [], {"state": "prepared", "num_cells": len(prepared.requests), "num_done": len(prepared.done),
                   "num_network_calls": prepared.num_network_calls, "seconds": prepared.seconds,
                   "seed": prepared.requests[0].seed}  # fmt: skip
        for event in services.grids.run(prepared):
            if isinstance(event, CellDone):
                yield [], {"state": "drawing", "cell": event.cell, "where": cell_words(prepared.grid, event.cell),
                           "history_id": event.history_id, "num_done": event.num_done,
                           "num_cells": event.num_cells}  # fmt: skip
            elif isinstance(event, GridResult):
                yield [file(services.grids.export(prepared))], _grid_report(event)

    return compare, grid


def _kept(entry: Entry) -> str:
    id = entry.image.history_id
    if id is None:
        raise StorageError(f"A picture was drawn but could not be saved. {entry.result.receipt.warnings[-1]}")
    return id


def _comparison_report(event: ComparisonResult) -> Json:
    comparison = event.comparison
    return {
        "state": "finished",
        "equal": comparison.equal,
        "budget": comparison.budget,
        "reference": comparison.reference,
        "contestants": [_entry(each) for each in event.entries],
        "explained": EXPLAINED,
        "warnings": list(event.warnings),
    }


def _entry(entry: Entry) -> Json:
    receipt = entry.result.receipt
    return {
        "title": entry.title,
        "parameters": entry.request.to_json(),
        "history_id": entry.image.history_id,
        "grid": asdict(entry.plan),
        "num_network_calls": receipt.num_network_calls,
        "seconds": entry.seconds,
        "seconds_rounds": list(entry.seconds_rounds),
        "memory_bytes": receipt.memory_bytes,
        "numbers": asdict(entry.numbers),
        "warnings": list(receipt.warnings),
    }


def _grid_report(event: GridResult) -> Json:
    grid = event.prepared.grid
    cells = [
        {"where": cell_words(grid, cell), "place": list(grid.places()[cell]), "history_id": id,
         "parameters": event.prepared.requests[cell].to_json()}
        for cell, id in enumerate(event.history_ids)
    ]  # fmt: skip
    return {"state": "finished", "grid": grid.to_json(), "cells": cells}
