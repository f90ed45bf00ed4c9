"""The judge: a small classifier, trained apart from every generator, that says what a picture shows.

It reads which (shape, colour) pairs are present, the material of each shape, the floor, the sky and the number of
things. Every cell of an 8 x 8 map votes for pairs and the strongest vote counts, so a colour stays bound to its shape.
Its pooled features (160 numbers) are those in which Frechet distances are measured. Trained on seeds that no generator
ever saw. Knows nothing of prompts: `asked` turns a scene into the labels it should find.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.precision import autocast
from trainer.tabletop.scenes import COLOURS, FLOORS, MATERIALS, SHAPES, SKIES, Scene

COLOUR_NAMES = tuple(COLOURS)
NUM_PAIRS = len(SHAPES) * len(COLOUR_NAMES)
NUM_SURFACES = len(SHAPES) * len(MATERIALS)


class Judge(nn.Module):
    """A residual network on 128 x 128 pixels in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, stride=4, padding=3), nn.GroupNorm(8, 32), nn.SiLU())
        self.body = nn.Sequential(
            Block(32, 32, 1), Block(32, 96, 2), Block(96, 96, 1), Block(96, 160, 2), Block(160, 160, 1)
        )
        self.local = nn.Conv2d(160, NUM_PAIRS + NUM_SURFACES, 1)
        self.whole = nn.Linear(160, len(FLOORS) + len(SKIES) + 3)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """`[N, 160]` for Frechet distances."""
        return self.body(self.stem(pixels)).float().mean(dim=(2, 3))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits: `pairs` `[N, 80]`, `surfaces` `[N, 24]` (present or not), `floor`, `sky`, `count` (one of)."""
        grid = self.body(self.stem(pixels))
        local = torch.logsumexp(self.local(grid).float().flatten(2), dim=-1) - 4.0
        floor, sky, count = self.whole(grid.mean(dim=(2, 3))).float().split([len(FLOORS), len(SKIES), 3], dim=-1)
        return {
            "pairs": local[:, :NUM_PAIRS],
            "surfaces": local[:, NUM_PAIRS:],
            "floor": floor,
            "sky": sky,
            "count": count,
        }


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


def pair_index(shape: str, colour: str) -> int:
    """Where `pairs` tells of this shape in this colour."""
    return SHAPES.index(shape) * len(COLOUR_NAMES) + COLOUR_NAMES.index(colour)


def asked(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """The labels of scenes: multi-hot `pairs` and `surfaces`, class numbers for the rest."""
    pairs, surfaces = torch.zeros(len(scenes), NUM_PAIRS), torch.zeros(len(scenes), NUM_SURFACES)
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            pairs[row, pair_index(thing.shape, thing.colour)] = 1
            surfaces[row, SHAPES.index(thing.shape) * len(MATERIALS) + MATERIALS.index(thing.material)] = 1
    return {
        "pairs": pairs,
        "surfaces": surfaces,
        "floor": torch.tensor([FLOORS.index(scene.floor) for scene in scenes]),
        "sky": torch.tensor([SKIES.index(scene.sky) for scene in scenes]),
        "count": torch.tensor([len(scene.things) - 1 for scene in scenes]),
    }


class JudgeTask:
    """Learn the labels from pictures that are flipped and shifted by up to four pixels."""

    def __init__(self, judge: Judge, images: np.ndarray, scenes: list[Scene], device: str, batch: int = 48) -> None:
        self.judge = judge.to(device).train()
        self.module: nn.Module = self.judge
        self.images, self.labels, self.device, self.batch = images, asked(scenes), device, batch

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """Binary cross-entropy for what may be several, cross-entropy for what is one."""
        picks = torch.randint(len(self.images), (self.batch,), generator=generator)
        pixels = to_pixels(self.images[picks.numpy()])
        if int(torch.randint(2, (1,), generator=generator)):
            pixels = pixels.flip(-1)
        shift = torch.randint(-4, 5, (2,), generator=generator).tolist()
        pixels = pixels.roll(shift, dims=(2, 3)).to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            found = self.judge(pixels)
        loss = torch.zeros((), device=self.device)
        for name, logits in found.items():
            truth = self.labels[name][picks].to(self.device)
            if name in ("pairs", "surfaces"):
                loss = loss + 12 * F.binary_cross_entropy_with_logits(logits, truth)
            else:
                loss = loss + 0.5 * F.cross_entropy(logits, truth)
        return loss


@torch.no_grad()
def accuracies(judge: Judge, pixels: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Shares of pictures in which everything asked for was found: for n things, the n likeliest pairs are those asked.

    `single` and `double` are over scenes with one and with two things; `material`, `floor` and `sky` over all.
    """
    judge.eval()
    parts = [judge(chunk) for chunk in pixels.split(64)]
    found = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    wanted = asked(scenes)
    counts = wanted["pairs"].sum(1).int().tolist()
    right = []
    for logits, truth, count in zip(found["pairs"], wanted["pairs"], counts, strict=True):
        top = logits.topk(count).indices
        right.append(bool(truth[top].all()))
    result = {}
    for name, number in (("single", 1), ("double", 2), ("triple", 3)):
        some = [ok for ok, count in zip(right, counts, strict=True) if count == number]
        if some:
            result[name] = sum(some) / len(some)
    result["material"] = _material_accuracy(found["surfaces"], scenes)
    for name in ("floor", "sky"):
        result[name] = float((found[name].argmax(-1) == wanted[name]).float().mean())
    return result


def _material_accuracy(surfaces: torch.Tensor, scenes: list[Scene]) -> float:
    """For each thing, whether its material is the likeliest of the three for its shape."""
    right = [
        int(row.view(len(SHAPES), len(MATERIALS))[SHAPES.index(thing.shape)].argmax())
        == MATERIALS.index(thing.material)
        for row, scene in zip(surfaces, scenes, strict=True)
        for thing in scene.things
    ]
    return sum(right) / len(right)
