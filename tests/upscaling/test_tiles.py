"""Where tiles lie: they cover everything, overlap enough, fall on latents, and fade into each other without a gap."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from studio.upscaling.enlarged import Enlarged
from studio.upscaling.tiles import GRAIN_PIXELS, Grid, lay
from tests.test_inputs import photo

SIZES = [(64, 64), (65, 200), (90, 74), (128, 130), (1024, 1024), (1000, 333), (40, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "overlap"), [(64, 16), (128, 32), (128, 64)])
def test_tiles_cover_the_picture_and_share_what_they_must(size: tuple[int, int], side: int, overlap: int) -> None:
    grid = lay(*size, side, overlap)
    seen = np.zeros(grid.canvas[::-1], bool)
    for tile in grid.tiles():
        assert tile.left % GRAIN_PIXELS == tile.top % GRAIN_PIXELS == 0
        assert all(fade == 0 or overlap <= fade <= side for fade in (tile.fade_left, tile.fade_top))
        assert (tile.left > 0) == (tile.fade_left > 0)
        assert seen[tile.top : tile.top + side, tile.left : tile.left + tile.fade_left].all()
        seen[tile.top : tile.top + side, tile.left : tile.left + side] = True
    assert seen.all()
    assert all(had >= wanted for had, wanted in zip(grid.canvas, size, strict=True))
    assert all(had < max(wanted + GRAIN_PIXELS, side + 1) for had, wanted in zip(grid.canvas, size, strict=True))


def test_as_few_tiles_as_can_be() -> None:
    assert len(lay(128, 128, 128, 32)) == 1
    assert len(lay(224, 128, 128, 32)) == 2
    assert len(lay(232, 128, 128, 32)) == 3
    assert len(lay(1024, 1024, 128, 32)) == 121


def test_what_is_laid_over_itself_comes_out_the_same() -> None:
    """Faded tiles of one and the same picture give that picture, whatever the fades."""
    grid = lay(200, 136, 64, 24)
    picture = np.random.default_rng(0).random(grid.canvas[::-1])
    canvas = np.zeros_like(picture)
    for tile in grid.tiles():
        left, top, right, bottom = tile.box
        place = np.s_[top:bottom, left:right]
        canvas[place] += (picture[place] - canvas[place]) * tile.weights()
    assert np.allclose(canvas, picture)


def test_a_tile_fades_in_evenly_over_its_neighbours() -> None:
    second = list(lay(96, 64, 64, 32).tiles())[1]
    weights = second.weights(8)
    assert weights.shape == (8, 8)
    assert np.allclose(weights[0, :5], [0.0, 0.25, 0.75, 1.0, 1.0])
    assert (weights[:, 4:] == 1).all()
    across = second.weights()[0, :32]
    assert np.allclose(across + across[::-1], 1)
    assert (np.diff(across) >= 0).all()
    assert across[7] == 0


def test_seams_can_be_at_both_ends_of_an_overlap_and_nowhere_else() -> None:
    lines = list(lay(112, 64, 64, 16).lines())
    assert [(line.is_vertical, line.at, line.start, line.stop) for line in lines] == [
        (True, 48, 0, 64), (True, 64, 0, 64),
    ]  # fmt: skip
    assert not list(lay(64, 64, 64, 16).lines())
    grid = lay(90, 74, 64, 16)
    assert all(0 < line.at < (90 if line.is_vertical else 74) for line in grid.lines())


def test_a_tile_on_a_seam_has_it_in_its_middle_and_stays_on_the_canvas() -> None:
    grid: Grid = lay(256, 256, 64, 16)
    width, height = grid.canvas
    for line in grid.lines():
        tile = grid.tile_on(line)
        assert 0 <= tile.left <= width - 64
        assert 0 <= tile.top <= height - 64
        near = tile.left if line.is_vertical else tile.top
        assert near + 16 <= line.at <= near + 48 or near in (0, 256 - 64)


@pytest.mark.parametrize("factor", [2, 4])
def test_any_piece_is_that_piece_of_the_whole(factor: int) -> None:
    enlarged = Enlarged(source=photo(33, 21), factor=factor)
    whole = np.asarray(enlarged.whole(), int)
    for box in ((0, 0, 24, 24), (16, 8, 40, 33), (8, 0, 33 * factor, 21 * factor)):
        left, top, right, bottom = box
        assert np.abs(np.asarray(enlarged.piece(box), int) - whole[top:bottom, left:right]).max() <= 1
    beyond = np.asarray(enlarged.piece((8, 8, 33 * factor + 6, 21 * factor + 5)), int)
    assert (beyond[:, -6:] == beyond[:, [-7]]).all()
    assert (beyond[-5:] == beyond[[-6]]).all()
    assert isinstance(enlarged.piece((0, 0, 8, 8)), Image.Image)
