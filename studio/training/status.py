"""How a run stands, as page and API tell it. A value; what makes it reads the run's folder and the table of jobs."""

from __future__ import annotations

from dataclasses import dataclass

from studio.runs.config import TrainingConfig
from studio.runs.exports import PREFIX, Export
from studio.runs.jobs import ACTIVE, State


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands. `num_ahead` counts the runs before it while it is queued; `reason` and `last_lines` say why it
    failed or was interrupted; `silent_seconds` is how long a run at work has written nothing.

    `step`, `num_steps`, `eta_seconds`, `loss` and `checkpoint_step` (where a killed run would go on) come from the
    run's own events; `export` is there once the result is.
    """

    id: str
    state: State
    config: TrainingConfig
    num_ahead: int | None = None
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    silent_seconds: float = 0.0
    step: int = 0
    num_steps: int | None = None
    eta_seconds: float | None = None
    loss: float | None = None
    paused: bool = False
    checkpoint_step: int | None = None
    export: Export | None = None

    @property
    def is_at_work(self) -> bool:
        """Whether a process of it runs."""
        return self.state in ACTIVE

    @property
    def can_resume(self) -> bool:
        """Whether `resume` takes it up again as it is."""
        return self.state in ("stopped", "failed", "interrupted")

    @property
    def catalog_id(self) -> str:
        """The id under which every tab lists its result."""
        return f"{PREFIX}{self.id}"
