"""Twelve rows through the multiview network: six normal maps, then six colour pictures, all of one object.

    picture -> one CLIP image token and its latents, the same for every row -> noise -> guided steps -> decode

With guidance a call has 24 rows, and normals stay the first half of it: normals without and with the picture, then
colours without and with. (Cross-domain attention pairs the halves of a batch, so any other order is silently wrong.)
Shapes: latents `12 4 h w` fp32; the network's rows `B 8 h w`. Direction of time: timestep 1000 is noise.
It does not know where networks come from, requests or events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from studio.engine.beginning import schedule_of
from studio.engine.multiview_files import Networks
from studio.engine.preview import PredictedImage, Preview, decode, weight_dtype
from studio.multiview.views import VIEWS, flat_normals, labels

NUM_ROWS = 2 * len(VIEWS)
# the statistics of CLIP's image processor
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

ShowLatents = Callable[[int, float, torch.Tensor], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What every row is told: tokens `12 1 C`, the picture's latents `12 4 h w`, labels `12 10`.

    `near` `12 4 h w` is what is known of the views before any is drawn, if drawing is to begin there: the picture's
    colours, and its outline with normals that face each camera.
    """

    tokens: torch.Tensor
    latents: torch.Tensor
    labels: torch.Tensor
    near: torch.Tensor | None = None


@torch.inference_mode()
def encode(networks: Networks, picture: Image.Image, *, begins_near: bool = False) -> Given:
    """What the network is told of a square picture on white; `begins_near` adds what its views are near to."""
    encoder, vae = networks.image_encoder, networks.vae
    place = next(networks.unet.parameters())
    seen = clip_pixels(picture, encoder.config.image_size).to(place.device, weight_dtype(encoder))
    token = encoder(pixel_values=seen).image_embeds[:, None]
    latents = _latents(vae, _tensor(picture))
    return Given(
        tokens=token.to(place.dtype).repeat(NUM_ROWS, 1, 1),
        latents=latents.repeat(NUM_ROWS, 1, 1, 1),
        labels=torch.from_numpy(labels()).to(place.device, place.dtype),
        near=_near(vae, picture) if begins_near else None,
    )


def _near(vae: Any, picture: Image.Image) -> torch.Tensor:
    pixels = _tensor(picture)
    colours = [pixels.flip(-1) if view.name == "back" else pixels for view in VIEWS]
    normals = torch.from_numpy(flat_normals(pixels[0].permute(1, 2, 0).numpy())).permute(0, 3, 1, 2)
    return torch.cat([_latents(vae, each) for each in (*normals.split(1), *colours)])


def _latents(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Scaled latents of `[1, 3, H, W]` in [0, 1]."""
    place = next(vae.parameters())
    posterior = vae.encode((pixels * 2 - 1).to(place.device, weight_dtype(vae))).latent_dist
    return posterior.mode().float() * vae.config.scaling_factor


def clip_pixels(picture: Image.Image, size: int) -> torch.Tensor:
    """`[1, 3, size, size]`, resized and normalised as CLIP's processor does it."""
    small = picture.resize((size, size), Image.Resampling.BICUBIC)
    return (_tensor(small) - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


@torch.inference_mode()
def draw_latents(
    networks: Networks, sampler: Any, given: Given, guidance: tuple[float, ...], seed: int, show: ShowLatents
) -> torch.Tensor:
    """Clean latents after `len(guidance)` steps; `show(step, seconds, predicted)` after each may raise to stop."""
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = torch.randn(given.latents.shape, generator=generator).to(given.latents.device)
    if given.near is not None:
        # The noisiest step of training still shows 7 % of the views; noise alone says that their mean is grey.
        schedule = schedule_of(sampler)
        latents = schedule.add_noise(given.near, latents, schedule.num_train_timesteps)
    sampler.set_timesteps(len(guidance), device=latents.device)
    latents = latents * sampler.init_noise_sigma
    predicted = PredictedImage(sampler)
    for step, (timestep, scale) in enumerate(zip(sampler.timesteps, guidance, strict=True), start=1):
        started = time.perf_counter()
        noise = predict(networks.unet, sampler.scale_model_input(latents, timestep), timestep, given, scale)
        latents = sampler.step(noise, timestep, latents, return_dict=False)[0]
        clean = latents if step == len(guidance) or predicted.latents is None else predicted.latents
        show(step, time.perf_counter() - started, clean)
    return latents


def predict(unet: Any, latents: torch.Tensor, timestep: torch.Tensor, given: Given, scale: float) -> torch.Tensor:
    """The network's output for 12 rows under a guidance scale; 1 or less is off and costs one call of 12 rows."""
    if scale <= 1:
        return _ask(unet, latents, timestep, given.latents, given.tokens, given.labels)
    rows = _doubled(latents, latents)
    pictures = _doubled(torch.zeros_like(given.latents), given.latents)
    tokens = _doubled(torch.zeros_like(given.tokens), given.tokens)
    output = _ask(unet, rows, timestep, pictures, tokens, _doubled(given.labels, given.labels))
    normals_free, normals, colours_free, colours = output.chunk(4)
    free, told = torch.cat([normals_free, colours_free]), torch.cat([normals, colours])
    return free + scale * (told - free)


def _doubled(free: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Normals without and with the picture, then colours without and with."""
    (normals_free, colours_free), (normals, colours) = free.chunk(2), told.chunk(2)
    return torch.cat([normals_free, normals, colours_free, colours])


def _ask(
    unet: Any, latents: torch.Tensor, timestep: torch.Tensor, pictures: torch.Tensor, tokens: torch.Tensor,
    label: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    rows = torch.cat([latents, pictures], dim=1).to(weight_dtype(unet))
    return unet(rows, timestep, encoder_hidden_states=tokens, class_labels=label, return_dict=False)[0].float()


@torch.inference_mode()
def decode_sheet(vae: Any, latents: torch.Tensor) -> Image.Image:
    """Twelve latents as one picture, normals above colours; decoded one by one, so that memory stays small."""
    return sheet_of([decode(vae, row[None]) for row in latents])


@torch.inference_mode()
def preview_sheet(preview: Preview, latents: torch.Tensor) -> Image.Image:
    """The same by a cheap preview."""
    return sheet_of([preview(row[None]) for row in latents])


def sheet_of(pictures: list[Image.Image]) -> Image.Image:
    """6 x 2 pictures of one size as one."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (len(VIEWS) * width, 2 * height))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % len(VIEWS) * width, place // len(VIEWS) * height))
    return sheet


def _tensor(picture: Image.Image) -> torch.Tensor:
    """`[1, 3, H, W]` in [0, 1]."""
    levels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(levels).permute(2, 0, 1)[None]
