"""Numbers beside pictures: how far from the teacher's own, how diverse over seeds.

Shapes: latents C h w fp32, pictures RGB of equal size. `EXPLAINED` says in one line what each number means; who draws
and who judges is not known here. Source: Vendi score, arXiv 2210.02410 eq. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from studio.adherence import Adherence
from studio.pixels import levels

EXPLAINED = {
    "latent_error": "RMS distance of the final latents from the reference's, relative to their size: 0 is the same.",
    "psnr": "The same in pixels, in dB: 30 is close to the eye, 20 is another picture.",
    "adherence": "How many of the things, materials, floor and sky you named a small judge network finds.",
    "clip_score": "100 x the cosine between CLIP's embeddings of picture and prompt: higher fits better.",
    "seconds": "Median over the timed rounds, steps and decoding, the weights already on.",
    "memory_bytes": "The most memory the device (or this process, on a processor) held while drawing.",
    "diversity": "Mean distance between the pictures of different seeds, the reference's being 100 %.",
    "vendi": "How many really different pictures the seeds amount to (Vendi score): 1 if all are alike.",
}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What is measured of one contestant's picture; `None` where it cannot be."""

    latent_error: float | None = None
    psnr: float | None = None
    adherence: Adherence | None = None
    clip_score: float | None = None


def latent_error(latents: np.ndarray, reference: np.ndarray) -> float:
    """Relative RMSE: |z - r| / |r|, over everything."""
    return float(np.sqrt(np.square(latents - reference).mean() / np.square(reference).mean()))


def difference_map(picture: Image.Image, reference: Image.Image, *, gain: float = 3.0) -> Image.Image:
    """Where two pictures of one size differ: black where alike, brighter the more (largest channel times `gain`)."""
    gap = np.abs(levels(picture) - levels(reference)).max(axis=-1)
    return Image.fromarray(np.clip(gain * gap, 0, 255).astype(np.uint8))


def mean_distance(features: np.ndarray) -> float:
    """Mean Euclidean distance between the rows of `[N, D]`, over all pairs. Raises `ValueError` for one row."""
    if len(features) < 2:
        raise ValueError(f"features: expected at least 2 rows, got {len(features)}.")
    gaps = np.linalg.norm(features[:, None] - features[None], axis=-1)
    return float(gaps.sum() / (len(features) * (len(features) - 1)))


def vendi(features: np.ndarray) -> float:
    """The Vendi score of `[N, D]` under the cosine kernel: from 1 (all alike) to N (all orthogonal)."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    values = np.linalg.eigvalsh(unit.astype(np.float64) @ unit.astype(np.float64).T / len(unit))
    positive = values[values > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def plain_features(pictures: Sequence[Image.Image], side: int = 32) -> np.ndarray:
    """Features without any judge: the pixels of small copies, `[N, 3 * side * side]` in [0, 1]."""
    return np.stack([levels(each.resize((side, side))).ravel() / 255 for each in pictures])
