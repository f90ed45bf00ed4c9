"""The teacher and PeRFlow stages: latents and captions of the world as training data for the diffusion objectives.

Latents are VAE posteriors of every scene and of its mirror image, captions are embedded once in several wordings.
`condition` is a `[B, 64, 192]` embedding; the caption is dropped by putting the empty prompt's in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from studio.perflow.schedule import NoiseSchedule
from trainer import networks
from trainer.objectives import PeRFlow, Solved, diffusion_loss
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
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random scaled latents with one wording each; a share `dropout` of the captions is empty."""
        picks = torch.randint(len(self.posteriors), (count,), generator=generator)
        wording = torch.randint(self.prompts.shape[1], (count,), generator=generator)
        mean, log_variance = self.posteriors[picks].float().chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator)
        latents = (mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp()) * self.scaling_factor
        prompts = self.prompts[picks, wording].float()
        dropped = torch.rand(count, generator=generator) < dropout
        prompts[dropped] = self.empty.float()
        return latents.to(device), prompts.to(device)


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
        latents, prompts = self.data.draw(self.batch, 0.1, generator, self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        strata = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch
        timesteps = 1 + (strata * self.schedule.num_train_timesteps).long().clamp(
            max=self.schedule.num_train_timesteps - 1
        )
        return diffusion_loss(self.network, self.schedule, latents, noise, timesteps, prompts)


@dataclass(kw_only=True, eq=False)
class PeRFlowTask:
    """Distil a frozen teacher into a student; each solved window is used `reuse` times at fresh points of its line.

    Windows are stratified: every batch holds each equally often. `dropout` is above the usual 10 % because at sampling
    the unconditional branch weighs (w - 1) against the conditional's w, and learns only from dropped captions.
    """

    student: Any
    teacher: Any
    data: LatentSet
    objective: PeRFlow
    device: str
    batch: int = 32
    reuse: int = 2
    dropout: float = 0.25
    _pool: Solved | None = field(default=None, init=False)
    _solved_at: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        self.module: nn.Module = self.student.to(device=self.device, memory_format=torch.channels_last).train()
        self._student = network_of(self.student, self.device)
        self.teacher.to(device=self.device, memory_format=torch.channels_last).eval()
        self._teacher = network_of(self.teacher, self.device)

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """The PeRFlow loss on this step's windows, solving new ones every `reuse` steps."""
        if self._pool is None or step // self.reuse != self._solved_at:
            fresh = torch.Generator().manual_seed(step // self.reuse)
            self._pool = self.solved(self.data, self.batch, fresh, self.dropout)
            self._solved_at = step // self.reuse
        return self.objective.loss(self._student, self._pool, generator)

    def solved(self, data: LatentSet, count: int, generator: torch.Generator, dropout: float) -> Solved:
        """Fresh windows of `data` with the teacher's ends; `count` a multiple of K."""
        latents, prompts = data.draw(count, dropout, generator, self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        window = torch.arange(count) % self.objective.windows.num_time_windows
        return self.objective.solve(self._teacher, latents, noise, window, prompts)

    def endpoint_errors(self, pairs: Solved) -> list[float]:
        """Per window, of the student as it is now."""
        return self.objective.endpoint_errors(self._student, pairs).tolist()
