"""Teaching and asking the judge (studio.networks.judge): labels of scenes, its training, shares of attributes found.

Trained on seeds that no generator ever saw. Knows nothing of prompts: `asked` turns a scene into the labels it should
find, and `VOCABULARY` is what ships beside its weights, so that the studio can read prompts.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from studio.adherence import Vocabulary
from studio.networks.judge import Judge
from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.captions import FLOOR_WORDS, MATERIAL_WORDS, SHAPE_WORDS, SKY_WORDS
from trainer.tabletop.precision import autocast
from trainer.tabletop.scenes import COLOURS, FLOORS, MATERIALS, SHAPES, SKIES, Scene

COLOUR_NAMES = tuple(COLOURS)
NUM_PAIRS = len(SHAPES) * len(COLOUR_NAMES)
NUM_SURFACES = len(SHAPES) * len(MATERIALS)
VOCABULARY = Vocabulary(
    shapes=SHAPE_WORDS, colours=COLOUR_NAMES, materials=MATERIAL_WORDS, floors=FLOOR_WORDS, skies=SKY_WORDS
)


def new_judge() -> Judge:
    """A judge of the tabletop world, untrained."""
    return Judge(VOCABULARY)


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
        for name in ("pairs", "surfaces", "floor", "sky", "count"):
            logits = found[name]
            truth = self.labels[name][picks].to(self.device)
            if name in ("pairs", "surfaces"):
                loss = loss + 12 * F.binary_cross_entropy_with_logits(logits, truth)
            else:
                loss = loss + 0.5 * F.cross_entropy(logits, truth)
        return loss


def things_found(pairs: torch.Tensor, scenes: list[Scene]) -> list[bool]:
    """For each picture whether, for n things, the n likeliest of the judge's `pairs` are those the scene has."""
    truths = asked(scenes)["pairs"]
    return [
        bool(truth[logits.topk(len(scene.things)).indices].all())
        for logits, truth, scene in zip(pairs, truths, scenes, strict=True)
    ]


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
    right = things_found(found["pairs"], scenes)
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
