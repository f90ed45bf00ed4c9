"""What the picture will be, seen from the middle of the way: previews of the predicted clean latents.

Every solver used here predicts the clean latents at each step (`pred_original_sample`); that prediction is shown.
Small built-in models decode it with their own VAE (14 ms for Tabletop's, on one core in bf16; half the latents' size
was tried and melts the objects). For the large ones a decode would cost more than a step, so a linear map from the 4
latent channels to RGB is used: fitted once per VAE by least squares on made-up colour fields, which needs no constants
of anybody's and holds for any fine-tuned VAE.
Shapes: B 4 h w latents (unscaled by the VAE's factor), pixels in [-1, 1]. Knows no prompts and no windows.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

NUM_FITTED_FIELDS = 24
FITTED_SIDE_PIXELS = 64
PREVIEW_PIXELS_PER_LATENT = 4


class Preview(Protocol):
    """A cheap way from latents (1 C h w) to a picture."""

    def __call__(self, latents: torch.Tensor) -> Image.Image: ...


class PredictedImage:
    """Remembers the clean latents that a scheduler predicts, although the pipelines ask it only for the next sample."""

    def __init__(self, scheduler: Any) -> None:
        self.latents: torch.Tensor | None = None
        step = scheduler.step

        @functools.wraps(step)  # the pipelines read the signature to see which options step() takes
        def watched(*args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            output = step(*args, **kwargs)
            self.latents = _clean_latents(scheduler, output)
            return output if return_dict else (output.prev_sample,)

        scheduler.step = watched


def _clean_latents(scheduler: Any, output: Any) -> torch.Tensor:
    for name in ("pred_original_sample", "denoised"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    return scheduler.model_outputs[-1]  # DPM-Solver++ keeps its data predictions here


def decode(vae: Any, latents: torch.Tensor) -> Image.Image:
    """The picture of one latent (1 C h w), by the VAE itself."""
    scaled = (latents / vae.config.scaling_factor).to(weight_dtype(vae))
    return to_image(vae.decode(scaled, return_dict=False)[0][0])


def weight_dtype(module: nn.Module) -> torch.dtype:
    """The precision of a network (diffusers' own `dtype` walks the whole tree each time it is asked)."""
    return next(module.parameters()).dtype


def to_image(pixels: torch.Tensor) -> Image.Image:
    """3 H W pixels in [-1, 1] as a picture; values outside are clipped."""
    levels = (pixels.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())


class LinearPreview:
    """RGB as a linear map of the latent channels, fitted to one VAE."""

    def __init__(self, vae: Any, device: torch.device) -> None:
        self.weights = fit_latents_to_rgb(vae, device)

    def __call__(self, latents: torch.Tensor) -> Image.Image:
        channels = latents[0].float().flatten(1).T.cpu()
        pixels = (_with_ones(channels) @ self.weights).T.reshape(3, *latents.shape[-2:])
        small = to_image(pixels)
        size = (small.width * PREVIEW_PIXELS_PER_LATENT, small.height * PREVIEW_PIXELS_PER_LATENT)
        return small.resize(size, Image.Resampling.BICUBIC)


def fit_latents_to_rgb(vae: Any, device: torch.device) -> torch.Tensor:
    """Least squares from latents (with a constant) to the mean colour below each: (C + 1) x 3, fp32 on the CPU."""
    fields = _colour_fields(torch.Generator().manual_seed(0))
    latents = vae.encode(fields.to(device=device, dtype=weight_dtype(vae))).latent_dist.mode().float().cpu()
    latents = latents * vae.config.scaling_factor
    colours = functional.adaptive_avg_pool2d(fields, latents.shape[-2:])
    samples = latents.transpose(0, 1).flatten(1).T
    targets = colours.transpose(0, 1).flatten(1).T
    return torch.linalg.lstsq(_with_ones(samples), targets).solution


def _colour_fields(generator: torch.Generator) -> torch.Tensor:
    """Smooth colours under fine grey detail: of the simple pictures tried, what the fit carries over from best."""
    size = (FITTED_SIDE_PIXELS, FITTED_SIDE_PIXELS)
    corners = torch.rand(NUM_FITTED_FIELDS, 3, 3, 3, generator=generator) * 2 - 1
    grey = torch.rand(NUM_FITTED_FIELDS, 1, size[0] // 2, size[1] // 2, generator=generator) - 0.5
    smooth, detail = (
        functional.interpolate(each, size=size, mode="bilinear", align_corners=True) for each in (corners, grey)
    )
    return (smooth + detail).clamp(-1, 1)


def _with_ones(samples: torch.Tensor) -> torch.Tensor:
    return torch.cat([samples, torch.ones(len(samples), 1)], dim=1)
