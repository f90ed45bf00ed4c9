"""Which grid a person wishes: what each would take before the click, the sweeps and the builder read from the page.

Errors stand where they belong: a contestant's in its card, an axis' beside it, a grid's below the builder. This module
does not draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.comparing.contest import Comparison
from studio.comparing.grid import CONTESTANT, Grid
from studio.errors import InvalidRequest
from studio.grids import Prepared
from studio.ui.compare.contest import Contest
from studio.ui.compare.fields import CardError
from studio.ui.compare.grid_layout import GridParts, like_choices
from studio.ui.compare.grid_view import sweeps_html
from studio.ui.compare.shown import Naming
from studio.ui.compare.sweeps import (
    NO_AXIS,
    SWEEPS,
    AxisError,
    Sweep,
    built_grid,
    cost_in_words,
    example_values,
    reference_row,
)
from studio.ui.feedback import field_error_html, seconds_in_words
from studio.ui.form import Updates, Values

if TYPE_CHECKING:
    from studio.services import Services

NO_PROMPT = ("prompt", "some words on what to draw, or an example from below", "nothing")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A grid to be drawn, and which of its rows is the reference."""

    grid: Grid
    reference_row: int | None = None


class Wishes:
    """From the page's values to grids, and what is said of them before the click."""

    def __init__(self, services: Services, contest: Contest, parts: GridParts) -> None:
        self._services, self._contest, self._parts = services, contest, parts

    @property
    def inputs(self) -> set[Any]:
        """Everything a grid is read from."""
        return {*self._contest.fields.inputs, *self._parts.built, self._parts.shown}

    # --- grids ---

    def sweep(self, values: Values, sweep: Sweep) -> Asked:
        """One of the grids by one click. Raises `InvalidRequest`."""
        return self._asked(values, sweep.grid)

    def built(self, values: Values) -> Asked:
        """The builder's grid. Raises `AxisError`, `InvalidRequest`."""
        return self._asked(values, lambda comparison, naming: self._built(values, comparison, naming))

    def _asked(self, values: Values, make: Callable[[Comparison, Naming], Grid]) -> Asked:
        comparison = self._contest.act.comparison(values)
        grid = make(comparison, Naming.of(self._services, comparison))
        if not comparison.contestants[0].prompt.strip() and all(axis.name != "prompt" for axis in grid.axes):
            raise InvalidRequest(*NO_PROMPT)
        return Asked(grid=grid, reference_row=reference_row(grid, comparison))

    def _built(self, values: Values, comparison: Comparison, naming: Naming) -> Grid:
        chosen = {place: (values[axis.name], values[axis.values] or "") for place, axis in self._parts.axes.items()}
        return built_grid(comparison, naming, chosen, self._like(values, comparison))

    def _like(self, values: Values, comparison: Comparison) -> int:
        return min(values[self._parts.like] or 0, len(comparison.contestants) - 1)

    def errors(self, error: InvalidRequest | None) -> Updates:
        """The sentence beside what it is about, and no other."""
        act, parts = self._contest.act, self._parts
        updates: Updates = {**act.errors(None), **dict.fromkeys(parts.error_places, "")}
        if isinstance(error, AxisError):
            updates[parts.axes[error.place].error] = field_error_html(error)
        elif isinstance(error, CardError) or (error is not None and error.field in self._contest.fields.errors):
            updates |= act.errors(error)
        elif error is not None:
            updates[parts.error] = field_error_html(error)
        return updates

    # --- before the click ---

    def estimate(self, values: Values) -> Updates:
        """What each grid would take, or why the builder's cannot be drawn."""
        parts = self._parts
        updates: Updates = {**dict.fromkeys(parts.error_places, ""), parts.estimate: "", parts.run: gr.skip()}
        try:
            comparison = self._contest.act.comparison(values)
        except InvalidRequest:
            return {**updates, parts.sweeps: gr.skip()}  # it stands in its card, and what was known may stay
        naming = Naming.of(self._services, comparison)
        updates[parts.sweeps] = sweeps_html([(each, self._sweep_cost(each, comparison, naming)) for each in SWEEPS])
        try:
            prepared = self._services.grids.prepare(self._built(values, comparison, naming))
        except InvalidRequest as error:
            place = parts.axes[error.place].error if isinstance(error, AxisError) else parts.error
            return {**updates, place: field_error_html(error)}
        is_begun = 0 < len(prepared.done) < len(prepared.requests)
        resumed = f"Resume this grid: {len(prepared.done)} of {len(prepared.requests)} are there"
        return {
            **updates,
            parts.estimate: f'<p class="facts"><span class="cost">{self._cost(prepared)}</span></p>',
            parts.run: resumed if is_begun else "Draw this grid",
        }

    def costs(self, values: Values) -> Updates:
        """The same once a grid was drawn, whatever errors stand there."""
        parts, updates = self._parts, self.estimate(values)
        return {each: updates[each] for each in (parts.sweeps, parts.estimate, parts.run)}

    def _sweep_cost(self, sweep: Sweep, comparison: Comparison, naming: Naming) -> str:
        try:
            return self._cost(self._services.grids.prepare(sweep.grid(comparison, naming)))
        except InvalidRequest as error:
            return str(error)

    def _cost(self, prepared: Prepared) -> str:
        seconds = seconds_in_words(prepared.seconds) if prepared.seconds else ""
        return cost_in_words(len(prepared.requests), len(prepared.done), prepared.num_network_calls, seconds)

    def change_axis(self, place: str, values: Values) -> Updates:
        """Another parameter on an axis: values to begin with, where any are typed."""
        axis = self._parts.axes[place]
        name, is_typed = values[axis.name], values[axis.name] not in (NO_AXIS, CONTESTANT)
        try:
            comparison = self._contest.act.comparison(values)
        except InvalidRequest:
            return {axis.values: gr.update(visible=is_typed)}
        request = comparison.contestants[self._like(values, comparison)]
        example = example_values(name, self._services, request)
        return {axis.values: gr.update(visible=is_typed, value=example)}

    def change_count(self, count: int, like: int | None) -> Updates:
        """More or fewer contestants to be like."""
        update = gr.update(choices=like_choices(count))
        if like is None or like >= count:
            update["value"] = min(like or 0, count - 1)
        return {self._parts.like: update}
