"""What an image editor hands over: the picture under the paint, the picture with it, and the paint as a mask.

This module knows no form and no request.
"""

from __future__ import annotations

from typing import Any

from PIL import Image


def background(edited: Any) -> Image.Image | None:
    """The picture under what was painted; an empty canvas, which is one colour, is none."""
    found = edited.get("background") if isinstance(edited, dict) else None
    return found if found is not None and _shows_something(found) else None


def drawn_picture(edited: Any) -> Image.Image | None:
    """The picture with what was drawn on it; a drawing alone stands on black, as maps do."""
    layers = _layers(edited)
    picture = background(edited)
    if picture is None and not layers:
        return None
    canvas = (picture or Image.new("RGB", layers[0].size)).convert("RGBA")
    for layer in layers:
        canvas.alpha_composite(layer.resize(canvas.size))
    return canvas.convert("RGB")


def painted(edited: Any) -> Image.Image | None:
    """What was painted over a picture, as a mask: white where there is any paint; `None` without paint."""
    layers = _layers(edited)
    if not layers:
        return None
    mask = Image.new("L", layers[0].size)
    for layer in layers:
        mask.paste(255, mask=layer.getchannel("A").resize(mask.size))
    return mask.point([0] + [255] * 255)


def _layers(edited: Any) -> list[Image.Image]:
    """The layers that hold any paint."""
    found = (edited.get("layers") if isinstance(edited, dict) else None) or []
    layers = [each.convert("RGBA") for each in found if each is not None]
    return [each for each in layers if each.getchannel("A").getbbox() is not None]


def _shows_something(image: Image.Image) -> bool:
    low_and_high = image.convert("RGB").resize((64, 64)).getcolors(2)
    return low_and_high is None or len(low_and_high) > 1


def as_layer(mask: Image.Image) -> Image.Image:
    """A mask as paint: white, and nothing where it is black."""
    layer = Image.new("RGBA", mask.size, "white")
    layer.putalpha(mask.convert("L"))
    return layer
