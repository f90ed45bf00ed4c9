"""Pictures that come in: bad ones, each a sentence, and what is kept of the good ones."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio import inputs
from studio.errors import InvalidRequest, NotFound, StudioError, UnsafeFile
from studio.inputs import PictureStore, picture_id, take, take_map, take_mask


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """A picture in which every pixel differs a little."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([across * 3 % 256, down * 5 % 256, (across + down) % 256], -1).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    return png([(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))])


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in [*parts, (b"IEND", b"")]
    )


def animation(kind: str) -> bytes:
    frames = [photo(), photo().rotate(90), photo().rotate(180)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


PNG = saved(photo(), "PNG")
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "text": (b"not a picture at all", "got something else"),
    "pickle": (b"\x80\x04\x95\x00\x00", "got something else"),
    "html": (b"<html><script>alert(1)</script></html>", "got something else"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "got something else"),
    "gif": (saved(photo(), "GIF"), "got something else"),
    "bmp": (saved(photo(), "BMP"), "got something else"),
    "tiff": (saved(photo(), "TIFF"), "got something else"),
    "signature alone": (PNG[:8], "got something else"),
    "cut png": (PNG[: len(PNG) // 2], "damaged or cut off"),
    "cut jpeg": (saved(photo(200, 200), "JPEG")[:-900], "damaged or cut off"),
    "flipped png": (PNG[:60] + bytes(255 - each for each in PNG[60:90]) + PNG[90:], "damaged or cut off"),
    "bomb": (png_header(60_000, 60_000), "expected"),
    "37 megapixels": (png_header(6100, 6100), "at most 36000000 pixels"),
    "sliver": (saved(photo(1, 5000), "PNG"), "sides of 16 pixels or more"),
    "flat sliver": (saved(photo(5000, 1), "PNG"), "sides of 16 pixels or more"),
    "speck": (saved(photo(4, 4), "PNG"), "sides of 16 pixels or more"),
    "ribbon": (saved(photo(16, 900), "PNG"), "differ at most 8 times"),
    "wide ribbon": (saved(photo(900, 16), "PNG"), "differ at most 8 times"),
    "animated png": (animation("PNG"), "an animation"),
    "animated webp": (animation("WEBP"), "an animation"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_ends_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, words = FILES[name]
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises((InvalidRequest, UnsafeFile), match=words) as caught:
        take(path, "control_image")
    assert str(caught.value).endswith(".")
    assert take(_written(tmp_path / "good.png", PNG), "control_image").size == (64, 48)  # and the next one works


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


WAYS: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: take(None, "image"), "expected a picture, got 'nothing'"),
    "no path": (lambda: take("", "image"), "expected a picture, got 'nothing'"),
    "not uploaded": (lambda: take("/nowhere/at/all.png", "image"), "uploaded to this studio"),
    "an even map": (lambda: take_map(Image.new("RGB", (64, 64), "grey")), "one even colour"),
    "a black map": (lambda: take_map(Image.new("L", (64, 64))), "one even colour"),
    "a mask of another shape": (lambda: take_mask(photo(64, 64), photo(64, 48)), "its picture's proportions, 64 x 48"),
    "a mask without white": (lambda: take_mask(Image.new("L", (64, 48)), photo()), "without any white"),
    "a float picture": (lambda: take(Image.new("F", (64, 64)), "image"), "32-bit levels"),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_bad_value_ends_in_a_sentence(name: str) -> None:
    act, words = WAYS[name]
    with pytest.raises(StudioError, match=words) as caught:
        act()
    assert str(caught.value).endswith(".")


def test_what_is_taken_is_rgb_upright_and_of_bounded_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = _written(tmp_path / "turned.jpg", saved(photo(64, 32), "JPEG", exif=exif))
    assert take(turned, "image").size == (32, 64)
    assert take(photo(3000, 1500), "image").size == (2048, 1024)
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    assert take(clear, "image").getpixel((3, 3)) == (255, 255, 255)
    for mode in ("1", "L", "P", "RGBA", "LA"):
        assert take(photo().convert(mode), "image").mode == "RGB"


def test_a_mask_is_black_and_white_at_its_pictures_size() -> None:
    grey = Image.new("L", (32, 24), 40)
    grey.paste(200, (0, 0, 16, 24))
    mask = take_mask(grey, photo(64, 48))
    assert mask.size == (64, 48)
    assert sorted(colour for _, colour in mask.getcolors() or []) == [0, 255]


# --- keeping --------------------------------------------------------------------------------------------------------


def test_pictures_are_kept_once_by_content_and_come_back_bit_by_bit(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    id = store.keep(photo())
    assert store.keep(photo()) == id == picture_id(photo())
    assert len(list(tmp_path.iterdir())) == 1
    assert store.open(id).tobytes() == photo().tobytes()
    assert store.keep(photo(64, 49)) != id


@pytest.mark.parametrize("id", ["0" * 64, "../../etc/passwd", "", "x" * 64])
def test_what_is_not_kept_is_a_sentence(tmp_path: Path, id: str) -> None:
    with pytest.raises(NotFound):
        PictureStore(tmp_path).open(id)


def test_a_changed_or_damaged_file_is_not_passed_off_as_the_picture(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    id = store.keep(photo())
    photo(60, 48).save(tmp_path / f"{id}.png")
    with pytest.raises(NotFound, match="was changed"):
        store.open(id)
    (tmp_path / f"{id}.png").write_bytes(b"")
    with pytest.raises(NotFound, match="is not kept"):
        store.open(id)


def test_tidying_forgets_what_no_drawing_names_after_a_day(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    used, fresh, old = store.keep(photo()), store.keep(photo(65)), store.keep(photo(66))
    (tmp_path / "half.part").write_bytes(b"half")
    long_ago = time.time() - inputs.UNUSED_SECONDS - 60
    for id in (used, old):
        os.utime(tmp_path / f"{id}.png", (long_ago, long_ago))
    store.tidy({used})
    assert {path.stem for path in tmp_path.iterdir()} == {used, fresh}
