"""Distances between sets of pictures, in the features of a network trained on the same world.

Features are `[N, D]`. The Frechet distance here is called FD, never FID: no Inception is involved. Sources: FID, arXiv
1706.08500 eq. 6; KID (unbiased MMD with a cubic kernel), arXiv 1801.01401.
"""

from __future__ import annotations

import torch


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64; biased upwards for small N."""
    a, b = a.double(), b.double()
    root = _square_root(torch.cov(a.T))
    middle = torch.linalg.eigvalsh(root @ torch.cov(b.T) @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return float(shift + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * middle)


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Unbiased squared MMD with k(x, y) = (x . y / D + 1)^3; may be slightly negative for equal distributions.

    The sets must be independent: where row i of both answers the same prompt, it comes out too low.
    """
    a, b = a.double(), b.double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: torch.Tensor) -> torch.Tensor:
        table = kernel(x, x)
        return (table.sum() - table.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def _square_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
