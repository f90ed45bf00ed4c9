"""What reports measure, once: distances between sets, coverage, diversity, paired errors, paths, cost, and the judge.

Features are `[N, D]` of the judge (studio.networks.judge), a network that saw no generator. The Frechet distance is
called FD, never FID: no Inception is involved. Nothing here draws a picture or knows a method.

    distances   FD and unbiased KID (torchmetrics) with bootstrap intervals
    coverage    precision and recall by nearest neighbours
    diversity   Vendi score and mean pairwise distance, among pictures of one prompt
    pairs       latent RMSE and PSNR against the same noise's reference; errors over windows; straightness
    seeing      the judge with its hash; attribute accuracy and obedience to negative prompts
    cost        milliseconds, fairly
"""

from benchmarks.measures.cost import milliseconds
from benchmarks.measures.coverage import Coverage, coverage
from benchmarks.measures.distances import Difference, Interval, difference, frechet_distance, interval, kernel_distance
from benchmarks.measures.diversity import mean_pairwise_distance, standardised, vendi_score
from benchmarks.measures.pairs import PairedError, bend, paired_error, psnr_db, window_errors
from benchmarks.measures.seeing import Eye, still_finding, things_right

__all__ = [
    "Coverage",
    "Difference",
    "Eye",
    "Interval",
    "PairedError",
    "bend",
    "coverage",
    "difference",
    "frechet_distance",
    "interval",
    "kernel_distance",
    "mean_pairwise_distance",
    "milliseconds",
    "paired_error",
    "psnr_db",
    "standardised",
    "still_finding",
    "things_right",
    "vendi_score",
    "window_errors",
]
