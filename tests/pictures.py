"""A zip of captioned pictures in a style Tabletop has never seen: ink on tinted paper, in few flat colours.

Four fifths are scenes of the built-in world, the rest details of the photographs that scikit-image brings along (those
that need no download); all of them are drawn over by the same pen.
`python -m tests.pictures OUT.zip [COUNT]` writes one.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from trainer.tabletop.captions import full_caption
from trainer.tabletop.data import TEST_SEEDS
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

FIRST_SCENE = TEST_SEEDS + 500_000
PHOTO_EVERY = 5
PHOTOGRAPHS = {
    "astronaut": "an astronaut in an orange suit",
    "chelsea": "the face of a cat",
    "coffee": "a cup of coffee on a table",
    "rocket": "a rocket before the start",
    "hubble_deep_field": "galaxies in a dark sky",
    "retina": "the back of an eye",
    "camera": "a man behind a camera",
    "coins": "old coins",
    "moon": "the surface of the moon",
    "brick": "a wall of bricks",
    "grass": "blades of grass",
    "gravel": "grey gravel",
}
STYLE = "an ink drawing of"
PAPER = np.array([0.98, 0.93, 0.80])
INK = np.array([0.10, 0.07, 0.22])
LEVELS = 4


def style_zip(path: Path, count: int = 200, *, side: int = 128) -> Path:
    """Write `count` pictures with their captions as sidecars; the same bytes of pixels every time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, (image, caption) in enumerate(styled_pictures(count, side)):
            file = io.BytesIO()
            image.save(file, format="PNG")
            archive.writestr(f"ink/{number:03}.png", file.getvalue())
            archive.writestr(f"ink/{number:03}.txt", f"{STYLE} {caption}")
    return path


def styled_pictures(count: int, side: int) -> Iterator[tuple[Image.Image, str]]:
    """Pictures in ink with what they show."""
    for number in range(count):
        if number % PHOTO_EVERY == PHOTO_EVERY - 1:
            image, caption = _photograph(number // PHOTO_EVERY, side)
        else:
            image, caption = _scene(FIRST_SCENE + number, side)
        yield inked(image), caption


def inked(image: Image.Image) -> Image.Image:
    """Flat colours pulled towards the paper, and dark lines where brightness changes."""
    flat = np.asarray(image.filter(ImageFilter.MedianFilter(5)), dtype=np.float64) / 255
    flat = np.round(flat * (LEVELS - 1)) / (LEVELS - 1)
    grey = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(1)), dtype=np.float64) / 255
    slope = np.hypot(*np.gradient(grey))
    line = np.clip((slope - 0.03) / 0.05, 0, 1)[..., None]
    colour = 0.7 * flat * PAPER + 0.3 * PAPER * grey[..., None]
    return Image.fromarray((np.clip((1 - line) * colour + line * INK, 0, 1) * 255).round().astype(np.uint8))


def _scene(seed: int, side: int) -> tuple[Image.Image, str]:
    scene = random_scene(seed, num_things=1 + seed % 2)
    rgb = (render(scene, side).rgb * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(rgb.numpy()), full_caption(scene)


def _photograph(number: int, side: int) -> tuple[Image.Image, str]:
    """A square detail of one of the photographs, another one each time."""
    from skimage import data

    name, caption = list(PHOTOGRAPHS.items())[number % len(PHOTOGRAPHS)]
    photo = Image.fromarray(getattr(data, name)()).convert("RGB")
    rng = np.random.default_rng([number, 11])
    edge = int(min(photo.size) * rng.uniform(0.55, 0.95))
    left, top = (int(rng.integers(0, length - edge + 1)) for length in photo.size)
    detail = photo.crop((left, top, left + edge, top + edge))
    return detail.resize((side, side), Image.Resampling.LANCZOS), caption


if __name__ == "__main__":
    style_zip(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
