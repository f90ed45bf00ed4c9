"""The multiview stage: Wonder3D's network in miniature, from the unaccelerated base, on the world's own views.

An object is 12 rows of latents under one noise level: `[2, B, 6]` rows, normals first, so that the halves of a batch
are its domains. Mirror images double the objects: left and right views change places, and normals their x. The picture
(its CLIP token and its latents) is dropped for a tenth of the objects, so that guidance is possible.

Only what views need most is trained: attention, the label, some convolutions at full resolution; the rest stays the
base's. So the network ships in 5 MB instead of 17, and stays near the base whose delta weights it is to take.
Source of the objective: Long et al., arXiv 2310.15008 (epsilon-prediction, all views at one timestep).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import nn

from studio.multiview.views import VIEWS, labels
from studio.networks.wonder3d import grown_from
from studio.perflow.schedule import NoiseSchedule
from trainer.objectives import diffusion_loss
from trainer.tabletop import data, models, objects
from trainer.tabletop.autoencoder import encode_all
from trainer.tabletop.clip import clip_pixels
from trainer.tabletop.precision import autocast

if TYPE_CHECKING:
    from trainer.tabletop.recipe import Recipe

log = logging.getLogger(__name__)

NUM_OBJECTS = 1500
BATCH = 4
DROPOUT = 0.1
MIRRORED_VIEWS = (0, 5, 4, 3, 2, 1)  # the view at yaw -a, by its place in VIEWS
_AS_IN_THE_BASE = re.compile(
    r"time_emb|conv_shortcut|\.ff\.|attn2\.to_[qk]|"  # a picture is one token: what is asked of it makes no difference
    r"^(down_blocks\.1|mid_block|up_blocks\.0)\..*(resnets|samplers)\..*conv|"
    r"^down_blocks\.0\.(resnets\.0\.conv1|downsamplers)|^up_blocks\.1\..*conv2"
)
COST = f"once renders {NUM_OBJECTS:,} objects of 13 pictures each into the cache and encodes them; then 48 rows a step"


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectSet:
    """`views` `[N, 12, 4, h, w]` scaled latents (normals, then colours); of two pictures each, `pictures`
    `[N, 2, 4, h, w]` and `tokens` `[N, 2, C]`. Mirror images stand in the second half."""

    views: torch.Tensor
    pictures: torch.Tensor
    tokens: torch.Tensor

    def draw(self, count: int, generator: torch.Generator, device: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Rows of latents in the network's order, and what the network is told of each."""
        picks = torch.randint(len(self.views), (count,), generator=generator)
        which = torch.randint(2, (count,), generator=generator)
        kept = (torch.rand(count, generator=generator) >= DROPOUT).float()
        latents = in_order(self.views[picks].float())
        pictures = self.pictures[picks, which].float() * kept[:, None, None, None]
        tokens = self.tokens[picks, which].float() * kept[:, None]
        rows = len(VIEWS)
        told = {
            "pictures": pictures.repeat_interleave(rows, 0).repeat(2, 1, 1, 1),
            "prompt_embeds": tokens.repeat_interleave(rows, 0).repeat(2, 1)[:, None],
            "labels": torch.from_numpy(labels()).reshape(2, 1, rows, -1).expand(2, count, rows, -1).flatten(0, 2),
        }
        return latents.to(device), {name: value.to(device) for name, value in told.items()}


def in_order(views: torch.Tensor) -> torch.Tensor:
    """`[B, 12, ...]` objects as `[2 * B * 6, ...]` rows: all normals, then all colours, an object's views together."""
    return views.unflatten(1, (2, len(VIEWS))).transpose(0, 1).flatten(0, 2)


class MultiviewTask:
    """Predict the noise of twelve rows at once; one timestep an object."""

    def __init__(self, unet: Any, objects: ObjectSet, schedule: NoiseSchedule, device: str, batch: int = BATCH) -> None:
        self.module: nn.Module = unet.to(device=device, memory_format=torch.channels_last).train()
        self.objects, self.schedule, self.device, self.batch = objects, schedule, device, batch
        self.network = network_of(unet, device)

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """One batch of the diffusion loss; timesteps are stratified over its objects."""
        latents, told = self.objects.draw(self.batch, generator, self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        last = self.schedule.num_train_timesteps - 1
        strata = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch
        of_object = 1 + (strata * (last + 1)).long().clamp(max=last)
        timesteps = of_object.repeat_interleave(len(VIEWS)).repeat(2)
        return diffusion_loss(self.network, self.schedule, latents, noise, timesteps, told)


def network_of(unet: Any, device: str):
    """The network as the trainer's plain callable: rows of latents, the picture's latents put beside them."""
    if not device.startswith("cuda"):
        unet.set_attn_processor(AttnProcessor())  # going backward on a CPU the fused kernel is half as fast

    def call(z: torch.Tensor, timesteps: torch.Tensor, told: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = torch.cat([z, told["pictures"]], dim=1).contiguous(memory_format=torch.channels_last)
        with autocast(device):
            return unet(rows, timesteps, told["prompt_embeds"], class_labels=told["labels"], return_dict=False)[
                0
            ].float()

    return call


def task_of(recipe: Recipe) -> MultiviewTask:
    """What the stage trains: the network grown from the base, or as it was left, and the world's objects."""
    unet = grown_from(recipe.teacher())
    if recipe.result("multiview").exists():
        recipe.read("multiview", unet)
    for name, parameter in unet.train().named_parameters():
        parameter.requires_grad_(is_trained(name))
    return MultiviewTask(unet, object_set(recipe), recipe.schedule(), recipe.device)


def is_trained(name: str) -> bool:
    """Whether a parameter of the network is its own, or stays as it is in the base."""
    return not _AS_IN_THE_BASE.search(name)


@torch.no_grad()
def held_out_loss(recipe: Recipe, count: int = 32) -> float:
    """The result's loss on objects of the test seeds, at fixed noise."""
    unet = recipe.read("multiview", grown_from(recipe.teacher()))
    for _ in objects.render_objects(recipe.work, data.TEST_SEEDS, objects.CHUNK, data.IMAGE_SIZE, recipe.workers):
        pass
    chunk = objects.load_chunk(recipe.work, data.TEST_SEEDS)[:count]
    task = MultiviewTask(unet, encoded(recipe, [chunk]), recipe.schedule(), recipe.device, batch=len(chunk))
    unet.eval()
    return float(task.loss(0, torch.Generator().manual_seed(5)))


def object_set(recipe: Recipe) -> ObjectSet:
    """The training objects as latents, encoded once."""
    path = recipe.result("multiview-latents")
    if not path.exists():
        for done in objects.render_objects(recipe.work, data.TRAIN_SEEDS, NUM_OBJECTS, data.IMAGE_SIZE, recipe.workers):
            log.info("multiview objects: %d of %d", done, NUM_OBJECTS)
        starts = range(data.TRAIN_SEEDS, data.TRAIN_SEEDS + NUM_OBJECTS, objects.CHUNK)
        made = encoded(recipe, (objects.load_chunk(recipe.work, start) for start in starts))
        _write(path, made)
    return ObjectSet(**load_file(path))


@torch.no_grad()
def encoded(recipe: Recipe, chunks: Any) -> ObjectSet:
    """Rendered objects `[n, 13, 3, S, S]` and their mirror images as latents and tokens."""
    vae = recipe.read("vae", models.new_vae()).to(memory_format=torch.channels_last)
    encoder = recipe.read("clip", recipe.new_clip()).image
    scale = recipe.facts()["vae"]["scaling_factor"]
    sets = []
    for chunk in chunks:
        for pictures in (chunk, mirrored(chunk)):
            flat = encode_all(vae, pictures.reshape(-1, *pictures.shape[2:]), recipe.device)
            latents = (flat[:, :4].float() * scale).half().unflatten(0, pictures.shape[:2])
            given = pictures[:, [6, 12]]  # the front view in colour, and the perspective picture
            with autocast(recipe.device):
                pixels = clip_pixels(given.reshape(-1, *given.shape[2:])).to(recipe.device)
                tokens = encoder(pixel_values=pixels).image_embeds
            tokens = tokens.half().cpu().unflatten(0, given.shape[:2])
            sets.append((latents[:, :12], latents[:, [6, 12]], tokens))
    views, pictures, tokens = (torch.cat(parts) for parts in zip(*sets, strict=True))
    return ObjectSet(views=views, pictures=pictures, tokens=tokens)


def mirrored(pictures: np.ndarray) -> np.ndarray:
    """Objects `[n, 13, 3, S, S]` seen in a mirror: pictures flip, views change places, normals turn their x."""
    flipped = pictures[..., ::-1].copy()
    order = [*MIRRORED_VIEWS, *(6 + place for place in MIRRORED_VIEWS), 12]
    flipped = flipped[:, order]
    normals = flipped[:, :6]
    white = (normals > 250).all(axis=2, keepdims=True)
    x = np.where(white[:, :, 0], 255, 255 - normals[:, :, 0])
    normals[:, :, 0] = x
    return flipped


def _write(path: Path, made: ObjectSet) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".staged")
    tensors = {"views": made.views, "pictures": made.pictures, "tokens": made.tokens}
    save_file({name: value.contiguous() for name, value in tensors.items()}, staged)
    staged.replace(path)
