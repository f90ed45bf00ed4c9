"""Rectified Diffusion, phased: PeRFlow's target on the curve that DDIM draws instead of on a straight line.

A window's ends give one (z_0, eps), whose mixture at t is z_t = alpha z_0 + sigma eps: straight in z / alpha over
sigma / alpha. At every such point the answer that leads to the window's end is the same, the [B] target. The distance
is pseudo-Huber on the end the answer leads to. Sampled by plain DDIM with trailing steps, so the network is asked at
the diffusion index, one below PeRFlow's timestep. Paper: arXiv 2410.07303.
Knows nothing of data sets, optimizers or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from studio.perflow.prediction import window_map
from studio.perflow.schedule import Segment, broadcast
from trainer.objectives import PeRFlow, Solved
from trainer.teacher import Network

HUBER = 1e-3


def pseudo_huber(difference: torch.Tensor, c: float = HUBER) -> torch.Tensor:
    """Mean of sqrt(d^2 + c^2) - c: square near zero, absolute far from it."""
    return ((difference.float().square() + c * c).sqrt() - c).mean()


def mixture(part: Segment, z_s: torch.Tensor, z_e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The (z_0, eps) from which both ends come: z = alpha z_0 + sigma eps at s and at e."""
    determinant = part.sigma_s * part.alpha_e - part.sigma_e * part.alpha_s
    clean = broadcast(part.sigma_s / determinant, z_s) * z_e - broadcast(part.sigma_e / determinant, z_s) * z_s
    noise = broadcast(part.alpha_e / determinant, z_s) * z_s - broadcast(part.alpha_s / determinant, z_s) * z_e
    return clean, noise


@dataclass(frozen=True, kw_only=True, eq=False)
class Rectified(PeRFlow):
    """Its head is the base's own: ddim_eps or v_prediction."""

    index_offset: int = -1

    def point(self, pairs: Solved, timesteps: torch.Tensor) -> torch.Tensor:
        """z_t on the DDIM curve through both ends of each window."""
        edges = torch.tensor(self.windows.edges)
        part = self.schedule.segment(edges[pairs.window], edges[pairs.window + 1])
        clean, noise = mixture(part, pairs.z_s, pairs.z_e)
        return self.schedule.add_noise(clean, noise, timesteps)

    def loss(self, student: Network, pairs: Solved, generator: torch.Generator) -> torch.Tensor:
        """Pseudo-Huber distance of the window's end that the student points at to the teacher's."""
        timesteps = self.times.timesteps(self.windows, pairs.window, generator)
        z_t = self.point(pairs, timesteps)
        edges = torch.tensor(self.windows.edges)
        rest = window_map(self.head, self.schedule.segment(timesteps, edges[pairs.window + 1]))
        return pseudo_huber(rest.end(z_t, self.ask(student, z_t, timesteps, pairs.condition)) - pairs.z_e)
