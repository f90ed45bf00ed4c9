"""A base in another style, fine-tuned from Tabletop and never accelerated: old prints of the same world.

It is trained once, in minutes, and kept in the cache; benchmarks put Tabletop's accelerators on it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps

from studio.perflow.schedule import NoiseSchedule
from trainer.loop import Progress, Schedule, train
from trainer.tabletop.autoencoder import encode_all
from trainer.tabletop.captions import full_caption
from trainer.tabletop.data import image_of
from trainer.tabletop.diffusion import LatentSet, TeacherTask
from trainer.tabletop.scenes import random_scene

log = logging.getLogger(__name__)

STYLE = "tabletop-style"
STYLE_SEEDS = 30_000_000
NUM_SCENES = 600
DARK, PAPER = (45, 20, 70), (250, 225, 180)


def restyled(pixels: np.ndarray) -> np.ndarray:
    """Pictures `[N, 3, H, W]` uint8 as old prints: eight tones from dark violet to paper."""
    return np.stack(
        [np.asarray(_print(Image.fromarray(each.transpose(1, 2, 0)))).transpose(2, 0, 1) for each in pixels]
    )


def _print(picture: Image.Image) -> Image.Image:
    return ImageOps.colorize(ImageOps.posterize(picture.convert("L"), 3), black=DARK, white=PAPER)


def styled_base(assets: Path, cache: Path, minutes: float, num_scenes: int = NUM_SCENES) -> Path:
    """A pipeline folder whose UNet went on from Tabletop's on restyled scenes; trained once, kept in the cache."""
    folder = cache / STYLE
    if (folder / "model_index.json").exists():
        return folder
    pipe = StableDiffusionPipeline.from_pretrained(assets / "tabletop", dtype=torch.float32)
    schedule = NoiseSchedule.of_diffusion(pipe.scheduler.alphas_cumprod)
    task = TeacherTask(pipe.unet, _style_set(pipe, num_scenes), schedule, "cpu")

    def report(progress: Progress) -> None:
        log.info("style: step %d, loss %.4f", progress.step, progress.loss)

    plan = Schedule(minutes=minutes, learning_rate=2e-4, ema_decay=0.99)
    pipe.unet.load_state_dict(train(task, plan, cache / f"{STYLE}-checkpoints", report), strict=False)
    pipe.save_pretrained(folder)
    return folder


@torch.no_grad()
def _style_set(pipe: Any, num_scenes: int) -> LatentSet:
    log.info("style: rendering %d scenes", num_scenes)
    scenes = [random_scene(STYLE_SEEDS + number) for number in range(num_scenes)]
    pictures = restyled(np.stack([image_of(scene) for scene in scenes]))
    texts = ["", *map(full_caption, scenes)]
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    prompts = torch.cat([pipe.text_encoder(part)[0] for part in ids.split(100)])
    return LatentSet(
        posteriors=encode_all(pipe.vae, pictures, "cpu"), prompts=prompts[1:, None], empty=prompts[0],
        scaling_factor=pipe.vae.config.scaling_factor,
    )  # fmt: skip
