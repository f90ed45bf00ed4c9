"""The six views of Wonder3D: where their cameras stand, what the network is told of them, and their sheet of pictures.

A sheet is one picture of 6 x 2 squares, normals above colours; it is what previews show and what the history keeps,
so a mesh can be made of it at any later time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from studio.errors import InvalidRequest

WHITE_LENGTH = 1.35
NEARLY_WHITE = 0.93


@dataclass(frozen=True, kw_only=True)
class View:
    """A camera at the object's height, `yaw_degrees` to the right of the front; `label` is what the network is told.

    The label's angles (elevation, azimuth in radians, relative to the front) are those of the published pipeline, to
    the half precision it rounds them to; the network only needs them to be the same in training and in use.
    """

    name: str
    yaw_degrees: float
    label: tuple[float, float]

    @property
    def toward(self) -> np.ndarray:
        """The unit vector from the object to the camera."""
        yaw = math.radians(self.yaw_degrees)
        return np.array([math.sin(yaw), 0.0, math.cos(yaw)])

    @property
    def right(self) -> np.ndarray:
        """The unit vector to the right of the picture; up is y."""
        yaw = math.radians(self.yaw_degrees)
        return np.array([math.cos(yaw), 0.0, -math.sin(yaw)])


VIEWS = (
    View(name="front", yaw_degrees=0, label=(0.0, 0.0)),
    View(name="front right", yaw_degrees=45, label=(-0.2362, 0.8125)),
    View(name="right", yaw_degrees=90, label=(-0.1686, 1.6934)),
    View(name="back", yaw_degrees=180, label=(0.5220, 3.1406)),
    View(name="left", yaw_degrees=270, label=(0.6904, 4.8359)),
    View(name="front left", yaw_degrees=315, label=(0.3733, 5.5859)),
)


def labels() -> np.ndarray:
    """`[12, 10]`, a row for each normal map and then each colour picture: sin and cos of five numbers."""
    angles = [(0.0, *view.label, *domain) for domain in ((1.0, 0.0), (0.0, 1.0)) for view in VIEWS]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewSet:
    """Six normal maps and six colour pictures, `[6, S, S, 3]` float32 in [0, 1], in the order of `VIEWS`."""

    normals: np.ndarray
    colours: np.ndarray

    @property
    def size(self) -> int:
        return self.normals.shape[1]

    @classmethod
    def of_sheet(cls, sheet: Image.Image) -> ViewSet:
        """The views of a sheet. Raises `InvalidRequest` for a picture that is none."""
        size = sheet.height // 2
        if sheet.size != (len(VIEWS) * size, 2 * size) or size < 16:
            raise InvalidRequest("views", "a sheet of 6 x 2 square views", f"{sheet.width} x {sheet.height} pixels")
        pixels = np.asarray(sheet.convert("RGB"), dtype=np.float32) / 255
        rows = pixels.reshape(2, size, len(VIEWS), size, 3).transpose(0, 2, 1, 3, 4)
        return cls(normals=rows[0], colours=rows[1])

    def sheet(self) -> Image.Image:
        """All twelve as one picture."""
        both = np.stack([self.normals, self.colours]).transpose(0, 2, 1, 3, 4)
        pixels = both.reshape(2 * self.size, len(VIEWS) * self.size, 3)
        return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))

    def vectors(self) -> np.ndarray:
        """`[6, S, S, 3]` unit normals; of no meaning outside the masks."""
        raw = 2 * self.normals - 1
        return raw / np.linalg.norm(raw, axis=-1, keepdims=True).clip(1e-6)

    def masks(self) -> np.ndarray:
        """`[6, S, S]` bool: where the object is.

        White is no normal (its vector is 1.73 long), so normal maps tell the background whatever the object's colour.
        """
        return np.linalg.norm(2 * self.normals - 1, axis=-1) < WHITE_LENGTH


def flat_normals(picture: np.ndarray) -> np.ndarray:
    """`[6, S, S, 3]`: normal maps of the outline in a picture `[S, S, 3]` on white, as if every view saw a plane."""
    mask = picture.min(axis=-1) < NEARLY_WHITE
    outlines = [mask[:, ::-1] if view.name == "back" else mask for view in VIEWS]
    return np.stack(
        [
            coloured(np.broadcast_to(view.toward, picture.shape), each)
            for view, each in zip(VIEWS, outlines, strict=True)
        ]
    )


def coloured(vectors: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit normals `[..., 3]` as the colours of a normal map, white where `mask` `[...]` is false."""
    return np.where(mask[..., None], (vectors + 1) / 2, 1.0).astype(np.float32)
