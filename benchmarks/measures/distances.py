"""How far two sets of pictures lie apart: FD and unbiased KID by torchmetrics, on features `[N, D]` made beforehand.

Both sets must be independent: where row i of both answers the same prompt with the same noise, distances come out too
low. FD of few samples is biased upwards, so compare it only at equal N and beside a floor at that N; KID has no bias.
Sources: FD, arXiv 1706.08500 eq. 6; KID (MMD with a cubic kernel), arXiv 1801.01401; the bootstrap, Efron and
Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

Distance = Callable[[torch.Tensor, torch.Tensor], float]


class _Given(nn.Module):
    """In the place of a network: features pass as they are."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Of two Gaussians with the sets' means and covariances, in float64; two samples a set at least."""
    metric = FrechetInceptionDistance(feature=_Given(features.shape[1]))
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return float(metric.compute())


def kernel_distance(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Unbiased squared MMD, k(x, y) = (x . y / D + 1)^3; around zero, and as often below, for equal distributions.

    All samples are used once; of sets of different size as many as the smaller has.
    """
    size = min(len(features), len(reference))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save")
        torch.manual_seed(0)  # torchmetrics picks its subset, here all samples, in random order
        metric = KernelInceptionDistance(feature=_Given(features.shape[1]), subsets=1, subset_size=size)
        metric.update(reference.double(), real=True)
        metric.update(features.double(), real=False)
        return float(metric.compute()[0])


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where 95 % of repetitions of the measurement, at the same N, would be expected."""

    low: float
    high: float


def interval(
    distance: Distance, features: torch.Tensor, reference: torch.Tensor, *, num_resamples: int = 100, seed: int = 0
) -> Interval:
    """95 % of the basic (reverse-percentile) bootstrap, both sets resampled.

    Resampling with replacement raises FD by about as much again as the finite sample did: plain percentiles would lie
    above the estimate. So the resamples' deviations are taken from their own mean and turned around the estimate.
    """
    draw = _Resampling(seed)
    found = [distance(draw.rows(features), draw.rows(reference)) for _ in range(num_resamples)]
    return _turned(distance(features, reference), found)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`value` is how much larger the first distance is than the second, with its 95 % interval."""

    value: float
    interval: Interval


def difference(
    distance: Distance, features: torch.Tensor, others: torch.Tensor, reference: torch.Tensor, *,
    num_resamples: int = 100, seed: int = 0,
) -> Difference:  # fmt: skip
    """Of two sets whose rows answer the same prompts from the same noise: both are resampled by the same rows.

    What both have in common, the finite sample's bias above all, falls out.
    """
    draw = _Resampling(seed)
    found = []
    for _ in range(num_resamples):
        rows, real = draw.places(len(features)), draw.rows(reference)
        found.append(distance(features[rows], real) - distance(others[rows], real))
    value = distance(features, reference) - distance(others, reference)
    return Difference(value=value, interval=_turned(value, found))


class _Resampling:
    """Rows drawn with replacement, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def places(self, count: int) -> torch.Tensor:
        return torch.randint(count, (count,), generator=self._generator)

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.places(len(values))]


def _turned(estimate: float, resampled: list[float]) -> Interval:
    found = torch.tensor(resampled, dtype=torch.float64)
    low, high = torch.quantile(found - found.mean(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(low=estimate - high, high=estimate - low)
