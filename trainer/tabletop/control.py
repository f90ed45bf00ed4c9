"""The control stages: ControlNets for canny, depth, pose and tile, and an IP-Adapter, beside the unaccelerated base.

The base stays as it ships and is never trained here, nor is it accelerated: that delta weights then work under these
is a real transfer. The world knows its own depth and joints (`trainer.controls`); edges and tiles come from pixels.
The ControlNet is a slim one, 2.0 M parameters, that diffusers' `ControlNetModel` loads: the UNet's encoder without its
attention, so it follows the map and leaves the words to the UNet. Its weights begin as the UNet's where the layers are
the same. The IP-Adapter is the published one (arXiv 2308.06721), its reference the picture itself or its mirror image.
Shapes: maps B 3 128 128 in [0, 1], latents B 4 16 16 (scaled), image embeddings B 1 192.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from studio.perflow.schedule import NoiseSchedule
from trainer.controls import control_of_pixels, control_of_scene
from trainer.loop import Schedule
from trainer.networks import controlled_network_of
from trainer.objectives import diffusion_loss
from trainer.tabletop import data, models
from trainer.tabletop.clip import clip_pixels
from trainer.tabletop.diffusion import LatentSet
from trainer.tabletop.precision import autocast
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

if TYPE_CHECKING:
    from trainer.tabletop.recipe import Recipe

log = logging.getLogger(__name__)

CONTROLS = ("canny", "depth", "pose", "tile")
OF_RENDERS = ("depth", "pose")
NUM_RENDERED = 4000
CAPTION_DROPOUT = 0.3
IMAGE_DROPOUT = 0.1
NUM_IMAGE_TOKENS = 4
IP_ADAPTER = "ip-adapter"
FOLLOWING = ("maps", *CONTROLS, IP_ADAPTER)
"""The stages of this module, in order."""


# --- maps -----------------------------------------------------------------------------------------------------------


def render_maps(recipe: Recipe) -> None:
    """Depth and pose maps of the first training scenes, cached beside their pictures."""
    count = min(recipe.num_scenes, NUM_RENDERED)
    starts = range(data.TRAIN_SEEDS, data.TRAIN_SEEDS + count, data.CHUNK)
    missing = [start for start in starts if not all(_path(recipe.work, each, start).exists() for each in OF_RENDERS)]
    began = time.monotonic()
    if recipe.workers == 1:
        done = map(_render_chunk, [recipe.work] * len(missing), missing, [data.CHUNK] * len(missing))
        _report(done, len(missing), began)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(recipe.workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = [pool.submit(_render_chunk, recipe.work, start, data.CHUNK) for start in missing]
        _report(as_completed(jobs), len(missing), began)


def _report(done: Any, count: int, began: float) -> None:
    for number, _ in enumerate(done):
        log.info("maps: %d of %d chunks, %.0f s", number + 1, count, time.monotonic() - began)


def _render_chunk(cache: Path, start: int, count: int) -> None:
    """One chunk's depth `[N, 1, H, W]` (its three channels are equal) and pose `[N, 3, H, W]`, uint8."""
    found: dict[str, list[np.ndarray]] = {control: [] for control in OF_RENDERS}
    for seed in range(start, start + count):
        seen = render(random_scene(seed), data.IMAGE_SIZE)
        pixels = (seen.rgb * 255).round().to(torch.uint8)
        for control in OF_RENDERS:
            made = control_of_scene(control, seen, pixels).numpy()
            found[control].append(made[:1] if control == "depth" else made)
    for control, maps in found.items():
        path = _path(cache, control, start)
        staged = path.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(staged, np.stack(maps))
        staged.replace(path)


def _path(cache: Path, control: str, start: int) -> Path:
    return cache / f"{control}-v{data.WORLD_VERSION}-{data.IMAGE_SIZE}-{start:09d}.npy"


@dataclass(kw_only=True, eq=False)
class Maps:
    """The maps of a control by row of the latents: `images` of the scenes, then their mirror images.

    Poses are not mirrored (a bone's colour says left or right), and scenes without a figure have none.
    """

    control: str
    images: np.ndarray
    rendered: np.ndarray | None = None
    rows: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        scenes = torch.arange(len(self.images) if self.rendered is None else len(self.rendered))
        if self.control == "pose" and self.rendered is not None:
            self.rows = scenes[torch.from_numpy(self.rendered.reshape(len(scenes), -1).any(1))]
        else:
            self.rows = torch.cat([scenes, scenes + len(self.images)])
        if not len(self.rows):
            raise SystemExit(f"{self.control}: no scene has such a map; render more with --num-scenes.")

    @classmethod
    def of(cls, recipe: Recipe, control: str) -> Maps:
        """Those of the training scenes. Raises SystemExit where they were not rendered."""
        images = recipe.train_images()
        if control not in OF_RENDERS:
            return cls(control=control, images=images)
        count = min(recipe.num_scenes, NUM_RENDERED)
        paths = [_path(recipe.work, control, start) for start in range(data.TRAIN_SEEDS, count, data.CHUNK)]
        if not all(path.exists() for path in paths):
            raise SystemExit("maps are not there yet: run `python -m trainer.tabletop maps` first.")
        return cls(control=control, images=images, rendered=np.concatenate([np.load(path) for path in paths])[:count])

    def batch(self, rows: list[int]) -> torch.Tensor:
        """`[B, 3, H, W]` in [0, 1]."""
        return torch.stack([self._of_row(row) for row in rows]).float() / 255

    def _of_row(self, row: int) -> torch.Tensor:
        scene, is_mirrored = row % len(self.images), row >= len(self.images)
        if self.rendered is not None:
            made = torch.from_numpy(self.rendered[scene]).expand(3, -1, -1)
        else:
            made = control_of_pixels(self.control, torch.from_numpy(self.images[scene]))
        return made.flip(-1) if is_mirrored else made


# --- ControlNets ----------------------------------------------------------------------------------------------------


def new_controlnet(unet: Any | None = None) -> ControlNetModel:
    """The slim ControlNet; with a UNet its layers begin as that one's, and it changes nothing before it is trained."""
    config = models.new_unet().config if unet is None else unet.config
    control: Any = ControlNetModel(
        in_channels=4,
        conditioning_channels=3,
        block_out_channels=config["block_out_channels"],
        layers_per_block=config["layers_per_block"],
        cross_attention_dim=config["cross_attention_dim"],
        attention_head_dim=config["attention_head_dim"],
        norm_num_groups=config["norm_num_groups"],
        down_block_types=("DownBlock2D",) * len(config["block_out_channels"]),
        mid_block_type="UNetMidBlock2D",
        conditioning_embedding_out_channels=(8, 16, 32, 64),
    )
    for layer in [control.controlnet_cond_embedding.conv_in, *control.controlnet_cond_embedding.blocks]:
        nn.init.kaiming_normal_(layer.weight)  # torch's default shrinks the map's part to nothing over seven layers
        nn.init.zeros_(layer.bias)
    if unet is not None:
        own = control.state_dict()
        same = {name: value for name, value in unet.state_dict().items() if name in own}
        control.load_state_dict({name: value for name, value in same.items() if value.shape == own[name].shape}, False)
    return control


@dataclass(kw_only=True, eq=False)
class ControlTask:
    """The base's own loss with the ControlNet beside it (`trainer.networks.controlled_network_of`)."""

    control: Any
    unet: Any
    latents: LatentSet
    maps: Maps
    schedule: NoiseSchedule
    device: str
    batch: int = 32

    def __post_init__(self) -> None:
        self.control.to(device=self.device, memory_format=torch.channels_last)
        self.module: nn.Module = self.control.train().requires_grad_(True)
        self.unet.to(device=self.device, memory_format=torch.channels_last).requires_grad_(False).eval()
        self._network = controlled_network_of(self.unet, self.control, self.device)

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """One batch; captions are dropped often, so that the map alone has to tell."""
        rows = self.maps.rows[torch.randint(len(self.maps.rows), (self.batch,), generator=generator)]
        latents, prompts = _samples(self.latents, rows, CAPTION_DROPOUT, generator, self.device)
        condition = {"prompt_embeds": prompts, "control": self.maps.batch(rows.tolist()).to(self.device)}
        return _diffusion(self._network, self.schedule, latents, condition, generator)


def control_work(recipe: Recipe, control: str, minutes: float) -> tuple[ControlTask, Schedule, nn.Module]:
    """What one of the four stages trains, beside the base as it ships."""
    unet = recipe.teacher()
    network = _begun(recipe, control, new_controlnet(unet))
    task = ControlTask(
        control=network, unet=unet, latents=recipe.latents(), maps=Maps.of(recipe, control),
        schedule=recipe.schedule(), device=recipe.device,
    )  # fmt: skip
    return task, _schedule(recipe, minutes), network


# --- the IP-Adapter -------------------------------------------------------------------------------------------------


class IPAdapter(nn.Module):
    """What is trained of an IP-Adapter: its projection, and a key and a value per cross-attention of the UNet.

    They live in the UNet's processors; taken together here, they are named as the published file names them.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        unet.set_attn_processor(AttnProcessor())
        unet._load_ip_adapter_weights(_untrained(unet), low_cpu_mem_usage=False)
        self.projection = unet.encoder_hid_proj.image_projection_layers[0]
        adapted = [each for each in unet.attn_processors.values() if hasattr(each, "to_k_ip")]
        self.layers = nn.ModuleList(adapted)
        self.requires_grad_(True)

    def file(self) -> dict[str, torch.Tensor]:
        """The tensors of an IP-Adapter file, in fp16."""
        found = {
            "image_proj.proj.weight": self.projection.image_embeds.weight,
            "image_proj.proj.bias": self.projection.image_embeds.bias,
            "image_proj.norm.weight": self.projection.norm.weight,
            "image_proj.norm.bias": self.projection.norm.bias,
        }
        layers: Any = self.layers
        for place, layer in enumerate(layers):
            found[f"ip_adapter.{2 * place + 1}.to_k_ip.weight"] = layer.to_k_ip[0].weight
            found[f"ip_adapter.{2 * place + 1}.to_v_ip.weight"] = layer.to_v_ip[0].weight
        return {name: value.detach().half().cpu().contiguous() for name, value in found.items()}

    def load_file(self, tensors: dict[str, torch.Tensor]) -> None:
        """The inverse of `file`."""
        parts = {"proj": self.projection.image_embeds, "norm": self.projection.norm}
        with torch.no_grad():
            for name, value in tensors.items():
                half, place, *rest = name.split(".")
                if half == "image_proj":
                    getattr(parts[place], rest[0]).copy_(value)
                else:
                    getattr(self.layers[int(place) // 2], rest[0])[0].weight.copy_(value)


def _untrained(unet: Any) -> dict[str, dict[str, torch.Tensor]]:
    """A file to begin with: keys and values are those of the text, the projection is random and small."""
    width = unet.config["cross_attention_dim"]
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(NUM_IMAGE_TOKENS * width, models.TEXT_WIDTH, generator=generator) / width**0.5
    layers = {}
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for place, name in enumerate(cross):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        layers[f"{2 * place + 1}.to_k_ip.weight"] = layer.to_k.weight.detach().clone()
        layers[f"{2 * place + 1}.to_v_ip.weight"] = layer.to_v.weight.detach().clone()
    image = {
        "proj.weight": projection,
        "proj.bias": torch.zeros(len(projection)),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": image, "ip_adapter": layers}


@dataclass(kw_only=True, eq=False)
class IPAdapterTask:
    """The base's own loss with an image embedding beside the caption; `embeds` `[2N, D]`, mirror images behind."""

    adapter: IPAdapter
    unet: Any
    latents: LatentSet
    embeds: torch.Tensor
    schedule: NoiseSchedule
    device: str
    batch: int = 32

    def __post_init__(self) -> None:
        trained = {id(each) for each in self.adapter.requires_grad_(True).parameters()}
        self.unet.to(device=self.device, memory_format=torch.channels_last).train()
        for parameter in self.unet.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.module: nn.Module = self.adapter

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """One batch; half of the references are mirrored, so that what is there counts, not where."""
        total = len(self.embeds)
        rows = torch.randint(total, (self.batch,), generator=generator)
        latents, prompts = _samples(self.latents, rows, CAPTION_DROPOUT, generator, self.device)
        turned = torch.rand(self.batch, generator=generator) < 0.5
        embeds = self.embeds[torch.where(turned, (rows + total // 2) % total, rows)].float()
        embeds[torch.rand(self.batch, generator=generator) < IMAGE_DROPOUT] = 0
        condition = {"prompt_embeds": prompts, "image_embeds": embeds[:, None].to(self.device)}
        return _diffusion(self._network, self.schedule, latents, condition, generator)

    def _network(self, z: torch.Tensor, timesteps: torch.Tensor, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        with autocast(self.device):
            return self.unet(
                z.contiguous(memory_format=torch.channels_last), timesteps, condition["prompt_embeds"],
                added_cond_kwargs={"image_embeds": [condition["image_embeds"]]}, return_dict=False,
            )[0].float()  # fmt: skip


def ip_adapter_work(recipe: Recipe, minutes: float) -> tuple[IPAdapterTask, Schedule, nn.Module]:
    """What the stage `ip-adapter` trains: CLIP's image embedding as four more tokens for the cross-attention."""
    unet = recipe.teacher()
    adapter = _begun(recipe, IP_ADAPTER, IPAdapter(unet))
    task = IPAdapterTask(
        adapter=adapter, unet=unet, latents=recipe.latents(), embeds=image_embeds(recipe, recipe.train_images()),
        schedule=recipe.schedule(), device=recipe.device,
    )  # fmt: skip
    return task, _schedule(recipe, minutes), adapter


@torch.no_grad()
def image_embeds(recipe: Recipe, images: np.ndarray, batch: int = 100) -> torch.Tensor:
    """CLIP's embeddings `[2N, D]` fp16 of pictures and, behind them, of their mirror images."""
    encoder = recipe.read("clip", recipe.new_clip()).image
    found = []
    for some in (images, images[..., ::-1]):
        for start in range(0, len(some), batch):
            pixels = clip_pixels(some[start : start + batch].copy()).to(recipe.device)
            found.append(encoder(pixel_values=pixels).image_embeds.half().cpu())
    return torch.cat(found)


# --- both -----------------------------------------------------------------------------------------------------------


def _begun(recipe: Recipe, stage: str, module: Any) -> Any:
    """The module with what an earlier run or `take-up` left of this stage, if anything."""
    return recipe.read(stage, module) if recipe.result(stage).exists() else module.to(recipe.device)


def _schedule(recipe: Recipe, minutes: float) -> Schedule:
    return Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=100, seed=recipe.seed)


def _samples(
    latents: LatentSet, rows: torch.Tensor, dropout: float, generator: torch.Generator, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents of these rows and one wording each; a share of the captions is empty."""
    mean, log_variance = latents.posteriors[rows].float().chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator)
    clean = (mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp()) * latents.scaling_factor
    wording = torch.randint(latents.prompts.shape[1], (len(rows),), generator=generator)
    prompts = latents.prompts[rows, wording].float()
    prompts[torch.rand(len(rows), generator=generator) < dropout] = latents.empty.float()
    return clean.to(device), prompts.to(device)


def _diffusion(
    network: Any, schedule: NoiseSchedule, latents: torch.Tensor, condition: Any, generator: torch.Generator
) -> torch.Tensor:
    """The diffusion loss at stratified timesteps."""
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    count, total = len(latents), schedule.num_train_timesteps
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timesteps = 1 + (strata * total).long().clamp(max=total - 1)
    return diffusion_loss(network, schedule, latents, noise, timesteps, condition)
