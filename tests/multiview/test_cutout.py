"""The picture given: found on transparent, plain and varied backgrounds, framed alike, refused in sentences."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from studio.errors import InvalidRequest
from studio.multiview.cutout import Prepared, prepare


def disc(size: tuple[int, int], box: tuple[int, int, int, int], background: str, mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", size, background)
    ImageDraw.Draw(image).ellipse(box, fill=(200, 30, 30))
    return image.quantize(16) if mode == "P" else image.convert(mode)


def extent(prepared: Prepared) -> tuple[int, int, int, int]:
    pixels = np.asarray(prepared.image, dtype=int)
    rows, columns = np.nonzero((pixels < 200).any(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P"])
def test_an_object_on_a_plain_colour_is_recentred_and_scaled(mode: str) -> None:
    prepared = prepare(disc((300, 200), (20, 30, 80, 150), "#8899aa", mode), 128)
    left, top, right, bottom = extent(prepared)
    assert (prepared.way, prepared.image.size, prepared.notes) == ("plain", (128, 128), ())
    assert (right - left, bottom - top) == pytest.approx((48, 96), abs=3)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((64, 64), abs=1.5)


def test_transparency_says_what_the_object_is() -> None:
    image = disc((100, 100), (10, 10, 60, 60), "green").convert("RGBA")
    mask = Image.new("L", (100, 100))
    ImageDraw.Draw(mask).ellipse((10, 10, 60, 60), fill=255)
    image.putalpha(mask)
    prepared = prepare(image, 64)
    assert prepared.way == "alpha"
    assert extent(prepared)[2] - extent(prepared)[0] == pytest.approx(48, abs=2)
    assert np.asarray(prepared.image)[0, 0].tolist() == [255, 255, 255]


def test_a_varied_background_is_grabcuts() -> None:
    pytest.importorskip("cv2")
    ramp = np.linspace(60, 200, 160)[:, None, None] * np.array([0.4, 1.0, 0.6])
    image = Image.fromarray(np.broadcast_to(ramp, (160, 160, 3)).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((50, 50, 110, 110), fill=(210, 30, 40))
    prepared = prepare(image, 128)
    left, top, right, bottom = extent(prepared)
    assert prepared.way == "grabcut"
    assert (right - left, bottom - top) == pytest.approx((96, 96), abs=8)
    pixels = np.asarray(prepared.image, dtype=int)
    assert (pixels[22, 22] > 240).all(), "the corners of a disc's square are background"
    assert pixels[64, 64, 0] > 150 > pixels[64, 64, 1]


def test_a_hole_that_shows_the_background_stays_part_of_the_outline() -> None:
    """Only what is joined to the border is background by colour."""
    image = disc((100, 100), (20, 20, 80, 80), "#606060")
    ImageDraw.Draw(image).ellipse((40, 40, 60, 60), fill="#606060")
    middle = np.asarray(prepare(image, 64).image, dtype=int)[32, 32]
    assert np.abs(middle - 0x60).max() < 12


def test_an_object_at_the_edge_is_told() -> None:
    assert "edge" in prepare(disc((100, 100), (-40, 20, 50, 80), "white"), 64, "plain").notes[0]


def test_sixteen_bits_are_brought_to_eight() -> None:
    levels = np.zeros((64, 64), dtype=np.uint16)
    levels[20:40, 20:50] = 50_000
    assert prepare(Image.fromarray(levels), 64).way == "plain"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("RGB", (80, 80), "white"), "no object found"),
        (Image.new("RGBA", (80, 80), (0, 0, 0, 0)), "no object found"),
        (Image.new("RGB", (5, 5000), "white"), "at least 16 x 16"),
        (Image.new("RGB", (20, 4000), "white"), "64 times as long as wide"),
    ],
)
def test_what_shows_no_object_is_refused_in_a_sentence(image: Image.Image, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        prepare(image, 64)


def test_a_picture_all_of_one_object_is_refused() -> None:
    full = Image.new("RGBA", (50, 50), (200, 10, 10, 255))
    with pytest.raises(InvalidRequest, match="background around it"):
        prepare(full, 64, "alpha")
