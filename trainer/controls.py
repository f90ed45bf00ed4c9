"""Control pictures for ControlNet training: from pixels (canny, tile) or from a scene's geometry (depth, pose).

All are uint8 `[3, H, W]`. Depth is as MiDaS shows it: near is white, sky is black. Pose is bones on black, one colour
each, only where both joints are seen. Knows nothing of networks.
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from PIL import Image, ImageDraw

from studio.errors import InvalidRequest
from trainer.framing import pixels_of
from trainer.tabletop.geometry import BONES
from trainer.tabletop.renderer import Render

CANNY_LOW, CANNY_HIGH = 100, 200
TILE_FACTOR = 4
OF_PIXELS, OF_SCENES = ("canny", "tile"), ("canny", "tile", "depth", "pose")


def control_of_pixels(control: str, pixels: torch.Tensor) -> torch.Tensor:
    """Canny edges or a coarse tile of `[3, H, W]` uint8. Raises `InvalidRequest` for what pixels do not tell."""
    if control == "canny":
        return _canny(pixels)
    if control == "tile":
        return _tile(pixels)
    raise InvalidRequest("control", f"{' or '.join(OF_PIXELS)}, what pixels alone tell", control)


def control_of_scene(control: str, seen: Render, pixels: torch.Tensor) -> torch.Tensor:
    """Any control of a rendered scene."""
    if control == "depth":
        return _depth(seen.depth)
    if control == "pose":
        return _pose(seen)
    return control_of_pixels(control, pixels)


def image_from(pixels: torch.Tensor) -> Image.Image:
    """A picture of `[3, H, W]` uint8."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _canny(pixels: torch.Tensor) -> torch.Tensor:
    try:
        import cv2
    except ImportError as error:
        raise InvalidRequest(
            "control", "another control, or OpenCV: pip install opencv-python-headless", "canny"
        ) from error
    edges = cv2.Canny(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), CANNY_LOW, CANNY_HIGH)
    return torch.from_numpy(edges).expand(3, -1, -1).contiguous()


def _tile(pixels: torch.Tensor) -> torch.Tensor:
    """A fourth of the detail, blown up again."""
    image = image_from(pixels)
    small = max(1, image.width // TILE_FACTOR), max(1, image.height // TILE_FACTOR)
    coarse = image.resize(small, Image.Resampling.BOX)
    return pixels_of(coarse.resize(image.size, Image.Resampling.BICUBIC))


def _depth(depth: torch.Tensor) -> torch.Tensor:
    """Inverse depth as a share of the nearest point's."""
    inverse = 1 / depth.clamp(min=1e-3)
    levels = (inverse / inverse.max().clamp(min=1e-6) * 255).round().to(torch.uint8).cpu()
    return levels.expand(3, -1, -1).contiguous()


def _pose(seen: Render) -> torch.Tensor:
    height, width = seen.depth.shape
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for joints in seen.joints:
        for number, (one, other) in enumerate(BONES):
            if one in joints and other in joints and joints[one][2] and joints[other][2]:
                colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / len(BONES), 1, 1))
                draw.line([joints[one][:2], joints[other][:2]], fill=colour, width=max(2, width // 48))
    return pixels_of(image)
