"""Latent consistency and phased consistency: a jump from any point equals the jump from the teacher's next one.

|  | LCM | PCM (without its adversary) |
|---|---|---|
| grid | 50 points over all times | 50 // K in each of K windows, the last one its edge |
| jump from z at index i | c_skip(i) z + c_out(i) z_0 | alpha_e z_0 + sigma_e eps, e the window's edge |
| where it is the identity | index 0: c_skip = 1, c_out = 0 | the window's edge: alpha_e z_0 + sigma_e eps = z |
| sampled by | the LCM sampler, which adds noise again | plain DDIM, trailing, K steps |

The teacher goes one DDIM step along the grid at a guidance drawn for each sample, which the student learns with it; the
target is the student itself without gradient. sigma_data = .5 and timesteps scaled by 10, as the published sampler has
them. Papers: arXiv 2310.04378 and 2405.18407. Knows nothing of data sets, optimizers or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from studio.perflow.prediction import Head, window_map
from studio.perflow.schedule import NoiseSchedule, broadcast
from studio.perflow.windows import TimeWindows
from trainer.objectives import Solved, relative_errors
from trainer.rectified import pseudo_huber
from trainer.teacher import Network, guided, predicted, solve

GRID_POINTS = 50
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """One teacher step for each sample: diffusion indices `[B]` and the latents there."""

    here: torch.Tensor
    there: torch.Tensor
    edge: torch.Tensor
    z_here: torch.Tensor
    z_there: torch.Tensor
    condition: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Consistency:
    """`phased` is PCM over `windows`; without it the jump goes to clean data and the grid has one window (LCM)."""

    schedule: NoiseSchedule
    windows: TimeWindows
    phased: bool
    head: Head = "ddim_eps"
    guidance: tuple[float, float] = (1.0, 1.0)

    @cached_property
    def grid(self) -> torch.Tensor:
        """Diffusion indices `[windows, points + 1]`, noise first, each row's last its edge."""
        windows = self.windows if self.phased else replace(self.windows, num_time_windows=1, custom_edges=None)
        points = max(GRID_POINTS // windows.num_time_windows, 1)
        return torch.tensor([windows.solver_indices(k, points) for k in range(windows.num_time_windows)])

    def stretch(self, teacher: Network, nothing: Callable[[Any], Any], clean: torch.Tensor, condition: Any,
                generator: torch.Generator) -> Stretch:  # fmt: skip
        """Stratified places on the grid, noised, and the guided teacher's step from each."""
        count, (rows, columns) = len(clean), self.grid.shape
        strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        place = (strata * rows * (columns - 1)).long().clamp(max=rows * (columns - 1) - 1)
        row, column = place // (columns - 1), place % (columns - 1)
        here, there, edge = self.grid[row, column], self.grid[row, column + 1], self.grid[row, -1]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        low, high = self.guidance
        scales = low + (high - low) * torch.rand(count, generator=generator)
        z_here = self.schedule.add_noise(clean, noise, here + 1)
        ask = guided(teacher, nothing, scales if high > 1 else 1.0)
        z_there = solve(ask, self.schedule, z_here, torch.stack([here, there]), condition, head=self.head)
        return Stretch(here=here, there=there, edge=edge, z_here=z_here, z_there=z_there, condition=condition)

    def loss(self, student: Network, part: Stretch) -> torch.Tensor:
        """Pseudo-Huber distance between the jumps from both ends of the teacher's step."""
        with torch.no_grad():
            target = self.jump(student, part.z_there, part.there, part.edge, part.condition)
        return pseudo_huber(self.jump(student, part.z_here, part.here, part.edge, part.condition) - target)

    def jump(
        self, network: Network, z: torch.Tensor, index: torch.Tensor, edge: torch.Tensor, condition: Any
    ) -> torch.Tensor:
        """Where a network's answer at diffusion indices `[B]` leads in one step."""
        answer = network(z, index.to(z.device), condition)
        clean, noise = predicted(self.head, self.schedule, z, answer, index + 1)
        if self.phased:
            alpha, sigma = self.schedule.alphas[edge + 1], self.schedule.sigmas[edge + 1]
            return broadcast(alpha, z) * clean + broadcast(sigma, z) * noise
        skip, out = boundary(index)
        return broadcast(skip, z) * z + broadcast(out, z) * clean

    # --- measuring ---

    def solve(self, teacher: Network, clean: torch.Tensor, noise: torch.Tensor, window: torch.Tensor, condition: Any,
              num_steps: int) -> Solved:  # fmt: skip
        """Windows' starts with where the teacher's ODE leads: to the window's edge, or (LCM) all the way to data."""
        starts = torch.tensor(self.windows.edges)[window]
        z_s = self.schedule.add_noise(clean, noise, starts)
        indices = torch.stack([self._way(int(k), num_steps) for k in window], dim=1)
        z_e = solve(teacher, self.schedule, z_s, indices, condition, head=self.head)
        return Solved(z_s=z_s, z_e=z_e, window=window, condition=condition)

    def _way(self, window: int, num_steps: int) -> torch.Tensor:
        if self.phased:
            return torch.tensor(self.windows.solver_indices(window, num_steps))
        start = self.windows.bounds(window)[0]
        way = TimeWindows(num_time_windows=1, num_train_timesteps=start)
        return torch.tensor(way.solver_indices(0, num_steps))

    @torch.no_grad()
    def endpoint_errors(self, student: Network, pairs: Solved) -> torch.Tensor:
        """`[K]` relative RMSE of one jump from each window's start."""
        edges = torch.tensor(self.windows.edges)
        start, edge = edges[pairs.window] - 1, (edges[pairs.window + 1] - 1).clamp(min=0)
        return relative_errors(self.jump(student, pairs.z_s, start, edge, pairs.condition), pairs, self.windows)

    def direct_errors(self, base: Network, pairs: Solved) -> torch.Tensor:
        """The same for a network that knows no consistency: one DDIM step to the window's edge, or its z_0."""
        edges = torch.tensor(self.windows.edges)
        start = edges[pairs.window]
        end = edges[pairs.window + 1] if self.phased else torch.zeros_like(start)
        with torch.no_grad():
            answer = base(pairs.z_s, (start - 1).to(pairs.z_s.device), pairs.condition)
        step = window_map(self.head, self.schedule.segment(start, end))
        return relative_errors(step.end(pairs.z_s, answer), pairs, self.windows)


def boundary(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """LCM's (c_skip, c_out) at diffusion indices, float64: (1, 0) at index 0."""
    scaled = TIMESTEP_SCALING * index.double().cpu()
    total = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()
