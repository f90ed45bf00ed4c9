"""The VAE stage: 128 x 128 pictures to 4 x 16 x 16 latents and back.

The loss is L1 on pixels and on two levels of a Laplacian pyramid (so that edges and textures count) with a whisper of
KL. Crops of 64 pixels for most of the budget: the network has no attention, so it does not care. Latents are scaled to
unit variance by `scaling_factor`, measured when the stage ends. Once latents are cached the encoder is frozen; the
decoder may go on learning beside everything else. A `vae` is a diffusers `AutoencoderKL` (Any: its stubs say tuples).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trainer.tabletop.precision import autocast

KL_WEIGHT = 1e-6
CROP = 64


class AutoencoderTask:
    """Reconstruct random crops of the world's pictures (`images`: `[N, 3, H, W]` uint8)."""

    def __init__(self, vae: Any, images: np.ndarray, device: str, batch: int = 16, decoder_only: bool = False) -> None:
        self.decoder_only = decoder_only
        if decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        self.vae = vae.to(device=device, memory_format=torch.channels_last)
        self.module: nn.Module = self.vae
        self.images, self.device, self.batch = images, device, batch

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """L1 over a pyramid, plus KL."""
        pixels = self._crops(generator).to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            with torch.set_grad_enabled(not self.decoder_only):
                posterior = self.vae.encode(pixels).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
            latents = posterior.mean + posterior.std * noise
            restored = self.vae.decode(latents).sample
        return pyramid_l1(restored.float(), pixels) + KL_WEIGHT * posterior.kl().mean()

    def _crops(self, generator: torch.Generator) -> torch.Tensor:
        side = self.images.shape[-1] - CROP + 1
        picks = torch.randint(len(self.images), (self.batch,), generator=generator).tolist()
        corners = (torch.randint(side, (self.batch, 2), generator=generator) // 8 * 8).tolist()
        crops = [self.images[i, :, y : y + CROP, x : x + CROP] for i, (y, x) in zip(picks, corners, strict=True)]
        return to_pixels(np.stack(crops))


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 to float in [-1, 1]."""
    return torch.from_numpy(images).float() / 127.5 - 1


def pyramid_l1(a: torch.Tensor, b: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """L1 between two pictures and between their edges at three scales."""
    error = a - b
    loss = error.abs().mean()
    for _ in range(levels - 1):
        smaller = F.avg_pool2d(error, 2)
        loss = loss + (error - F.interpolate(smaller, scale_factor=2, mode="nearest")).abs().mean()
        error = smaller
    return loss + error.abs().mean()


@torch.no_grad()
def standardise(vae: Any, parameters: torch.Tensor) -> None:
    """Give every latent channel mean 0 and variance 1 (over posteriors `[N, 8, h, w]`), changing no picture.

    The encoder's last 1 x 1 convolution shifts and scales, the decoder's first undoes it. Sampling starts from noise of
    mean 0, but the noise schedule ends with some signal left: a channel with a mean would start off it.
    """
    count = parameters.shape[1] // 2
    means = parameters[:, :count].float().transpose(0, 1).flatten(1)
    shift, scale = means.mean(1).to(vae.device), means.std(1).to(vae.device)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:count] /= scale[:, None, None, None]
    into.bias[:count] = (into.bias[:count] - shift) / scale
    into.bias[count:] -= 2 * scale.log()
    out.bias += out.weight[:, :, 0, 0] @ shift
    out.weight *= scale[None, :, None, None]


@torch.no_grad()
def encode_all(vae: Any, images: np.ndarray, device: str, batch: int = 32) -> torch.Tensor:
    """Posterior means and log-variances `[N, 8, 16, 16]` in fp16, unscaled."""
    found = []
    for start in range(0, len(images), batch):
        pixels = to_pixels(images[start : start + batch]).to(device, memory_format=torch.channels_last)
        with autocast(device):
            found.append(vae.encode(pixels).latent_dist.parameters.half().cpu().contiguous())
    return torch.cat(found)


@torch.no_grad()
def psnr(vae: Any, images: np.ndarray, device: str) -> float:
    """Mean PSNR in dB of reconstructions, pixels in [0, 1]."""
    values = []
    for start in range(0, len(images), 32):
        pixels = to_pixels(images[start : start + 32]).to(device, memory_format=torch.channels_last)
        restored = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * torch.log10(((restored - pixels) / 2).square().mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())
