"""Improved precision and recall: how much of a set lies in the other's support, by balls around every sample.

Arxiv 1904.06991, algorithm 1. Precision falls when pictures are unlike any real one, recall when kinds are missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NEAREST = 3


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Shares in [0, 1]."""

    precision: float
    recall: float


def coverage(features: torch.Tensor, reference: torch.Tensor, nearest: int = NEAREST) -> Coverage:
    """Of features `[N, D]` against a reference `[M, D]`; each set has more than `nearest` samples."""
    features, reference = features.double(), reference.double()
    return Coverage(
        precision=_share_inside(features, reference, nearest), recall=_share_inside(reference, features, nearest)
    )


def _share_inside(points: torch.Tensor, support: torch.Tensor, nearest: int) -> float:
    """The share of points within some support sample's distance to its `nearest`-th neighbour."""
    radius = torch.cdist(support, support).kthvalue(nearest + 1, dim=1).values  # the nearest of all is itself
    return float((torch.cdist(points, support) <= radius).any(dim=1).double().mean())
