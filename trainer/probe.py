"""Which solver the teacher should use: both measured at equal network calls, window by window, before they are trusted.

DPM-Solver++ is several times closer to the ODE than DDIM in most windows of most bases, and far off in some; nothing
but a measurement tells. Knows no student and no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from trainer.objectives import PeRFlow, relative_errors
from trainer.teacher import Network, Solver

REFERENCE_STEPS = 64
NUM_SAMPLES_PER_WINDOW = 4


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Relative errors at each window's end, of both solvers with `num_steps` steps."""

    num_steps: int
    ddim: tuple[float, ...]
    dpmpp: tuple[float, ...]

    @property
    def solvers(self) -> tuple[Solver, ...]:
        """The better one for each window; DDIM where they are equal."""
        return tuple("dpmpp" if two < one else "ddim" for one, two in zip(self.ddim, self.dpmpp, strict=True))

    @property
    def words(self) -> str:
        """A sentence for the run's log."""
        pairs = ", ".join(f"{one:.3f} and {two:.3f}" for one, two in zip(self.ddim, self.dpmpp, strict=True))
        return (
            f"Teacher's solver by window: {', '.join(self.solvers)}; error at the window's end with {self.num_steps} "
            f"steps of DDIM and of DPM-Solver++: {pairs}."
        )


def probe(
    teacher: Network, objective: PeRFlow, clean: torch.Tensor, noise: torch.Tensor, window: torch.Tensor, condition: Any
) -> Probe:
    """Measure both solvers on the given windows against many DDIM steps."""
    narrowest = min(start - end for start, end in map(objective.windows.bounds, set(window.tolist())))
    fine = replace(objective, solver="ddim", num_solver_steps=min(REFERENCE_STEPS, narrowest // 2))
    truth = fine.solve(teacher, clean, noise, window, condition)

    def errors(solver: Solver) -> tuple[float, ...]:
        reached = replace(objective, solver=solver).solve(teacher, clean, noise, window, condition).z_e
        return tuple(relative_errors(reached, truth, objective.windows).nan_to_num().tolist())

    return Probe(num_steps=objective.num_solver_steps, ddim=errors("ddim"), dpmpp=errors("dpmpp"))
