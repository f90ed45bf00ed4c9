"""Classifier-free guidance as a schedule: a `Guidance` resolved to one scale per step (dynamic CFG, paper section 3.4).

A scale of 1 means off: that step asks the network once instead of twice. Below 1 is off as well, as in every stock
pipeline. Scales run from noise to data, like the steps.

This module knows no torch and no network; who crops the doubled batch where guidance is off is the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from studio.errors import InvalidRequest
from studio.types import Guidance

CFG_SYNC = Guidance(scales=(7.5, 4.0, 4.0, 4.0))
CFG_FIXED = Guidance(scales=(2.5, 1.5, 1.5, 1.5))


def paper_guidance(mode: Literal["sync", "fixed"], num_time_windows: int = 4) -> Guidance:
    """The paper's schedule for weights trained with `mode`, for any K: strong in the first window, mild after it."""
    first, rest, *_ = (CFG_SYNC if mode == "sync" else CFG_FIXED).scales
    return Guidance(scales=(first,) + (rest,) * (num_time_windows - 1))


def scales_per_step(guidance: Guidance, *, step_windows: Sequence[int], num_time_windows: int) -> tuple[float, ...]:
    """One scale for each step, where `step_windows[i]` is the time window in which step i starts.

    Raises `InvalidRequest` when the number of scales is neither 1 nor what the grid has.
    """
    scales = tuple(max(1.0, float(scale)) for scale in guidance.scales)
    if len(scales) == 1:
        return scales * len(step_windows)
    if guidance.per == "step":
        _check_length(guidance, len(step_windows), "step")
        return scales
    _check_length(guidance, num_time_windows, "time window")
    return tuple(scales[window] for window in step_windows)


def is_guided(scale: float) -> bool:
    """Whether a step at this scale needs the network's unconditional answer as well."""
    return scale > 1.0


def num_network_calls(scales: Sequence[float]) -> int:
    """How often the network is asked in all: twice for each guided step."""
    return sum(2 if is_guided(scale) else 1 for scale in scales)


def _check_length(guidance: Guidance, expected: int, each: str) -> None:
    if len(guidance.scales) != expected:
        raise InvalidRequest("guidance", f"1 scale for all or {expected}, one per {each}", guidance.scales)
