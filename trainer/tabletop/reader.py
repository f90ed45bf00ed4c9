"""The reader: a small network, trained apart from every generator, that reads depth and a figure's joints off pictures.

Whether a drawing follows its depth map or its pose is asked of it, as the judge is asked what a picture shows. It
learns from the judge's scenes, rendered again for their depth and joints; of those with one figure all are used.
Shapes: pixels B 3 128 128 in [-1, 1] -> depth B 32 32 (near is 1, sky 0, as depth maps are), joints B 14 32 32 logits
over places. Knows nothing of generators or maps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import nn

from studio.networks.judge import Block
from trainer.controls import control_of_scene
from trainer.tabletop import data
from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.geometry import JOINTS
from trainer.tabletop.precision import autocast
from trainer.tabletop.renderer import Render, render
from trainer.tabletop.scenes import Scene

if TYPE_CHECKING:
    from trainer.tabletop.recipe import Recipe

log = logging.getLogger(__name__)

PLACES = 32
NUM_PLAIN = 1000
MIRRORED = tuple(
    JOINTS.index(name.replace("left", "right") if "left" in name else name.replace("right", "left")) for name in JOINTS
)


class Reader(nn.Module):
    """A small U-Net of 0.3 M parameters, from 128 x 128 pixels to 32 x 32 places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 7, stride=4, padding=3), nn.GroupNorm(8, 24), nn.SiLU())
        self.fine = Block(24, 24, 1)
        self.middle = Block(24, 48, 2)
        self.coarse = nn.Sequential(Block(48, 72, 2), Block(72, 72, 1))
        self.middle_up = Block(72 + 48, 48, 1)
        self.fine_up = Block(48 + 24, 32, 1)
        self.out = nn.Conv2d(32, 1 + len(JOINTS), 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Depth `[B, 32, 32]` and joint logits `[B, 14, 32, 32]`."""
        fine = self.fine(self.stem(pixels))
        middle = self.middle(fine)
        up = self.middle_up(torch.cat([F.interpolate(self.coarse(middle), scale_factor=2), middle], dim=1))
        up = self.fine_up(torch.cat([F.interpolate(up, scale_factor=2), fine], dim=1))
        found = self.out(up).float()
        return found[:, 0], found[:, 1:]


@torch.no_grad()
def read(reader: Reader, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Depth `[N, 32, 32]`, and joints `[N, 14, 2]` as x and y in pixels: around the likeliest place, its mean."""
    parts = [reader(chunk) for chunk in pixels.split(64)]
    depth, logits = (torch.cat(each) for each in zip(*parts, strict=True))
    share = logits.flatten(2).softmax(-1).unflatten(2, (PLACES, PLACES))
    best = share.flatten(2).argmax(-1)
    row, column = best // PLACES, best % PLACES
    grid = torch.arange(PLACES)
    near = ((grid - row[..., None]).abs() <= 1)[..., :, None] & ((grid - column[..., None]).abs() <= 1)[..., None, :]
    share = share * near
    share = share / share.sum(dim=(2, 3), keepdim=True)
    cell = data.IMAGE_SIZE / PLACES
    x = (share.sum(2) * (grid + 0.5)).sum(-1) * cell
    y = (share.sum(3) * (grid + 0.5)).sum(-1) * cell
    return depth.numpy(), torch.stack([x, y], dim=-1).numpy()


# --- learning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Of pictures `images` `[N, 3, 128, 128]` uint8: depth `[N, 32, 32]`, joints `[N, 14, 3]` (x, y in pixels, seen).

    Pictures without exactly one figure have no seen joints.
    """

    images: torch.Tensor
    depth: torch.Tensor
    joints: torch.Tensor


def depth_levels(seen: Render) -> torch.Tensor:
    """A scene's depth `[32, 32]` in [0, 1], as its depth map shows it."""
    levels = control_of_scene("depth", seen, torch.empty(0))[:1].float() / 255
    return F.adaptive_avg_pool2d(levels, PLACES)[0]


def joints_seen(scene: Scene, seen: Render) -> torch.Tensor:
    """`[14, 3]`: x, y in pixels and whether it is seen; none where there is not exactly one figure."""
    table = torch.zeros(len(JOINTS), 3)
    if has_one_figure(scene):
        [joints] = [each for each in seen.joints if each]
        for place, name in enumerate(JOINTS):
            if name in joints:
                table[place] = torch.tensor([joints[name][0], joints[name][1], float(joints[name][2])])
    return table


def has_one_figure(scene: Scene) -> bool:
    """Whether exactly one of the things is a figure."""
    return sum(thing.shape == "figure" for thing in scene.things) == 1


def labels_of(recipe: Recipe, num_scenes: int) -> Labels:
    """Of the judge's scenes: all with one figure, and as many others as `NUM_PLAIN`; rendered once."""
    path = recipe.result("reader-labels")
    if not path.exists():
        images = data.load_images(recipe.work, data.JUDGE_SEEDS, num_scenes)
        scenes = data.scenes(data.JUDGE_SEEDS, num_scenes)
        rows = [row for row, scene in enumerate(scenes) if has_one_figure(scene)]
        rows += [row for row, scene in enumerate(scenes) if not has_one_figure(scene)][:NUM_PLAIN]
        depth, joints = [], []
        for done, row in enumerate(rows):
            seen = render(scenes[row], data.IMAGE_SIZE)
            depth.append(depth_levels(seen))
            joints.append(joints_seen(scenes[row], seen))
            if done % 250 == 0:
                log.info("reader: %d of %d scenes", done, len(rows))
        made = {"images": torch.from_numpy(images[rows]), "depth": torch.stack(depth), "joints": torch.stack(joints)}
        save_file(made, path)
    return Labels(**load_file(path))


class ReaderTask:
    """Learn depth by its absolute error and joints as places, from pictures half of which are mirrored."""

    def __init__(self, reader: Reader, labels: Labels, device: str, batch: int = 48) -> None:
        self.reader = reader.to(device).train()
        self.module: nn.Module = self.reader
        self.labels, self.device, self.batch = labels, device, batch

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """One batch; a joint's truth is a small hill around its place."""
        picks = torch.randint(len(self.labels.images), (self.batch,), generator=generator)
        pixels, depth = to_pixels(self.labels.images[picks].numpy()), self.labels.depth[picks]
        joints = self.labels.joints[picks]
        if int(torch.randint(2, (1,), generator=generator)):
            pixels, depth, joints = pixels.flip(-1), depth.flip(-1), joints[:, MIRRORED].clone()
            joints[..., 0] = data.IMAGE_SIZE - joints[..., 0]
        with autocast(self.device):
            read_depth, logits = self.reader(pixels.to(self.device, memory_format=torch.channels_last))
        loss = 4 * F.l1_loss(read_depth, depth.to(self.device))
        seen = joints[..., 2] > 0
        if bool(seen.any()):
            hills = _hills(joints[..., :2][seen]).to(self.device)
            loss = loss + 0.1 * F.cross_entropy(logits[seen.to(self.device)].flatten(1), hills)
        return loss


def _hills(places: torch.Tensor) -> torch.Tensor:
    """`[n, 32 * 32]` shares around `[n, 2]` places in pixels, most of it within a cell."""
    centres = (torch.arange(PLACES) + 0.5) * data.IMAGE_SIZE / PLACES
    x = -((centres - places[:, :1]) ** 2) / (2 * 3.0**2)
    y = -((centres - places[:, 1:]) ** 2) / (2 * 3.0**2)
    return (y[:, :, None] + x[:, None, :]).flatten(1).softmax(-1)


@torch.no_grad()
def reading_errors(recipe: Recipe, count: int = 200) -> dict[str, float]:
    """How well it reads true pictures of the test seeds: the floor under what is measured of drawings."""
    reader = recipe.read("reader", Reader()).eval()
    scenes = data.scenes(data.TEST_SEEDS, count)
    seen = [render(scene, data.IMAGE_SIZE) for scene in scenes]
    depth, joints = read(reader, torch.stack([each.rgb for each in seen]) * 2 - 1)
    truths = [joints_seen(scene, each) for scene, each in zip(scenes, seen, strict=True)]
    correlations = [
        rank_correlation(found, depth_levels(each).numpy()) for found, each in zip(depth, seen, strict=True)
    ]
    errors = [joint_error(found, truth.numpy()) for found, truth in zip(joints, truths, strict=True)]
    return {
        "test_depth_rank_correlation": float(np.mean(correlations)),
        "test_joint_error_pixels": float(np.mean([each for each in errors if each is not None])),
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, over all places; 0 where one of them is even."""
    correlation: Any = spearmanr(a.ravel(), b.ravel())
    found = float(correlation.statistic)
    return 0.0 if np.isnan(found) else found


def joint_error(found: np.ndarray, truth: np.ndarray) -> float | None:
    """The mean distance in pixels between joints `[14, 2]` and the seen ones of `[14, 3]`; `None` if none is seen."""
    seen = truth[:, 2] > 0
    return float(np.linalg.norm(found[seen] - truth[seen, :2], axis=-1).mean()) if seen.any() else None
