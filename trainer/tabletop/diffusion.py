"""The teacher's stage: latents and captions of the world as training data, and the diffusion loss on them.

Latents are VAE posteriors of every scene and of its mirror image, captions are embedded once in several wordings.
`condition` is a `[B, 64, 192]` embedding; the caption is dropped by putting the empty prompt's in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from studio.perflow.schedule import NoiseSchedule
from trainer import networks
from trainer.objectives import diffusion_loss
from trainer.teacher import Network


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSet:
    """`posteriors` `[N, 8, 16, 16]` (mean, log-variance), `prompts` `[N, V, 64, 192]` wordings, `empty` `[64, 192]`."""

    posteriors: torch.Tensor
    prompts: torch.Tensor
    empty: torch.Tensor
    scaling_factor: float

    def draw(
        self, count: int, dropout: float, generator: torch.Generator, device: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random scaled latents, one wording each with a share `dropout` of the captions empty, and the same whole."""
        picks = torch.randint(len(self.posteriors), (count,), generator=generator)
        wording = torch.randint(self.prompts.shape[1], (count,), generator=generator)
        mean, log_variance = self.posteriors[picks].float().chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator)
        latents = (mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp()) * self.scaling_factor
        whole = self.prompts[picks, wording].float()
        dropped = torch.rand(count, generator=generator) < dropout
        prompts = torch.where(dropped[:, None, None], self.empty.float(), whole)
        return latents.to(device), prompts.to(device), whole.to(device)


def network_of(unet: Any, device: str) -> Network:
    """The UNet as the trainer's plain callable; here a condition is the prompt's embedding itself."""
    call = networks.network_of(unet, device)
    return lambda z, timesteps, prompts: call(z, timesteps, {"prompt_embeds": prompts})


class TeacherTask:
    """Predict the noise: stratified timesteps, 10 % of captions dropped, min-SNR weights."""

    def __init__(self, unet: Any, data: LatentSet, schedule: NoiseSchedule, device: str, batch: int = 32) -> None:
        self.module: nn.Module = unet.to(device=device, memory_format=torch.channels_last).train()
        self.network = network_of(unet, device)
        self.data, self.schedule, self.device, self.batch = data, schedule, device, batch

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """One batch of the ordinary diffusion loss."""
        latents, prompts, _ = self.data.draw(self.batch, 0.1, generator, self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        strata = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch
        timesteps = 1 + (strata * self.schedule.num_train_timesteps).long().clamp(
            max=self.schedule.num_train_timesteps - 1
        )
        return diffusion_loss(self.network, self.schedule, latents, noise, timesteps, prompts)
