"""The teacher: its noise predictions, and its ODE solved from one diffusion index down to another.

A `Network` is any callable `(z [B, C, H, W], timesteps [B], condition) -> answer [B, C, H, W]`, its answer being what
`head` says (noise, or diffusion's v); what a condition is, only it knows. Indices fall from 999 (noise) to 0; a batch
may mix windows, so indices come as `[n + 1, B]` tensors and the last row is exactly the window's end. Sources: DDIM,
arXiv 2010.02502 eq. 12; DPM-Solver++ (2M), arXiv 2211.01095 algorithm 2.
Knows nothing of students, losses or text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch

from studio.perflow.prediction import Head, window_map
from studio.perflow.schedule import NoiseSchedule, broadcast
from studio.perflow.windows import TimeWindows

Network = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
Solver = Literal["ddim", "dpmpp"]
MAX_STRIDE_GROWTH = 2.0


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
    solver: Solver | Sequence[Solver] = "ddim",
    head: Head = "ddim_eps",
) -> torch.Tensor:
    """z at the last row of `indices`, from z at the first; one network call a row but the last, in fp32.

    `solver` is one for all samples, or one for each.
    """
    solvers = [solver] * indices.shape[1] if isinstance(solver, str) else list(solver)
    if "dpmpp" not in solvers:
        return _solve_ddim(network, schedule, z, indices, condition, head)
    second = torch.tensor([each == "dpmpp" for each in solvers])
    return _solve_dpmpp(network, schedule, z, indices, condition, head, second)


def _solve_ddim(
    network: Network, schedule: NoiseSchedule, z: torch.Tensor, indices: torch.Tensor, condition: Any, head: Head
) -> torch.Tensor:
    for here, there in pairwise(indices):
        step = window_map(head, schedule.segment(here + 1, there + 1))
        z = step.end(z, network(z, here.to(z.device), condition))
    return z


def _solve_dpmpp(network: Network, schedule: NoiseSchedule, z: torch.Tensor, indices: torch.Tensor, condition: Any,
                 head: Head, second: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Second order with the previous prediction of z_0, for the samples `second` `[B]` names; first order is DDIM.

    A step much longer in log-SNR than the one before stays first order: extrapolating z_0 over it goes astray (the last
    step to the data's end, evenly spaced in t, three times as far off as DDIM's).
    """
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    for here, there in pairwise(indices):
        part = schedule.segment(here + 1, there + 1)
        clean = predicted(head, schedule, z, network(z, here.to(z.device), condition), here + 1)[0]
        stride = (part.alpha_e / part.sigma_e).log() - (part.alpha_s / part.sigma_s).log()
        better = clean
        if before is not None:
            earlier, earlier_stride = before
            trusted = second & (stride < MAX_STRIDE_GROWTH * earlier_stride)
            better = clean + broadcast(trusted * stride / (2 * earlier_stride), z) * (clean - earlier)
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


def guided(network: Network, nothing: Callable[[Any], Any], guidance: float | torch.Tensor) -> Network:
    """Classifier-free guidance around a network: uncond + w (cond - uncond); w is one scale or `[B]` of them.

    `nothing` maps a condition to the one without its text.
    """
    if isinstance(guidance, float) and guidance == 1.0:
        return network
    scales = torch.as_tensor(guidance, dtype=torch.float64)

    def call(z: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
        with_it = network(z, timesteps, condition)
        without = network(z, timesteps, nothing(condition))
        return without + broadcast(scales, z) * (with_it - without)

    return call


def one_below(network: Network) -> Network:
    """A network that wants diffusion indices, as one that is asked at timesteps (PeRFlow asks one above the index)."""

    def call(z: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
        return network(z, timesteps - 1, condition)

    return call


def in_pieces(network: Network, size: int) -> Network:
    """A network that sees at most `size` samples at a time; its condition is a dict of tensors, one row a sample."""

    def call(z: torch.Tensor, timesteps: torch.Tensor, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = [slice(first, first + size) for first in range(0, len(z), size)]
        parts = [network(z[r], timesteps[r], {key: value[r] for key, value in condition.items()}) for r in rows]
        return torch.cat(parts)

    return call
