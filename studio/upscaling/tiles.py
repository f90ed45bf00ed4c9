"""Where the tiles of an enlarged picture lie, how they fade into each other, and where seams could be. Pure.

All numbers are pixels of the enlarged picture, counted from its upper left corner, and multiples of 8, so that tiles
fall on whole latents. Tiles are drawn row by row from the upper left; a tile fades in over what it shares with the
neighbours drawn before it, at its left and at its top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

GRAIN_PIXELS = 8


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile; `fade_left` and `fade_top` are how much of it lies over neighbours that are drawn before it."""

    left: int
    top: int
    side: int
    fade_left: int = 0
    fade_top: int = 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.left + self.side, self.top + self.side

    def weights(self, grain: int = 1) -> np.ndarray:
        """How much of this tile counts at each place, rows by columns in units of `grain` pixels, 0 to 1."""
        down, across = (ramp(self.side // grain, fade // grain) for fade in (self.fade_top, self.fade_left))
        return down[:, None] * across[None, :]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A stretch where a seam could be: between the pixels `at - 1` and `at`, from `start` up to `stop` along it."""

    is_vertical: bool
    at: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The tiles over a picture of `width` x `height`; columns and rows are where they begin.

    A picture that is no multiple of 8, or smaller than a tile, is drawn on a larger canvas and cut at the end.
    """

    width: int
    height: int
    side: int
    columns: tuple[int, ...]
    rows: tuple[int, ...]

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of what is drawn."""
        return self.columns[-1] + self.side, self.rows[-1] + self.side

    def __len__(self) -> int:
        return len(self.columns) * len(self.rows)

    def tiles(self) -> Iterator[Tile]:
        """Every tile, in the order in which they are drawn."""
        for row, top in enumerate(self.rows):
            for column, left in enumerate(self.columns):
                yield Tile(
                    left=left,
                    top=top,
                    side=self.side,
                    fade_left=_shared(self.columns, column, self.side),
                    fade_top=_shared(self.rows, row, self.side),
                )

    def lines(self) -> Iterator[Line]:
        """Every stretch where a seam could be: both ends of each overlap, cut where the tiles along it begin."""
        for at in _borders(self.columns, self.side, self.width):
            for start, stop in _stretches(self.rows, self.height):
                yield Line(is_vertical=True, at=at, start=start, stop=stop)
        for at in _borders(self.rows, self.side, self.height):
            for start, stop in _stretches(self.columns, self.width):
                yield Line(is_vertical=False, at=at, start=start, stop=stop)

    def tile_on(self, line: Line) -> Tile:
        """A tile of the same size with the middle of a line as near to its middle as the canvas allows."""
        middle = (line.start + line.stop) // 2
        x, y = (line.at, middle) if line.is_vertical else (middle, line.at)
        width, height = self.canvas
        return Tile(left=_centred(x, self.side, width), top=_centred(y, self.side, height), side=self.side)


def lay(width: int, height: int, side: int, overlap: int) -> Grid:
    """As few tiles as share at least `overlap` pixels with their neighbours, evenly spread over the picture."""
    columns, rows = (_starts(length, side, overlap) for length in (width, height))
    return Grid(width=width, height=height, side=side, columns=columns, rows=rows)


def ramp(length: int, fade: int) -> np.ndarray:
    """1 everywhere but over the first `fade` places, where it climbs from 0 to 1 in equal steps, in their middle half.

    What lies nearest to a tile's edge never counts: networks pad with zeros beyond it, and that shows.
    """
    weights = np.ones(length, np.float32)
    places = (np.arange(fade, dtype=np.float32) + 0.5) / max(fade, 1)
    weights[:fade] = (2 * places - 0.5).clip(0, 1)
    return weights


def _starts(length: int, side: int, overlap: int) -> tuple[int, ...]:
    length = -(-length // GRAIN_PIXELS) * GRAIN_PIXELS
    if length <= side:
        return (0,)
    count = -(-(length - overlap) // (side - overlap))
    return tuple((length - side) * place // (count - 1) // GRAIN_PIXELS * GRAIN_PIXELS for place in range(count))


def _shared(starts: tuple[int, ...], place: int, side: int) -> int:
    return starts[place - 1] + side - starts[place] if place else 0


def _borders(starts: tuple[int, ...], side: int, length: int) -> list[int]:
    """Where a later tile begins and an earlier one ends, inside the picture."""
    ends = (start + side for start in starts[:-1])
    return sorted({at for at in (*starts[1:], *ends) if 0 < at < length})


def _stretches(starts: tuple[int, ...], length: int) -> list[tuple[int, int]]:
    cuts = [*(start for start in starts if start < length), length]
    return list(pairwise(cuts))


def _centred(middle: int, side: int, length: int) -> int:
    wanted = (middle - side // 2) // GRAIN_PIXELS * GRAIN_PIXELS
    return min(max(wanted, 0), length - side)
