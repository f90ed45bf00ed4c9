"""Any picture's pixels made plain: eight bits, RGB or RGBA, turned upright, on white; and what that took, in words.

Sixteen bits, palettes, CMYK and a camera held sideways are how ordinary pictures come; all places that take pictures
in make the same of them. Colour profiles are not applied. Beside it, how alike two pictures are (PSNR). Knows pictures
in memory, no file and no limit.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from PIL import Image

MAX_PSNR = 99.0
_ORIENTATION = 0x0112
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I" is how Pillow has opened 16-bit grey, too
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
_MADE_RGB = {
    "L": "grey made RGB", "1": "black and white made RGB", "P": "palette made RGB", "CMYK": "CMYK made RGB",
    "YCbCr": "YCbCr made RGB", "RGBX": "",
}  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def plain(image: Image.Image) -> tuple[Image.Image, str]:
    """RGB, or RGBA where something may be transparent, and what that took ("" for nothing).

    Raises `ValueError` naming the kind of picture that is neither.
    """
    if image.mode in _SIXTEEN_BITS:
        levels = np.asarray(image).astype(np.float64) / 65535
        return Image.fromarray((levels.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB"), "16 bits made 8"
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        return image.convert("RGBA"), ""
    if image.mode == "RGB":
        return image, ""
    if image.mode in _MADE_RGB:
        return image.convert("RGB"), _MADE_RGB[image.mode]
    raise ValueError("32-bit levels" if image.mode == "F" else image.mode)


def on_white(image: Image.Image) -> Image.Image:
    """A plain picture as RGB, what is transparent laid on white."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How to turn a picture upright, from its EXIF; broken EXIF turns nothing."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return None
    return _TURNS.get(value) if isinstance(value, int) else None


def levels(picture: Image.Image) -> np.ndarray:
    """`[H, W, 3]` in 0 to 255, fp32."""
    return np.asarray(picture.convert("RGB"), np.float32)


def psnr(picture: Image.Image, reference: Image.Image) -> float:
    """Peak signal to noise in dB of two pictures of one size, at most 99."""
    error = float(np.square(levels(picture) - levels(reference)).mean())
    return MAX_PSNR if error == 0 else min(MAX_PSNR, 10 * math.log10(255**2 / error))
