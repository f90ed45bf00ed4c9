"""The published sampler's arithmetic, restated plainly: windows found by value, the (e - t) form of the velocity.

A reference to compare with, written from the paper and the facts in the project's notes. For one latent and K windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def window_by_value(t: float, num_windows: int) -> tuple[float, float]:
    """The window (s, e) with e < t <= s, where a point within 1e-4 of an edge starts the next one."""
    starts = [(num_windows - k) / num_windows for k in range(num_windows)]
    ends = [*starts[1:], 0.0]
    for start, end in zip(starts, ends, strict=True):
        if t - 1e-4 > end:
            return start, end
    raise AssertionError(t)


def published_velocity(
    head: str, z: torch.Tensor, output: torch.Tensor, timestep: int, cumprod: torch.Tensor, num_windows: int
) -> torch.Tensor:
    """dz/dt: predict the window's end from the line through z, then divide by (e - t)."""
    if head == "velocity":
        return output
    t = timestep / 1000
    s, e = window_by_value(t, num_windows)
    at_s = float(cumprod[math.floor(s * 1000 + 1e-6) - 1])
    at_e = float(cumprod[max(math.floor(e * 1000 + 1e-6) - 1, 0)])
    lam = math.sqrt(at_e / at_s)
    etas = {
        "ddim_eps": math.sqrt(1 - at_e) - lam * math.sqrt(1 - at_s),
        "diff_eps": -math.sqrt((at_e - at_s) / at_s),
    }
    eta = etas[head]
    share = (t - e) / (s - e)  # z_t = share * z_s + (1 - share) * z_e, with z_e = lam * z_s + eta * output
    z_s = (z - (1 - share) * eta * output) / (share + (1 - share) * lam)
    z_e = lam * z_s + eta * output
    return (z_e - z) / (e - t)


def published_trajectory(
    head: str,
    network: Callable[[torch.Tensor, int], torch.Tensor],
    z: torch.Tensor,
    timesteps: list[int],
    cumprod: torch.Tensor,
    num_windows: int,
) -> list[torch.Tensor]:
    """Every latent along the way, the start excluded."""
    path = []
    for here, there in zip(timesteps, [*timesteps[1:], 0], strict=True):
        velocity = published_velocity(head, z, network(z, here), here, cumprod, num_windows)
        z = z + (there - here) / 1000 * velocity
        path.append(z)
    return path
