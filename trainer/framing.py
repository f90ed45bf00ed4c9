"""A picture of any shape into a training size: scaled to cover it, cut around its middle.

Pixels are uint8 `[3, H, W]`; a `Size` is (width, height); a frame is what SDXL is told of a sample: original height and
width, top and left of the cut in the scaled picture, target height and width.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

PREPROCESSING = 1  # part of the name of everything cached: raise it when this file changes what comes out

Size = tuple[int, int]
Frame = tuple[int, int, int, int, int, int]


def frame_of(original: Size, size: Size) -> Frame:
    """How a picture of one size is cut to another."""
    width, height = _covering(original, size)
    return original[1], original[0], (height - size[1]) // 2, (width - size[0]) // 2, size[1], size[0]


def framed(image: Image.Image, size: Size) -> torch.Tensor:
    """The RGB picture at a training size."""
    _, _, top, left, height, width = frame_of(image.size, size)
    scaled = image.resize(_covering(image.size, size), Image.Resampling.LANCZOS)
    return pixels_of(scaled.crop((left, top, left + width, top + height)))


def pixels_of(image: Image.Image) -> torch.Tensor:
    """An RGB picture as `[3, H, W]` uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _covering(original: Size, size: Size) -> Size:
    """The smallest scaled size that covers the target."""
    scale = max(size[0] / original[0], size[1] / original[1])
    return max(size[0], round(original[0] * scale)), max(size[1], round(original[1] * scale))
