"""Grids that a person asks for: the contestants over seeds, steps or scales by one click, or any two or three axes.

Each becomes a `Grid`; what a sweep leaves to its axis is left out of a contestant's name. Knows no gradio and draws
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.comparing.contest import Comparison
from studio.comparing.grid import AXES, CONTESTANT, REPLACE, Axis, Grid, read_values
from studio.errors import InvalidRequest
from studio.types import MAX_SEED, GenerationRequest
from studio.ui.compare.fields import as_contestant
from studio.ui.compare.shown import Naming, settings_in_words
from studio.ui.compare.view import LETTERS
from studio.ui.windows_view import plural

if TYPE_CHECKING:
    from studio.services import Services

NUM_SEEDS = 8
STEPS = (1, 2, 4, 8, 16)
SCALES = (1.0, 1.5, 3.0, 5.0, 7.5)
NO_AXIS = "none"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid by one click: what it is called and what it shows."""

    id: str
    title: str
    shows: str
    grid: Callable[[Comparison, Naming], Grid]


def over_seeds(comparison: Comparison, naming: Naming) -> Grid:
    """Every contestant on 8 seeds in a row, from the contest's."""
    first = min(comparison.contestants[0].seed, MAX_SEED - NUM_SEEDS + 1)
    return _sweep(comparison, naming, Axis(name="seed", values=tuple(range(first, first + NUM_SEEDS))))


def over_steps(comparison: Comparison, naming: Naming) -> Grid:
    """Every contestant in 1, 2, 4, 8 and 16 steps."""
    return _sweep(comparison, naming, Axis(name="steps", values=STEPS))


def over_scales(comparison: Comparison, naming: Naming) -> Grid:
    """Every contestant at five guidance scales, from off to strong."""
    return _sweep(comparison, naming, Axis(name="guidance", values=SCALES))


SWEEPS = (
    Sweep(id="seeds", title=f"Over {NUM_SEEDS} seeds", shows="how diverse each is", grid=over_seeds),
    Sweep(id="steps", title="Steps 1-2-4-8-16", shows="what more steps buy", grid=over_steps),
    Sweep(id="scales", title="CFG sweep", shows="what guidance each bears", grid=over_scales),
)


def _sweep(comparison: Comparison, naming: Naming, x: Axis) -> Grid:
    return Grid(base=base_of(comparison), x=x, y=contestants_axis(comparison, naming, without=x.name))


def base_of(comparison: Comparison) -> dict[str, Any]:
    """What all contestants share."""
    first = comparison.contestants[0]
    return {name: getattr(first, name) for name in ("prompt", "negative_prompt", "width", "height", "seed")}


def contestants_axis(comparison: Comparison, naming: Naming, without: str = "") -> Axis:
    """One row per contestant, called by letter, name, and those settings that no other axis sets."""
    rows = []
    for index, request in enumerate(comparison.contestants):
        settings = settings_in_words(request).split(", ")
        kept = [words for words in settings if not _is_about(words, without)]
        name = ", ".join((f"{LETTERS[index]} · {naming.name(request)}", *kept))
        rows.append(as_contestant(request, name))
    return Axis(name=CONTESTANT, values=tuple(rows))


def _is_about(words: str, field: str) -> bool:
    return (field == "steps" and " step" in words) or (field == "guidance" and words.startswith("CFG"))


def built_grid(
    comparison: Comparison, naming: Naming, chosen: Mapping[str, tuple[str, str]], like: int
) -> Grid:  # fmt: skip
    """The grid of typed axes: `chosen` has each axis' parameter and values as text, `like` whose settings hold else.

    Raises `AxisError` naming the axis, `InvalidRequest`.
    """
    axes: dict[str, Axis] = {}
    for place, (name, text) in chosen.items():
        if name == NO_AXIS:
            continue
        try:
            axes[place] = _axis(comparison, naming, name, text, others={parameter for parameter, _ in chosen.values()})
        except InvalidRequest as error:
            raise AxisError(place, error) from error
    if "x" not in axes:
        raise AxisError("x", InvalidRequest("axis", "a parameter for x", "none"))
    base = base_of(comparison)
    if not any(axis.name == CONTESTANT for axis in axes.values()):
        base |= {key: value for key, value in as_contestant(comparison.contestants[like], "").items() if key != "name"}
        _follow_axes(base, axes)
    return Grid(base=base, **axes)


def _axis(comparison: Comparison, naming: Naming, name: str, text: str, others: set[str]) -> Axis:
    if name == CONTESTANT:
        return contestants_axis(comparison, naming, without=next(iter(others & {"steps", "guidance"}), ""))
    values = read_values(name, text)
    if not values:
        raise InvalidRequest(name, "values between commas", "nothing")
    return Axis(name=name, values=values)


def _follow_axes(base: dict[str, Any], axes: Mapping[str, Axis]) -> None:
    """With models or accelerators on an axis, steps and guidance are each one's own, unless they are an axis too."""
    names = {axis.name for axis in axes.values()}
    if "model" in names:
        base.pop("model")
    if "accelerator" in names or "model" in names:
        base.pop("accelerator")
        base |= {"steps": None, "guidance": None}


class AxisError(InvalidRequest):
    """An axis of the builder makes no sense; `place` says which: x, y or z."""

    def __init__(self, place: str, error: InvalidRequest) -> None:
        super().__init__(error.field, error.expected, error.got)
        self.place = place


def axis_choices() -> list[tuple[str, str]]:
    """What the pickers offer."""
    return [(title, name) for name, title in AXES.items()]


def example_values(name: str, services: Services, request: GenerationRequest) -> str:
    """Values to begin with on an axis, such as make sense for this contestant; empty where none are typed."""
    if name == "accelerator":
        return ", ".join(each.id for each in services.accelerators(request.model))
    if name == "model":
        return request.model
    words: Mapping[str, str] = {
        "steps": "2, 4, 8", "guidance": "1, 3, 5", "seed": "1-3", "accelerator_strength": "0, 0.5, 1",
        "prompt": f"{request.prompt or 'a red cube'}\na blue cone", REPLACE: "red, green, blue",
        "negative_prompt": "red, blue",
    }  # fmt: skip
    return words.get(name, "")


def cost_in_words(num_cells: int, num_done: int, num_calls: int, seconds: str) -> str:
    """`24 pictures, 96 network calls, about 8 s`, and what of it is there already."""
    there = f" ({num_done} there already)" if num_done else ""
    about = f", about {seconds}" if seconds else ""
    return f"{plural(num_cells, 'picture')}{there}, {num_calls:,} network calls{about}"


def reference_row(grid: Grid, comparison: Comparison) -> int | None:
    """Which row of a grid is the contest's reference."""
    return comparison.reference if grid.y is not None and grid.y.name == CONTESTANT else None


def rows_over_seeds(grid: Grid) -> Sequence[Sequence[int]] | None:
    """The cells of each row, where rows run over seeds and can be compared in diversity."""
    columns, rows, sheets = grid.shape
    if grid.x.name != "seed" or columns < 2 or sheets > 1:
        return None
    return [range(row * columns, (row + 1) * columns) for row in range(rows)]
