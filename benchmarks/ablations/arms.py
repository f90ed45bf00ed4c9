"""The arms: PeRFlow's recipe for Tabletop (trainer.tabletop.distillation) with one thing changed.

The error counts in the answer itself, as in the paper, but for the arms that ask about that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studio.runs.config import TrainingConfig
from trainer.tabletop.distillation import PERFLOW

TEACHER_CALLS = 20  # of the solver over all windows, whatever their number
FIXED_GUIDANCE = 3.0
LEARNING_RATE, WARMUP_STEPS = 1.5e-4, 20  # higher and sooner than the recipe's: these trainings are short


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A configuration under a short name; `question` is what it is compared for."""

    name: str
    question: str
    config: TrainingConfig

    @property
    def guidance(self) -> float:
        """The scale its own sampler takes to be compared with the teacher at `FIXED_GUIDANCE`."""
        return 1.0 if self.config.guidance_mode == "fixed" else FIXED_GUIDANCE


def _arm(name: str, question: str, num_steps: int, **changes: object) -> Arm:
    count = int(str(changes.get("num_time_windows", 4)))
    solver_steps = -(-TEACHER_CALLS // count)
    config = replace(
        PERFLOW, name=name, num_steps=num_steps, num_solver_steps=solver_steps, learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS, **changes,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return Arm(name=name, question=question, config=config)


def arms(num_steps: int, batch_size: int) -> dict[str, Arm]:
    """All of them by name, in the order in which they are best trained."""
    same = {"batch_size": batch_size}
    fixed = {**same, "guidance_mode": "fixed", "trained_guidance": FIXED_GUIDANCE, "caption_dropout": 0.1}
    found = [
        _arm("B-K4-seed0", "the reference", num_steps, **same),
        _arm("A-K4-seed0", "parameterisation [A]", num_steps, prediction_type="diff_eps", **same),
        _arm("B-K2-seed0", "two windows", num_steps, num_time_windows=2, **same),
        _arm("B-K8-seed0", "eight windows", num_steps, num_time_windows=8, **same),
        _arm("fixed-K4-seed0", "CFG-fixed", num_steps, **fixed),
        _arm("end-K4-seed0", "the error at the window's end", num_steps, error_at="end", **same),
        _arm("fixed-end-K4-seed0", "CFG-fixed, the error at the window's end", num_steps, error_at="end", **fixed),
        _arm("rectified-K4-seed0", "Rectified Diffusion", num_steps, method="rectified", **same),
        _arm("B-K4-seed1", "another training seed", num_steps, seed=1, **same),
        _arm("B-K4-seed2", "another training seed", num_steps, seed=2, **same),
    ]
    return {each.name: each for each in found}
