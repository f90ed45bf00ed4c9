"""Where a drawing begins, and what it must keep: noise alone, a noised picture, or a picture of which a part stays.

Image-to-image and inpainting are no pipelines of their own here: the noised latents go into the same loop, whose grid
begins later (`samplers.Later`); where a mask is black, each step's latents are put back onto the picture's own path
(Lugmayr et al., arXiv 2201.09865), and at the end its own pixels are, softly at the border.
Shapes: 1 C h w latents (scaled), fp32; masks 1 1 h w, 1 where something is to be drawn. Time: timestep 1000 is noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image, ImageFilter
from torch.nn import functional

from studio.conditions import InitialImage
from studio.engine.fitting import fit
from studio.engine.preview import weight_dtype
from studio.perflow.schedule import NoiseSchedule

SOFT_BORDER_PIXELS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginning:
    """An initial picture made ready: its latents, its mask (if any), and how many steps of the grid it stands for."""

    latents: torch.Tensor
    first_step: int
    picture: Image.Image
    mask: torch.Tensor | None = None
    pixel_mask: Image.Image | None = None

    def noised(self, sampler: Any, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """The picture's latents with the noise of a timestep; 0 is clean. From the whole grid on it is noise alone."""
        if timestep == 0:
            return self.latents
        return schedule_of(sampler).add_noise(self.latents, noise, timestep)

    def hold(self, latents: torch.Tensor, sampler: Any, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """Latents at a timestep with what the mask leaves alone put back onto the picture's own path."""
        if self.mask is None:
            return latents
        kept = self.noised(sampler, noise, timestep) * own_scale(sampler, timestep)
        return torch.lerp(kept.to(latents), latents, self.mask.to(latents))

    def finish(self, image: Image.Image) -> Image.Image:
        """The drawn picture with the pixels that the mask leaves alone as they were."""
        if self.pixel_mask is None:
            return image
        return Image.composite(image, self.picture, self.pixel_mask)


def begin(vae: Any, initial: InitialImage, image: Image.Image, mask: Image.Image | None, *, size: tuple[int, int],
          first_step: int, device: torch.device) -> Beginning:  # fmt: skip
    """Fit the picture and its mask to the canvas and encode it; the same latents for every seed."""
    picture = fit(image, size, initial.resize)
    latents = encode(vae, picture, device)
    if mask is None:
        return Beginning(latents=latents, first_step=first_step, picture=picture)
    fitted = fit(mask.convert("L"), size, initial.resize)
    # A latent is drawn anew as soon as any pixel under it is white.
    small = functional.adaptive_max_pool2d(to_mask(fitted), latents.shape[-2:]).to(device)
    soft = fitted.filter(ImageFilter.MaxFilter(2 * SOFT_BORDER_PIXELS + 1))
    soft = soft.filter(ImageFilter.GaussianBlur(SOFT_BORDER_PIXELS / 2))
    return Beginning(latents=latents, first_step=first_step, picture=picture, mask=small, pixel_mask=soft)


def encode(vae: Any, picture: Image.Image, device: torch.device) -> torch.Tensor:
    """The latents of a picture (1 C h w, scaled, fp32), the same every time."""
    pixels = to_pixels(picture).to(device=device, dtype=weight_dtype(vae))
    return vae.encode(pixels).latent_dist.mode().float() * vae.config.scaling_factor


def schedule_of(sampler: Any) -> NoiseSchedule:
    """A sampler's noise schedule by timestep, whatever its class: t has the noise of diffusion index t - 1."""
    own = getattr(sampler, "schedule", None)
    return own if isinstance(own, NoiseSchedule) else NoiseSchedule.of_diffusion(sampler.alphas_cumprod)


def own_scale(sampler: Any, timestep: int) -> float:
    """A sampler's own latents as a multiple of alpha * z_0 + sigma * eps: Euler keeps z_0 + (sigma / alpha) * eps."""
    if timestep == 0 or not isinstance(sampler, EulerDiscreteScheduler):
        return 1.0
    return 1 / float(schedule_of(sampler).alphas[timestep])


def to_pixels(image: Image.Image) -> torch.Tensor:
    """1 3 H W in [-1, 1]."""
    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return levels.float() / 127.5 - 1


def to_mask(image: Image.Image) -> torch.Tensor:
    """1 1 H W: 1 where the mask is white."""
    return (torch.from_numpy(np.array(image.convert("L"))) >= 128).float()[None, None]
