"""A picture of any proportions onto a canvas: cut, stretched or padded. Pure, and knows no tensors."""

from __future__ import annotations

from PIL import Image, ImageOps

from studio.conditions import Resize

Size = tuple[int, int]


def fit(image: Image.Image, size: Size, resize: Resize | str, *, is_map: bool = False) -> Image.Image:
    """The picture at `size`: "crop" covers it and cuts around the middle, "pad" shows all of it on black.

    Masks stay black and white; so do maps when they grow, whose lines would blur.
    """
    if image.size == size:
        return image
    grows = size[0] >= image.width and size[1] >= image.height
    sharp = image.mode == "L" or (is_map and grows)
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    if resize == "stretch":
        return image.resize(size, method)
    if resize == "crop":
        return ImageOps.fit(image, size, method)
    return ImageOps.pad(image, size, method, color=0)
