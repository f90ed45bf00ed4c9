"""How different the pictures of one prompt are: Vendi score and mean pairwise distance over seeds.

Both are the studio's own (studio.comparing.numbers; Vendi: arXiv 2210.02410). Pooled features are all positive, so
their cosines are near one whatever they show: `standardised` first.
"""

from __future__ import annotations

import torch

from studio.comparing.numbers import mean_distance, vendi


def standardised(features: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Features with the reference set's mean taken off, in units of its deviation."""
    return (features.double() - reference.double().mean(0)) / reference.double().std(0).clamp(min=1e-8)


def vendi_score(features: torch.Tensor) -> float:
    """The effective number of different samples: from 1 (all the same) to n (all orthogonal), of `[n, D]`."""
    return vendi(features.double().numpy())


def mean_pairwise_distance(features: torch.Tensor) -> float:
    """Mean Euclidean distance between different samples of `[n, D]`, n > 1."""
    return mean_distance(features.double().numpy())
