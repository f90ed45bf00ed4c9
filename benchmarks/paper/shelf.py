"""Rows on disk: what was measured stands under the hash of all that decides it, and is not measured again.

A row is `<key>.json` (what decides it, and its plain numbers) and, where it has arrays, `<key>.npz` beside it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from studio.storage import write_whole

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """Plain numbers, and arrays by name."""

    numbers: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Shelf:
    """A folder of rows, which several processes may fill; knows which were there before, and for which it was asked."""

    folder: Path
    asked: set[str] = field(default_factory=set, init=False)
    _before: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self.keys()

    def keys(self) -> frozenset[str]:
        """Of all rows that are there."""
        return frozenset(path.stem for path in self.folder.glob("*.json"))

    @property
    def num_made(self) -> int:
        """How many rows came since it was opened, whoever made them."""
        return len(self.keys() - self._before)

    @property
    def num_taken(self) -> int:
        """How many rows that were there before were asked for."""
        return len(self.asked & self._before)

    def row(self, decides: Mapping[str, Any], make: Callable[[], Row]) -> Row:
        """The row of these circumstances, made now if it is not there. `decides` is plain JSON."""
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        self.asked.add(key)
        path = self.folder / f"{key}.json"
        if path.exists():
            return self._read(path)
        row = make()
        if row.arrays:
            packed = io.BytesIO()
            np.savez_compressed(packed, **row.arrays)  # pyright: ignore[reportArgumentType]
            write_whole(path.with_suffix(".npz"), packed.getvalue(), sync=False)
        content = {"decided by": decides, "numbers": row.numbers, "has arrays": bool(row.arrays)}
        write_whole(path, json.dumps(content, indent=1).encode(), sync=False)
        return row

    def _read(self, path: Path) -> Row:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not content["has arrays"]:
            return Row(numbers=content["numbers"])
        with np.load(path.with_suffix(".npz")) as packed:
            return Row(numbers=content["numbers"], arrays={name: packed[name] for name in packed.files})
