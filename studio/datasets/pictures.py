"""One file's bytes -> an upright RGB picture to train on, or the reason why not.

The header is looked at before the pixels: kind by content and never by name, size, frames. What cannot be trained on as
it is (palettes, 16 bits, CMYK, transparency, a camera held sideways) is made plain and says so; only such pictures are
encoded again. Colour profiles are not applied. Knows nothing of where the bytes came from.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from studio import pixels
from studio.datasets.sources import Limits, Refused

FORMATS = ("PNG", "JPEG", "WEBP")
THUMBNAIL_PIXELS = 192
_SUFFIX = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}

# What a file that is no picture of ours is, by how it begins.
_STRANGERS = (
    (b"PK\x03\x04", "nested", "an archive inside (or a .pt file, which is one): unpack it first, archives inside are "
                              "not opened"),
    (b"PK\x05\x06", "nested", "an empty archive inside: not opened"),
    (b"\x1f\x8b", "nested", "an archive inside: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "nested", "an archive inside: unpack it first"),
    (b"Rar!", "nested", "an archive inside: unpack it first"),
    (b"\xfd7zXZ", "nested", "an archive inside: unpack it first"),
    (b"BZh", "nested", "an archive inside: unpack it first"),
    (b"\x80\x02", "pickle", "a pickle, which can run code when opened: it was not"),
    (b"\x80\x03", "pickle", "a pickle, which can run code when opened: it was not"),
    (b"\x80\x04", "pickle", "a pickle, which can run code when opened: it was not"),
    (b"\x80\x05", "pickle", "a pickle, which can run code when opened: it was not"),
    (b"GIF8", "format", "a GIF: save it as PNG, JPEG or WebP"),
    (b"BM", "format", "a BMP: save it as PNG, JPEG or WebP"),
    (b"II*\x00", "format", "a TIFF or a raw photograph: save it as PNG, JPEG or WebP"),
    (b"MM\x00*", "format", "a TIFF or a raw photograph: save it as PNG, JPEG or WebP"),
    (b"%PDF", "format", "a PDF: save its pictures as PNG, JPEG or WebP"),
    (b"<svg", "format", "an SVG drawing: save it as PNG"),
    (b"8BPS", "format", "a Photoshop file: save it as PNG"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as it will be kept: the original bytes where they are plain, a PNG otherwise."""

    content: bytes
    suffix: str
    width: int
    height: int
    pixels_sha256: str
    rotated: bool
    changes: tuple[str, ...]
    thumbnail: bytes


def picture_of(content: bytes, limits: Limits) -> Picture:
    """Check, decode and straighten one picture. Raises `Refused`."""
    plain, kind, turned, changes = _decoded(content, limits)
    return Picture(
        content=_png(plain) if changes else content,
        suffix="png" if changes else _SUFFIX[kind],
        width=plain.width,
        height=plain.height,
        pixels_sha256=pixels_sha256(plain),
        rotated=turned,
        changes=tuple(changes),
        thumbnail=_thumbnail(plain),
    )


def upright_rgb(content: bytes, limits: Limits | None = None) -> Image.Image:
    """One picture, checked and straightened, to be used now rather than kept. Raises `Refused`."""
    return _decoded(content, limits or Limits())[0]


def pixels_sha256(image: Image.Image) -> str:
    """The hash of an RGB picture's size and values."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _opened(content: bytes, limits: Limits) -> Image.Image:
    """Opened by its header alone, and found to be of a size and kind that may be decoded."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Refused("too_large", f"more than {limits.max_pixels // 10**6} megapixels: save it smaller") from error
    except UnidentifiedImageError as error:
        raise _stranger(content) from error
    except (OSError, SyntaxError, ValueError, struct.error, KeyError, TypeError) as error:
        raise Refused("damaged", "damaged: its header cannot be read") from error
    width, height = image.size
    if width * height > limits.max_pixels:
        raise Refused("too_large", f"{width} x {height}, more than {limits.max_pixels // 10**6} megapixels: "
                                   "save it smaller")  # fmt: skip
    if min(width, height) < limits.min_side:
        raise Refused("too_small", f"{width} x {height}, its shorter side is under {limits.min_side} pixels")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise Refused("too_thin", f"{width} x {height}, longer than {limits.max_aspect:g} times its width: crop it")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise Refused("animated", f"animated ({getattr(image, 'n_frames', 0)} frames): save one frame as a picture")
    return image


def _stranger(content: bytes) -> Refused:
    """What a file is that is no PNG, JPEG or WebP."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" or content[:3] == b"\xff\xd8\xff" or content[8:12] == b"WEBP":
        return Refused("damaged", "damaged: it begins like a picture and is none")
    if content[4:8] == b"ftyp":
        return Refused("format", "a HEIC, AVIF or video file: save it as PNG, JPEG or WebP")
    if content[257:262] == b"ustar":
        return Refused("nested", "an archive inside: unpack it first")
    for start, kind, reason in _STRANGERS:
        if content.lstrip()[:8].startswith(start) or content.startswith(start):
            return Refused(kind, reason)
    return Refused("format", "no picture: expected PNG, JPEG or WebP")


def _decoded(content: bytes, limits: Limits) -> tuple[Image.Image, str, bool, list[str]]:
    """The upright RGB picture, its format, whether it was turned, and all that was done to it."""
    if not content:
        raise Refused("empty", "an empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _opened(content, limits) as image:
                return _straightened(image, content, limits)
        except MemoryError as error:
            raise Refused("too_large", "too large to be decoded here: save it smaller") from error


def _straightened(image: Image.Image, content: bytes, limits: Limits) -> tuple[Image.Image, str, bool, list[str]]:
    kind = image.format or "PNG"
    turn = pixels.turn_of(image)
    try:
        if kind == "PNG":
            _opened(content, limits).verify()  # the checksums of its chunks; loading alone draws garbage
        image.load()
        plain, changes = _rgb(image, content)
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError) as error:
        raise Refused("damaged", "damaged or cut off: its pixels cannot be read") from error
    if turn is None:
        return plain, kind, False, changes
    return plain.transpose(turn), kind, True, [*changes, "turned upright"]


def _rgb(image: Image.Image, content: bytes) -> tuple[Image.Image, list[str]]:
    """Three channels of 8 bits, and what that took."""
    try:
        made, how = pixels.plain(image)
    except ValueError as error:
        raise Refused("format", f"of the unusual kind {error}: save it as an RGB picture") from error
    if made.mode == "RGBA":
        return pixels.on_white(made), ["transparency laid on white"]
    if image.mode == "RGB" and image.format == "PNG" and content[24:25] == b"\x10":
        return made, ["16 bits made 8"]  # which Pillow has done without a word
    return made, [how] if how else []


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    clean = Image.frombytes("RGB", image.size, image.tobytes())
    clean.save(file, format="PNG", compress_level=3)
    return file.getvalue()


def _thumbnail(image: Image.Image) -> bytes:
    small = ImageOps.contain(image, (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    small = Image.frombytes("RGB", small.size, small.tobytes())
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=85)
    return file.getvalue()
