"""A picture at its new size, enlarged by Lanczos piece by piece: any piece equals that piece of the whole.

Beyond the picture's edge its last pixels go on, so tiles may hang over it. Knows no tiles and no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Enlarged:
    """An RGB picture, to be seen `factor` times as large."""

    source: Image.Image
    factor: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole."""
        return self.source.width * self.factor, self.source.height * self.factor

    def whole(self) -> Image.Image:
        """All of it at once."""
        return self.source.resize(self.size, Image.Resampling.LANCZOS)

    def piece(self, box: Box) -> Image.Image:
        """A part of it (left, top, right, bottom), which may reach beyond the right and the lower edge."""
        left, top, right, bottom = box
        width, height = self.size
        inside = (left, top, min(right, width), min(bottom, height))
        piece = self._resized(inside)
        beyond = (right - inside[2], bottom - inside[3])
        if not any(beyond):
            return piece
        pixels = np.pad(np.asarray(piece), ((0, beyond[1]), (0, beyond[0]), (0, 0)), mode="edge")
        return Image.fromarray(pixels)

    def _resized(self, box: Box) -> Image.Image:
        left, top, right, bottom = box
        source = left / self.factor, top / self.factor, right / self.factor, bottom / self.factor
        return self.source.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=source)
