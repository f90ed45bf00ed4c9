"""What is true of a trained artefact, for its file and for `export.json`: sampler, head, windows, guidance.

Facts follow from the configuration alone; nobody chooses them later. Knows no files and no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.runs.config import TrainingConfig
from studio.specs import DeltaSpec

LCM_STEPS = 4
BAKED_GUIDANCE = 1.5  # of the 1 to 2.5 that work on weights trained at fixed guidance
LOWEST_GUIDANCE_SHARE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class ArtefactFacts:
    """How an artefact is sampled: `delta` is what `DeltaWeights` stores, the rest what the catalogue recommends."""

    sampler: Literal["perflow", "lcm", "ddim"]
    delta: DeltaSpec
    recommended_steps: int
    recommended_guidance: float
    reason: str


def drawn_guidance(config: TrainingConfig) -> tuple[float, float]:
    """The range LCM and PCM draw the teacher's guidance from: 5 to 15 when the highest is 15, as published."""
    return max(1.0, LOWEST_GUIDANCE_SHARE * config.trained_guidance), config.trained_guidance


def licence_of(config: TrainingConfig) -> str:
    """What a person said, else the base's."""
    return config.license if config.license != "unknown" else config.base.license


def recommended_guidance(config: TrainingConfig) -> float:
    """The scale at which a result is drawn: low where guidance is in the weights already, else as chosen."""
    if config.method in ("lcm", "pcm"):
        return 1.0
    if config.method in ("perflow", "rectified") and config.guidance_mode == "fixed":
        return BAKED_GUIDANCE
    return config.sample_guidance


def facts_of(config: TrainingConfig, *, base_sha256: str | None = None) -> ArtefactFacts:
    """The facts of an accelerator's run (perflow, rectified, lcm, pcm)."""
    native = "v_prediction" if config.base.prediction_type == "v_prediction" else "ddim_eps"
    is_consistent, is_perflow = config.method in ("lcm", "pcm"), config.method == "perflow"
    is_baked = is_consistent or config.guidance_mode == "fixed"
    scale = sum(drawn_guidance(config)) / 2 if is_consistent else config.trained_guidance
    delta = DeltaSpec(
        family=config.base.family,
        prediction_type=config.prediction_type if is_perflow else native,
        num_time_windows=1 if config.method == "lcm" else config.num_time_windows,
        guidance_mode="fixed" if is_baked else "sync",
        trained_guidance=scale if is_baked else 1.0,
        base_sha256=base_sha256,
        license=licence_of(config)[:200],
        name=config.name,
    )
    steps = LCM_STEPS if config.method == "lcm" else config.num_time_windows
    guidance = recommended_guidance(config)
    sampler = "perflow" if is_perflow else "lcm" if config.method == "lcm" else "ddim"
    return ArtefactFacts(
        sampler=sampler,
        delta=delta,
        recommended_steps=steps,
        recommended_guidance=guidance,
        reason=_reason(config, steps, guidance, is_baked=is_baked, scale=scale),
    )


def _reason(config: TrainingConfig, steps: int, guidance: float, *, is_baked: bool, scale: float) -> str:
    count = f"{steps} {'step' if steps == 1 else 'steps'}"
    first = f"{count}, the usual number for LCM" if config.method == "lcm" else f"{count}, one per time window"
    if is_baked:
        return f"{first}; {guidance:g}: guidance of about {scale:g} is in the weights already."
    return f"{first}; {guidance:g}: the guidance its samples were drawn with."
