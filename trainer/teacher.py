"""The teacher: its noise predictions, and its ODE solved from one diffusion index down to another.

A `Network` is any callable `(z [B, C, H, W], timesteps [B], condition) -> answer [B, C, H, W]`, its answer being what
`head` says (noise, or diffusion's v); what a condition is, only it knows. Indices fall from 999 (noise) to 0; a batch
may mix windows, so indices come as `[n + 1, B]` tensors and the last row is exactly the window's end. Sources: DDIM,
arXiv 2010.02502 eq. 12; DPM-Solver++ (2M), arXiv 2211.01095 algorithm 2.
Knows nothing of students, losses or text.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch

from studio.perflow.prediction import Head, window_map
from studio.perflow.schedule import NoiseSchedule, broadcast
from studio.perflow.windows import TimeWindows

Network = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
Solver = Literal["ddim", "dpmpp"]


def window_indices(windows: TimeWindows, window: torch.Tensor, num_steps: int) -> torch.Tensor:
    """`[num_steps + 1, B]` diffusion indices that a solver visits in each sample's window."""
    table = torch.tensor([windows.solver_indices(k, num_steps) for k in range(windows.num_time_windows)])
    return table[window.cpu()].T


@torch.no_grad()
def solve(
    network: Network,
    schedule: NoiseSchedule,
    z: torch.Tensor,
    indices: torch.Tensor,
    condition: Any,
    solver: Solver = "ddim",
    head: Head = "ddim_eps",
) -> torch.Tensor:
    """z at the last row of `indices`, from z at the first; one network call a row but the last, in fp32."""
    if solver == "ddim":
        return _solve_ddim(network, schedule, z, indices, condition, head)
    return _solve_dpmpp(network, schedule, z, indices, condition, head)


def _solve_ddim(
    network: Network, schedule: NoiseSchedule, z: torch.Tensor, indices: torch.Tensor, condition: Any, head: Head
) -> torch.Tensor:
    for here, there in pairwise(indices):
        step = window_map(head, schedule.segment(here + 1, there + 1))
        z = step.end(z, network(z, here.to(z.device), condition))
    return z


def _solve_dpmpp(
    network: Network, schedule: NoiseSchedule, z: torch.Tensor, indices: torch.Tensor, condition: Any, head: Head
) -> torch.Tensor:
    """Second order with the previous prediction of z_0; the first step is first order, which equals DDIM's."""
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    for here, there in pairwise(indices):
        part = schedule.segment(here + 1, there + 1)
        clean = predicted(head, schedule, z, network(z, here.to(z.device), condition), here + 1)[0]
        log_snr_s, log_snr_e = (part.alpha_s / part.sigma_s).log(), (part.alpha_e / part.sigma_e).log()
        stride, better = log_snr_e - log_snr_s, clean
        if before is not None:
            earlier, earlier_stride = before
            better = clean + broadcast(stride / (2 * earlier_stride), z) * (clean - earlier)
        decay = broadcast(part.sigma_e / part.sigma_s, z)
        z = decay * z - broadcast(part.alpha_e * torch.expm1(-stride), z) * better
        before = (clean, stride)
    return z


def predicted(
    head: Head, schedule: NoiseSchedule, z: torch.Tensor, answer: torch.Tensor, timesteps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The (z_0, eps) that an answer of `head` means at timesteps `[B]`, fp32."""
    points, z, answer = timesteps.cpu(), z.float(), answer.float()
    alpha, sigma = broadcast(schedule.alphas[points], z), broadcast(schedule.sigmas[points], z)
    if head == "v_prediction":
        return alpha * z - sigma * answer, sigma * z + alpha * answer
    if head != "ddim_eps":
        raise ValueError(f"head: expected ddim_eps or v_prediction, what diffusion models answer, got {head}.")
    return (z - sigma * answer) / alpha, answer


def guided(network: Network, nothing: Callable[[Any], Any], guidance: float) -> Network:
    """Classifier-free guidance around a network: cond + (w - 1)(cond - uncond); `nothing` maps a condition to none."""
    if guidance == 1.0:
        return network

    def call(z: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
        with_it = network(z, timesteps, condition)
        without = network(z, timesteps, nothing(condition))
        return without + guidance * (with_it - without)

    return call
