"""Numbers beside pictures: known inputs give known values."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from studio.comparing.numbers import difference_map, latent_error, mean_distance, plain_features, vendi
from studio.pixels import psnr


def flat(level: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def test_latent_error_is_relative() -> None:
    reference = np.full((4, 8, 8), 2.0, np.float32)
    assert latent_error(reference, reference) == 0
    assert latent_error(reference * 1.5, reference) == pytest.approx(0.5)


def test_psnr_of_one_level_is_48_db_and_of_the_same_picture_the_most() -> None:
    assert psnr(flat(100), flat(101)) == pytest.approx(48.13, abs=0.01)
    assert psnr(flat(100), flat(100)) == 99


def test_a_difference_map_is_black_where_alike_and_scaled_elsewhere() -> None:
    picture = flat(100)
    picture.putpixel((3, 5), (100, 120, 90))
    found = np.asarray(difference_map(picture, flat(100), gain=3.0))
    assert found[5, 3] == 60
    assert found.sum() == 60


def test_mean_distance_of_a_triangle() -> None:
    assert mean_distance(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        mean_distance(np.zeros((1, 3)))


def test_vendi_counts_what_is_really_different() -> None:
    assert vendi(np.ones((5, 3))) == pytest.approx(1.0)
    assert vendi(np.eye(6)) == pytest.approx(6.0)
    assert vendi(np.repeat(np.eye(3), 2, axis=0)) == pytest.approx(3.0)


def test_plain_features_tell_pictures_apart() -> None:
    features = plain_features([flat(0), flat(255, (64, 32)), flat(0, (32, 32))])
    assert np.array_equal(features[0], features[2])
    assert features[1].min() == 1.0
