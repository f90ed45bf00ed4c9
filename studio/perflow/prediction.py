"""One converter for every head: the map across a window, its inverse (the training target), and eq. 7's velocity.

Every head is an affine map over a window, z_e = lam * z_s + eta * P, with P the network's output. All else follows:

    target    P   = (z_e - lam * z_s) / eta                                   (training, eqs. 8 and 9)
    velocity  v   = ((1 - lam) * z_t - eta * P) / (t - e + lam * (s - t))     (sampling, eq. 7)

The published form of eq. 7 divides by (e - t); this one has no singularity. Guidance mixes P affinely, so it mixes v.

| here | paper |
|---|---|
| s, e, t | t_k, t_{k-1}, t: window start (noisier), window end, a point between |
| `output`, P | eps_theta(z_t, t), or what else the head predicts |
| velocity | dz/dt: points from data to noise |

Direction of time: t = 1 is noise, 0 data. Shapes: z B C H W (or B C F H W), lam and eta () or (B,).
Paper: arXiv 2405.07510. This module knows no grid, no network and no loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from studio.errors import IncompatibleWeights
from studio.perflow.schedule import Segment, broadcast

Head = Literal["ddim_eps", "diff_eps", "velocity", "v_prediction", "sample", "flow"]
HEADS: tuple[Head, ...] = get_args(Head)
EPSILON_HEADS: tuple[Head, ...] = ("ddim_eps", "diff_eps")


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowMap:
    """z_e = lam * z_s + eta * P over one segment. Every method computes and answers in fp32 or better."""

    segment: Segment
    lam: torch.Tensor
    eta: torch.Tensor

    def end(self, z_s: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """z at the window's end, from z at its start; with `ddim_eps` over one segment this is a DDIM step."""
        z_s, output = _precise(z_s), _precise(output)
        return broadcast(self.lam, z_s) * z_s + broadcast(self.eta, z_s) * output

    def target(self, z_s: torch.Tensor, z_e: torch.Tensor) -> torch.Tensor:
        """What the network should have answered: the inverse of `end` in its output."""
        z_s, z_e = _precise(z_s), _precise(z_e)
        return (z_e - broadcast(self.lam, z_s) * z_s) / broadcast(self.eta, z_s)

    def velocity(self, z_t: torch.Tensor, output: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        """dz/dt at a point of the window's straight line (eq. 7)."""
        z_t, output = _precise(z_t), _precise(output)
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        span = t - self.segment.e + self.lam * (self.segment.s - t)
        return broadcast((1 - self.lam) / span, z_t) * z_t - broadcast(self.eta / span, z_t) * output

    def point(self, z_s: torch.Tensor, z_e: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        """z_t on the straight line between the window's ends (eq. 5)."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        share = broadcast((t - self.segment.e) / (self.segment.s - self.segment.e), z_s)
        return share * _precise(z_s) + (1 - share) * _precise(z_e)

    def clean(self, z_t: torch.Tensor, velocity: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        """The z_0 that the line through z_t points at: the one from which a noise gives both ends of the window.

        Solves z_s = alpha_s z_0 + sigma_s eps, z_e = alpha_e z_0 + sigma_e eps; at the start of a window this is the
        ordinary prediction of z_0 of the ddim_eps, v_prediction and sample heads.
        """
        z_t, velocity, part = _precise(z_t), _precise(velocity), self.segment
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        determinant = part.sigma_s * part.alpha_e - part.sigma_e * part.alpha_s
        for_z = (part.sigma_s - part.sigma_e) / determinant
        for_velocity = (part.sigma_s * (part.e - t) - part.sigma_e * (part.s - t)) / determinant
        return broadcast(for_z, z_t) * z_t + broadcast(for_velocity, z_t) * velocity


def window_map(head: Head, segment: Segment) -> WindowMap:
    """The map that `head` means over a segment. Raises `IncompatibleWeights` for an epsilon head at zero signal."""
    if head in EPSILON_HEADS and bool((segment.alpha_s <= 0).any()):
        raise IncompatibleWeights(
            f"prediction_type {head} cannot start from pure noise, which this zero-terminal-SNR schedule does: use "
            "v_prediction or sample, or a schedule without rescale_betas_zero_snr."
        )
    lam, eta = _COEFFICIENTS[head](segment)
    return WindowMap(segment=segment, lam=lam, eta=eta)


def head_of(prediction_type: str) -> Head:
    """The head a config's `prediction_type` names; `epsilon` is the published scheduler's old name of `diff_eps`."""
    if prediction_type == "epsilon":
        warnings.warn(
            'prediction_type "epsilon" is the old name of "diff_eps": write that, or "ddim_eps" for newer weights.',
            FutureWarning,
            stacklevel=2,
        )
        return "diff_eps"
    if prediction_type not in HEADS:
        raise ValueError(f"prediction_type: expected one of {', '.join(HEADS)}, got {prediction_type!r}.")
    return cast(Head, prediction_type)


Coefficients = tuple[torch.Tensor, torch.Tensor]


def _ddim_eps(part: Segment) -> Coefficients:
    """Eq. 9: the noise of the deterministic path; the same as one DDIM step over the window."""
    lam = part.alpha_e / part.alpha_s
    return lam, part.sigma_e - lam * part.sigma_s


def _diff_eps(part: Segment) -> Coefficients:
    """Eq. 8: the noise of the forward transition z_e -> z_s."""
    lam = part.alpha_e / part.alpha_s
    return lam, -((part.alpha_e**2 - part.alpha_s**2).sqrt() / part.alpha_s)


def _v_prediction(part: Segment) -> Coefficients:
    """Diffusion's v = alpha eps - sigma z_0: a turn by phi_s - phi_e, with cos phi = alpha and sin phi = sigma."""
    cosine = part.alpha_s * part.alpha_e + part.sigma_s * part.sigma_e
    sine = part.sigma_s * part.alpha_e - part.alpha_s * part.sigma_e
    return cosine, -sine


def _sample(part: Segment) -> Coefficients:
    """The network answers z_0."""
    lam = part.sigma_e / part.sigma_s
    return lam, part.alpha_e - part.alpha_s * lam


def _velocity(part: Segment) -> Coefficients:
    """The network answers dz/dt: the published SD2.1 head, and flow matching's own (there on its own schedule)."""
    return torch.ones_like(part.s), part.e - part.s


_COEFFICIENTS: dict[Head, Callable[[Segment], Coefficients]] = {
    "ddim_eps": _ddim_eps,
    "diff_eps": _diff_eps,
    "v_prediction": _v_prediction,
    "sample": _sample,
    "velocity": _velocity,
    "flow": _velocity,
}


def _precise(latents: torch.Tensor) -> torch.Tensor:
    """fp16 and bf16 become fp32: half precision loses about 7e-4 a step."""
    return latents.to(torch.promote_types(latents.dtype, torch.float32))
