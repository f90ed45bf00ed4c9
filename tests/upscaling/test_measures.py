"""Seams and fidelity as numbers: what shows measures as shown, what does not does not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from studio.pixels import MAX_PSNR
from studio.upscaling.enlarged import Enlarged
from studio.upscaling.measures import fidelity, find_seams, heat_map
from studio.upscaling.tiles import Grid, lay


def smooth(width: int, height: int) -> Image.Image:
    """Soft colours with an edge of their own in them."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    levels = np.stack([60 + 120 * across, 90 + 80 * down, 120 + 60 * np.sin(6 * across + 4 * down)], axis=-1)
    levels[np.hypot(across - 0.45, down - 0.4) < 0.2] += 40
    return Image.fromarray(levels.astype(np.uint8))


GRID = lay(192, 192, 64, 16)
SOURCE = smooth(96, 96)
ENLARGED = Enlarged(source=SOURCE, factor=2)


def with_tiles(grid: Grid, step: float, *, faded: bool) -> Image.Image:
    """The enlarged picture with every tile a little darker or brighter than it is."""
    random = np.random.default_rng(0)
    canvas = np.asarray(ENLARGED.whole(), np.float32).copy()
    for tile in grid.tiles():
        left, top, right, bottom = tile.box
        place = np.s_[top:bottom, left:right]
        own = np.asarray(ENLARGED.whole(), np.float32)[place] + step * random.choice([-1, 1])
        weights = tile.weights()[..., None] if faded else 1.0
        canvas[place] += (own - canvas[place]) * weights
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def test_hard_edges_between_tiles_measure_as_seams_and_faded_ones_do_not() -> None:
    hard, faded = (find_seams(with_tiles(GRID, 9, faded=each), ENLARGED, GRID) for each in (False, True))
    assert hard.ratio > 1.3
    assert hard.worst > 5
    assert faded.ratio < 1.05
    assert len(hard.above(2.0)) > 4
    assert hard.above(2.0)[0].ratio == hard.worst
    assert len(faded.above(2.0)) == 0


def test_the_stronger_the_step_the_higher_the_measure() -> None:
    measured = [find_seams(with_tiles(GRID, step, faded=False), ENLARGED, GRID).ratio for step in (0, 4, 12, 30)]
    assert measured == sorted(measured)
    assert measured[0] < 1.0


def test_an_edge_that_the_input_has_on_a_border_is_no_seam() -> None:
    source = Image.new("RGB", (96, 96), "navy")
    source.paste("white", (GRID.columns[1] // 2, 0, 96, 96))
    enlarged = Enlarged(source=source, factor=2)
    assert find_seams(enlarged.whole(), enlarged, GRID).worst < 1.5


def test_noise_everywhere_is_no_seam() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (192, 192, 3))
    assert find_seams(Image.fromarray(noise.astype(np.uint8)), ENLARGED, GRID).ratio == pytest.approx(1.0, abs=0.1)


def test_one_tile_has_no_seam() -> None:
    seams = find_seams(ENLARGED.whole(), ENLARGED, lay(192, 192, 192, 16))
    assert (seams.ratio, seams.worst, seams.all) == (1.0, 1.0, ())


def test_fidelity_falls_with_what_is_changed() -> None:
    assert fidelity(SOURCE, SOURCE) == MAX_PSNR
    kept = fidelity(ENLARGED.whole(), SOURCE)
    changed = fidelity(with_tiles(GRID, 12, faded=True), SOURCE)
    assert kept > 35 > changed > 15


def test_the_heat_map_is_red_where_a_seam_is_and_grey_elsewhere() -> None:
    picture = with_tiles(GRID, 20, faded=False)
    seams = find_seams(picture, ENLARGED, GRID)
    map = heat_map(picture, seams.all, 2.0)
    assert max(map.size) == 1024
    worst = seams.above(2.0)[0].line
    middle = (worst.start + worst.stop) / 2
    x, y = (worst.at, middle) if worst.is_vertical else (middle, worst.at)
    red, green, _blue = map.getpixel((round(x * 1024 / 192), round(y * 1024 / 192)))  # type: ignore[misc]
    assert red > green + 60
    red, green, blue = map.getpixel((60, 60))  # type: ignore[misc]
    assert red == green == blue
