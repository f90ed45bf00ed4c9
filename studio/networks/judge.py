"""The judge: a small classifier, trained apart from every generator, that says what a picture of its world shows.

It reads which (shape, colour) pairs are present, the material of each shape, the floor, the sky and the number of
things. Every cell of an 8 x 8 map votes for pairs and the strongest vote counts, so a colour stays bound to its shape.
Its pooled features (160 numbers) are those in which Frechet distances and diversity are measured. Shapes: B 3 128 128
pixels in [-1, 1]. Knows no prompts and no files; what its numbers mean is a `Vocabulary`, which lies beside its
weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from studio.adherence import Vocabulary

IMAGE_SIZE = 128
NUM_COUNTS = 3


class Judge(nn.Module):
    """A residual network on 128 x 128 pixels in [-1, 1]."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        shapes = len(vocabulary.shapes)
        self._local = (shapes * len(vocabulary.colours), shapes * len(vocabulary.materials))
        self._whole = (len(vocabulary.floors), len(vocabulary.skies), NUM_COUNTS)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, stride=4, padding=3), nn.GroupNorm(8, 32), nn.SiLU())
        self.body = nn.Sequential(
            Block(32, 32, 1), Block(32, 96, 2), Block(96, 96, 1), Block(96, 160, 2), Block(160, 160, 1)
        )
        self.local = nn.Conv2d(160, sum(self._local), 1)
        self.whole = nn.Linear(160, sum(self._whole))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """`[B, 160]`, in which sets of pictures are compared."""
        return self.body(self.stem(pixels)).float().mean(dim=(2, 3))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits: `pairs` `[B, 80]`, `surfaces` `[B, 24]` (present or not), `floor`, `sky`, `count` (one of); and
        `features`."""
        grid = self.body(self.stem(pixels))
        pooled = grid.mean(dim=(2, 3))
        local = torch.logsumexp(self.local(grid).float().flatten(2), dim=-1) - 4.0
        pairs, surfaces = local.split(list(self._local), dim=-1)
        floor, sky, count = self.whole(pooled).float().split(list(self._whole), dim=-1)
        return {
            "pairs": pairs, "surfaces": surfaces, "floor": floor, "sky": sky, "count": count,
            "features": pooled.float(),
        }  # fmt: skip


class Block(nn.Module):
    """Two convolutions beside a skip; `stride` halves the size."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1), nn.GroupNorm(8, outputs),
        )  # fmt: skip
        self.skip = nn.Identity() if (inputs, stride) == (outputs, 1) else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.path(x) + self.skip(x))
