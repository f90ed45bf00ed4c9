"""Training as the studio offers it: what may be chosen, what is at work, and what came of it.

    choices     bases, datasets and recipes; a person's choices become a `TrainingConfig`
    status      how a run stands, as page and API tell it
    services    `TrainingServices`: everything the Train tab and the API may call

The law of this room: no gradio, no torch. It does not train: it starts the trainer as a process and reads its folder.
"""

from __future__ import annotations

from studio.training.choices import BaseStatus, TrainingChoices
from studio.training.services import TrainingServices
from studio.training.status import RunStatus

__all__ = ["BaseStatus", "RunStatus", "TrainingChoices", "TrainingServices"]
