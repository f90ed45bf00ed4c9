"""How well a picture was enlarged: whether seams show where its tiles meet, and whether it is still the same picture.

A seam is a step in brightness along a tile's border. For each stretch of a border: the gradient energy across it (the
squared difference of the two rows of pixels beside it) over that of the rows a few pixels away. 1 means that the border
is as smooth as its surroundings. Medians are taken along the border and among the rows: a seam runs all along a
stretch, while an object's edge only crosses it.
Where an autoencoder leaves a grid of 8 pixels everywhere, the rows at the same place of that grid are the surroundings
instead; and where the enlarged input has an edge on the border already, the picture is not blamed for it.
The whole picture's ratio is the geometric mean of its stretches', by length.
Fidelity: the result shrunk to the input's size, against the input, PSNR in dB.
Numpy and Pillow on small pieces at a time, so memory does not grow with the picture. Knows no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from studio.pixels import psnr
from studio.upscaling.enlarged import Enlarged
from studio.upscaling.tiles import GRAIN_PIXELS, Grid, Line

REACH_PIXELS = 3 * GRAIN_PIXELS
NEAREST_PIXELS = 3
FAINT_ENERGY = 4.0
"""Two levels of 255, squared, are added on both sides of the ratio: in a flat area less than that is no seam."""
SHARPER = 2.0
"""How much more energy than in the enlarged input an edge of the picture may have once it is refined."""
GRID_SHOWS = 1.5
SHOWN_SIDE_PIXELS = 1024
MILD, STRONG = (246, 178, 60), (214, 40, 57)


@dataclass(frozen=True, kw_only=True)
class Seam:
    """A stretch of a tile's border, and how many times the gradient energy beside it crosses it."""

    line: Line
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Seams:
    """All stretches of a picture; `ratio` is that of all of them taken together."""

    all: tuple[Seam, ...]
    ratio: float

    @property
    def worst(self) -> float:
        """The highest ratio of any stretch; 1 where there is none."""
        return max((each.ratio for each in self.all), default=1.0)

    def above(self, threshold: float) -> tuple[Seam, ...]:
        """The stretches that show, worst first."""
        return tuple(sorted((each for each in self.all if each.ratio > threshold), key=lambda each: -each.ratio))


def find_seams(picture: Image.Image, enlarged: Enlarged, grid: Grid) -> Seams:
    """Every stretch of the tiles' borders, measured on an RGB picture of the grid's size."""
    seams = tuple(seam_at(picture, enlarged, line) for line in grid.lines())
    if not seams:
        return Seams(all=(), ratio=1.0)
    lengths = [seam.line.stop - seam.line.start for seam in seams]
    logarithm = np.average([math.log(seam.ratio) for seam in seams], weights=lengths)
    return Seams(all=seams, ratio=math.exp(logarithm))


def seam_at(picture: Image.Image, enlarged: Enlarged, line: Line) -> Seam:
    """One stretch, measured."""
    box = _box_around(line, picture.size)
    across, beside = _energies(picture.crop(box), line, box)
    of_input, _ = _energies(enlarged.piece(box), line, box)
    expected = max(beside, SHARPER * of_input)
    return Seam(line=line, ratio=(across + FAINT_ENERGY) / (expected + FAINT_ENERGY))


def _box_around(line: Line, size: tuple[int, int]) -> tuple[int, int, int, int]:
    first = max(0, line.at - REACH_PIXELS)
    last = min(size[0 if line.is_vertical else 1], line.at + REACH_PIXELS)
    if line.is_vertical:
        return first, line.start, last, line.stop
    return line.start, first, line.stop, last


def _energies(piece: Image.Image, line: Line, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Gradient energy across a line and that beside it, in squared levels of 255."""
    levels = np.asarray(piece.convert("RGB"), np.float32)
    across = 1 if line.is_vertical else 0
    steps = np.median(np.square(np.diff(levels, axis=across)).mean(axis=2), axis=1 - across)
    middle = line.at - box[0 if line.is_vertical else 1] - 1
    distance = np.abs(np.arange(len(steps)) - middle)
    near = _median(steps[distance >= NEAREST_PIXELS])
    same_phase = _median(steps[(distance > 0) & (distance % GRAIN_PIXELS == 0)])
    return float(steps[middle]), same_phase if same_phase > GRID_SHOWS * near else near


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0


def fidelity(picture: Image.Image, source: Image.Image) -> float:
    """A result, shrunk to the size of its input, against that input: PSNR in dB, at most 99."""
    return psnr(picture.resize(source.size, Image.Resampling.LANCZOS), source)


def heat_map(picture: Image.Image, seams: Sequence[Seam], threshold: float) -> Image.Image:
    """The picture in pale grey with its tile borders on it: red above the threshold, amber up to it, none at 1."""
    shown = ImageOps.contain(picture, (SHOWN_SIDE_PIXELS, SHOWN_SIDE_PIXELS)).convert("L")
    scale = shown.width / picture.width
    map = Image.blend(shown.convert("RGB"), Image.new("RGB", shown.size, "white"), 0.45)
    paint = ImageDraw.Draw(map, "RGBA")
    for seam in seams:
        strength = min(1.0, max(0.0, (seam.ratio - 1) / max(threshold - 1, 1e-6)))
        colour = STRONG if seam.ratio > threshold else MILD
        ends = [(seam.line.at, seam.line.start), (seam.line.at, seam.line.stop)]
        points = [tuple(scale * each for each in (end if seam.line.is_vertical else end[::-1])) for end in ends]
        paint.line(points, fill=(*colour, round(255 * strength)), width=3)  # type: ignore[arg-type]
    return map
