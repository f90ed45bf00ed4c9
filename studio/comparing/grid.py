"""A grid of pictures over one to three parameters: its axes, its cells, and the requests they stand for.

Cells are numbered with x fastest, then y, then z (one sheet for each z). An axis sets one choice of a request, the
whole of a contestant, or words of the prompt; what no axis sets is the base's. A cell's request is `Services.resolve`
of its choices, so a grid refuses before any work what any picture would.
Knows no engine and no file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from studio.comparing.contest import CONTESTANT_FIELDS
from studio.errors import InvalidRequest

MAX_CELLS = 144
MAX_AXIS_VALUES = 24
REPLACE = "prompt_replace"
CONTESTANT = "contestant"
AXES = {
    "prompt": "Prompt",
    REPLACE: "Words in the prompt",
    "negative_prompt": "Negative prompt",
    CONTESTANT: "Contestant",
    "model": "Model",
    "accelerator": "Accelerator",
    "accelerator_strength": "Accelerator strength",
    "steps": "Steps",
    "guidance": "CFG",
    "seed": "Seed",
}
WHOLE = frozenset({"steps", "seed"})
NUMBERS = WHOLE | {"guidance", "accelerator_strength"}
BASE_FIELDS = (
    "prompt", "negative_prompt", "model", "accelerator", "accelerator_strength", "steps", "guidance", "width", "height",
    "seed",
)  # fmt: skip

Choices = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One parameter and the values it takes; a contestant's value is a mapping of `CONTESTANT_FIELDS`.

    For words of the prompt the first value is what stands in it, and the others take its place. Raises
    `InvalidRequest`.
    """

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if self.name not in AXES:
            raise InvalidRequest("axis", f"one of {', '.join(AXES)}", self.name)
        if not 1 <= len(self.values) <= MAX_AXIS_VALUES:
            raise InvalidRequest(self.name, f"1 to {MAX_AXIS_VALUES} values on an axis", len(self.values))
        for value in self.values:
            self._check(value)

    def _check(self, value: Any) -> None:
        if self.name == CONTESTANT:
            is_right = isinstance(value, Mapping) and set(value) <= {*CONTESTANT_FIELDS, "name"}
            expected = f"objects of {', '.join(CONTESTANT_FIELDS)}"
        elif self.name in WHOLE:
            is_right, expected = isinstance(value, int) and not isinstance(value, bool), "whole numbers"
        elif self.name in NUMBERS:
            numbers = value if isinstance(value, list | tuple) and self.name == "guidance" else (value,)
            is_right = all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers)
            expected = "numbers"
        else:
            is_right, expected = isinstance(value, str), "texts"
        if not is_right:
            raise InvalidRequest(self.name, f"{expected} on this axis", value)

    @property
    def title(self) -> str:
        """What a person calls it."""
        return AXES[self.name]

    def label(self, index: int) -> str:
        """A value as it stands beside its row or column."""
        value = self.values[index]
        if self.name == CONTESTANT:
            return str(value.get("name") or value.get("accelerator") or value.get("model") or index + 1)
        if isinstance(value, list | tuple):
            return "-".join(f"{each:g}" for each in value)
        return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A base (fields of a request, its seed concrete) and its axes. Raises `InvalidRequest`."""

    base: Mapping[str, Any]
    x: Axis
    y: Axis | None = None
    z: Axis | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.base) - set(BASE_FIELDS))
        if unknown:
            raise InvalidRequest(unknown[0], f"one of {', '.join(BASE_FIELDS)}", self.base[unknown[0]])
        names = [axis.name for axis in self.axes]
        if len(set(names)) < len(names):
            raise InvalidRequest("axis", "a different parameter on each axis", names)
        if self.num_cells > MAX_CELLS:
            raise InvalidRequest("axis", f"at most {MAX_CELLS} cells: fewer values on an axis", self.num_cells)
        words = next((axis.values[0] for axis in self.axes if axis.name == REPLACE), "")
        if words not in str(self.base.get("prompt", "")):
            raise InvalidRequest(
                REPLACE, "first the words that stand in the prompt, then what takes their place", words
            )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Those there are: x, y, z."""
        return tuple(axis for axis in (self.x, self.y, self.z) if axis is not None)

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many columns, rows and sheets."""
        columns, rows, sheets = (1 if axis is None else len(axis.values) for axis in (self.x, self.y, self.z))
        return columns, rows, sheets

    @property
    def num_cells(self) -> int:
        columns, rows, sheets = self.shape
        return columns * rows * sheets

    @property
    def id(self) -> str:
        """The same for the same grid: what a half-finished one is found by again."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def places(self) -> list[tuple[int, int, int]]:
        """(column, row, sheet) of each cell, in its number's order."""
        columns, rows, sheets = self.shape
        return [(column, row, sheet) for sheet, row, column in product(range(sheets), range(rows), range(columns))]

    def choices(self, cell: int) -> Choices:
        """The arguments of `Services.resolve` for a cell; a contestant's give way to any other axis."""
        place = self.places()[cell]
        indexed = [(axis, place[i]) for i, axis in enumerate((self.x, self.y, self.z)) if axis is not None]
        chosen = dict(self.base)
        for axis, index in sorted(indexed, key=lambda each: each[0].name != CONTESTANT):
            value = axis.values[index]
            if axis.name == CONTESTANT:
                own = {key: given for key, given in value.items() if key != "name"}
                chosen |= {**dict.fromkeys(("steps", "guidance")), **own}
            elif axis.name == REPLACE:
                chosen["prompt"] = str(chosen["prompt"]).replace(axis.values[0], value)
            else:
                chosen[axis.name] = value
        return chosen

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into an equal grid."""
        axes = {name: getattr(self, name) for name in ("x", "y", "z")}
        listed = {
            name: {"name": axis.name, "values": [_plain(value) for value in axis.values]}
            for name, axis in axes.items()
            if axis is not None
        }
        return {"base": {key: _plain(value) for key, value in self.base.items()}, **listed}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Grid:
        """The inverse of `to_json`. Raises `InvalidRequest`."""
        axes = {name: axis_from_json(values[name]) for name in ("x", "y", "z") if values.get(name) is not None}
        if not isinstance(values.get("base") or {}, Mapping):
            raise InvalidRequest("base", "an object of a request's fields", values["base"])
        if "x" not in axes:
            raise InvalidRequest("x", "an axis", None)
        return cls(base=dict(values.get("base") or {}), **axes)


def axis_from_json(value: Any) -> Axis:
    """`{"name": ..., "values": [...]}` as an axis. Raises `InvalidRequest`."""
    if not isinstance(value, Mapping) or set(value) != {"name", "values"} or not isinstance(value["values"], list):
        raise InvalidRequest("axis", 'an object such as {"name": "steps", "values": [1, 2, 4]}', value)
    return Axis(name=value["name"], values=tuple(map(_whole_or_as_is, value["values"])))


def _whole_or_as_is(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> Any:
    """As JSON has it, 1.0 being 1: a grid that went through JSON is the same grid."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return _whole_or_as_is(value)


def read_values(name: str, text: str) -> tuple[Any, ...]:
    """What a person typed for an axis: `1, 2, 4`, `1-8` and `1-9 (+2)` for numbers, else texts between commas or lines.

    Raises `InvalidRequest`.
    """
    parts = [part.strip() for part in (text.splitlines() if "\n" in text.strip() else text.split(",")) if part.strip()]
    if name not in NUMBERS:
        return tuple(parts)
    return tuple(number for part in parts for number in _numbers(name, part))


def _numbers(name: str, part: str) -> Sequence[Any]:
    kind = int if name in WHOLE else float
    try:
        if name in WHOLE and "-" in part[1:]:
            span, _, stride = part.partition("(")
            first, last = (int(each) for each in span.strip().split("-", 1))
            step = int(stride.strip("+) ")) if stride else 1
            return range(first, last + 1, step)[: MAX_AXIS_VALUES + 1]
        return (kind(part),)
    except ValueError as error:
        raise InvalidRequest(name, "numbers between commas, or a range such as 1-8 or 1-9 (+2)", part) from error
