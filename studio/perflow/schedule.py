"""The noise schedule: how much signal and how much noise there is at each timestep, z = alpha * z_0 + sigma * eps.

A timestep is an integer from T (1000, noise) to 0 (data). For diffusion, alpha = sqrt(alphas_cumprod[i]) and
sigma = sqrt(1 - alphas_cumprod[i]) with i(t) = timestep - 1, clamped at 0: PeRFlow's windows end at alphas_cumprod[0],
not at exactly clean data, unless the base says `set_alpha_to_one`. For flow matching, alpha = 1 - t and sigma = t.
Paper: arXiv 2405.07510, section 3.1; zero terminal SNR: arXiv 2305.08891.

Shapes: B a batch of timesteps, B C H W (or B C F H W) latents.
This module knows no head, no window and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import betas_for_alpha_bar, rescale_zero_terminal_snr


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """A stretch of time from s (noisier) down to e, with signal and noise at both ends; float64, each () or (B,)."""

    s: torch.Tensor
    e: torch.Tensor
    alpha_s: torch.Tensor
    sigma_s: torch.Tensor
    alpha_e: torch.Tensor
    sigma_e: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseSchedule:
    """Signal `alphas` and noise `sigmas` at the timesteps 0 to T: two float64 tables on the CPU, each (T + 1,)."""

    alphas: torch.Tensor
    sigmas: torch.Tensor

    @classmethod
    def of_diffusion(cls, alphas_cumprod: torch.Tensor, *, set_alpha_to_one: bool = False) -> NoiseSchedule:
        """From `alphas_cumprod` (T,): timestep t reads index t - 1, timestep 0 reads index 0 or exactly clean data."""
        cumprod = alphas_cumprod.detach().to("cpu", torch.float64)
        last = torch.ones_like(cumprod[:1]) if set_alpha_to_one else cumprod[:1]
        table = torch.cat([last, cumprod])
        return cls(alphas=table.sqrt(), sigmas=(1 - table).sqrt())

    @classmethod
    def of_flow(cls, num_train_timesteps: int = 1000) -> NoiseSchedule:
        """The straight path of flow matching: alpha = 1 - t, sigma = t."""
        t = torch.linspace(0, 1, num_train_timesteps + 1, dtype=torch.float64)
        return cls(alphas=1 - t, sigmas=t)

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas) - 1

    def segment(self, start: int | torch.Tensor, end: int | torch.Tensor) -> Segment:
        """The stretch between two timesteps, or between two (B,) tensors of them.

        From diffusion index i to j, as a teacher solver goes, is `segment(i + 1, j + 1)`.
        """
        s, e = (torch.as_tensor(point).to("cpu", torch.long) for point in (start, end))
        if bool((s <= e).any()):
            raise ValueError(f"segment: expected a start above its end (noise is the highest), got {s} and {e}.")
        total = self.num_train_timesteps
        return Segment(
            s=s.double() / total,
            e=e.double() / total,
            alpha_s=self.alphas[s],
            sigma_s=self.sigmas[s],
            alpha_e=self.alphas[e],
            sigma_e=self.sigmas[e],
        )

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: int | torch.Tensor) -> torch.Tensor:
        """z at the given timesteps, () or (B,) (eq. 3): alpha * z_0 + sigma * eps, computed in fp32 or better."""
        points = torch.as_tensor(timesteps).to("cpu", torch.long)
        precise = torch.promote_types(clean.dtype, torch.float32)
        clean_part = broadcast(self.alphas[points], clean) * clean.to(precise)
        return (clean_part + broadcast(self.sigmas[points], clean) * noise.to(precise)).to(clean.dtype)


def broadcast(values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | float:
    """Values () or (B,) made to multiply latents (B, ...): a plain number, or (B, 1, 1, ...) in fp32 or better."""
    if values.numel() == 1:
        return float(values)
    precise = torch.promote_types(latents.dtype, torch.float32)
    return values.to(latents.device, precise).reshape(-1, *[1] * (latents.ndim - 1))


def make_betas(
    *,
    num_train_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    beta_schedule: str = "scaled_linear",
    trained_betas: Sequence[float] | None = None,
    rescale_betas_zero_snr: bool = False,
) -> torch.Tensor:
    """The betas (T,) of a Stable Diffusion scheduler's config, in fp32 as the teacher saw them."""
    if trained_betas is not None:
        betas = torch.as_tensor(trained_betas, dtype=torch.float32)
        if betas.shape != (num_train_timesteps,):
            raise ValueError(f"trained_betas: expected {num_train_timesteps} numbers, got {tuple(betas.shape)}.")
    elif beta_schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float32)
    elif beta_schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float32) ** 2
    elif beta_schedule == "squaredcos_cap_v2":
        betas = betas_for_alpha_bar(num_train_timesteps)
    else:
        known = "linear, scaled_linear or squaredcos_cap_v2"
        raise ValueError(f"beta_schedule: expected {known}, got {beta_schedule!r}; pass trained_betas for any other.")
    return rescale_zero_terminal_snr(betas) if rescale_betas_zero_snr else betas


def make_alphas_cumprod(betas: torch.Tensor) -> torch.Tensor:
    """The product of 1 - beta up to each index (T,): 1 is clean, 0 is noise."""
    return torch.cumprod(1.0 - betas, dim=0)
