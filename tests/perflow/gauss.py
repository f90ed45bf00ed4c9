"""An exact teacher: data ~ N(mu, spread^2 I), for which the best denoiser and the teacher's ODE are known in full."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from studio.perflow import NoiseSchedule


@dataclass(frozen=True, kw_only=True)
class GaussTeacher:
    """z_t is N(alpha mu, (alpha^2 spread^2 + sigma^2) I); the probability-flow ODE keeps (z - mean) / deviation."""

    schedule: NoiseSchedule
    mu: float = 0.7
    spread: float = 0.5

    def deviation(self, timestep: int) -> float:
        alpha, sigma = float(self.schedule.alphas[timestep]), float(self.schedule.sigmas[timestep])
        return (alpha**2 * self.spread**2 + sigma**2) ** 0.5

    def eps(self, z: torch.Tensor, timestep: int) -> torch.Tensor:
        """The exact E[eps | z_t]."""
        alpha, sigma = float(self.schedule.alphas[timestep]), float(self.schedule.sigmas[timestep])
        return sigma * (z - alpha * self.mu) / self.deviation(timestep) ** 2

    def flow(self, z: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """The ODE's exact solution from one timestep to another."""
        whitened = (z - float(self.schedule.alphas[start]) * self.mu) / self.deviation(start)
        return float(self.schedule.alphas[end]) * self.mu + self.deviation(end) * whitened
