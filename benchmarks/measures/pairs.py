"""Against what the teacher makes of the same noise and caption: paired errors, errors over windows, bent paths.

Time t runs from 1 (noise) to 0 (data). Latents `[B, C, h, w]`, pixels `[B, 3, H, W]` in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch


@dataclass(frozen=True, kw_only=True)
class PairedError:
    """RMSE over the reference's own RMS: of all samples together, and the median of each sample's.

    A few samples that flip to another scene outweigh the rest in `all`.
    """

    all: float
    median: float


def paired_error(latents: torch.Tensor, reference: torch.Tensor) -> PairedError:
    """Of latents against the reference's, sample by sample."""
    latents, reference = latents.double(), reference.double()
    errors = (latents - reference).square().flatten(1).mean(1) / reference.square().mean()
    return PairedError(all=float(errors.mean().sqrt()), median=float(errors.sqrt().median()))


def psnr_db(pixels: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean over pictures, in dB; pixels in [-1, 1]."""
    mse = ((pixels.double() - reference.double()) / 2).square().flatten(1).mean(1)
    return float((-10 * torch.log10(mse.clamp(min=1e-10))).mean())


def window_errors(cross: Callable[[torch.Tensor, int], torch.Tensor], edges: Sequence[torch.Tensor]) -> list[float]:
    """Each window crossed from the true path's point at its start: RMSE at its end over the way from start to end.

    `edges` are the true path's latents at the K + 1 window edges, noise end first; `cross` answers where a sampler
    arrives from the latents at the start of window k.
    """
    return [
        float((cross(start, k) - end).double().square().mean().sqrt() / (end - start).double().square().mean().sqrt())
        for k, (start, end) in enumerate(pairwise(edges))
    ]


def bend(path: torch.Tensor, times: Sequence[float]) -> float:
    """How far from straight a path is: 0 is a straight line at constant speed.

    Rectified flow's S(Z) (arXiv 2209.03003, section 2) over the squared mean velocity: the time integral of
    |dz/dt - (z_e - z_s) / (e - s)|^2, relative. `path` `[M + 1, B, ...]` at `times`, from the start to the end.
    """
    path = path.double()
    straight = (path[-1] - path[0]) / (times[-1] - times[0])
    off = torch.zeros((), dtype=torch.float64)
    for (z, t), (z_next, t_next) in pairwise(zip(path, times, strict=True)):
        velocity = (z_next - z) / (t_next - t)
        off += abs(t_next - t) * (velocity - straight).square().mean()
    return float(off / (abs(times[-1] - times[0]) * straight.square().mean()))
