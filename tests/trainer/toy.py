"""A run of the step loop on a toy: a small network learns a sum, with everything a run has but pictures.

`python -m tests.trainer.toy RUN` trains the run folder's configuration as the trainer would: several processes under
`python -m torch.distributed.run`, checkpoints, events, requests. Light enough to be started many times.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from studio.runs.events import Started
from studio.runs.folder import RunFolder
from trainer.event_log import EventLog
from trainer.steps import StepLoop


def toy_config(**changes: object) -> TrainingConfig:
    """A configuration whose numbers fit the toy; model and data are never looked at."""
    values = {
        "name": "toy", "base": BaseModel(id="toy", family="sd15", source="toy"), "dataset": DatasetRef(id="toy"),
        "num_steps": 12, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 3, "checkpoint_every_steps": 4,
        "validate_every_steps": 100, "sample_every_steps": 100, "checkpoint_every_minutes": 0.0, "ema_decay": 0.9,
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})


class Forwards(nn.Module):
    """Mean squared error of a two-layer network on samples drawn from (seed, step, slot)."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.config, self.accelerator = config, accelerator
        self.bad: dict[int, float] = {}

    def forward(self, step: int, micro: int) -> torch.Tensor:
        slot = micro * self.accelerator.num_processes + self.accelerator.process_index
        generator = torch.Generator().manual_seed(1_000_003 * self.config.seed + 1009 * step + slot)
        x = torch.randn(self.config.batch_size, 8, generator=generator)
        return (self.net(x)[:, 0] - x.sum(1)).square().mean() * self.bad.get(step, 1.0)


class ToyTask:
    """Wishes from the run's folder, and from what a test plans (`wish_at`)."""

    def __init__(self, config: TrainingConfig, run: RunFolder, accelerator: Accelerator) -> None:
        self.forwards = Forwards(config, accelerator)
        self.parameters = dict(self.forwards.named_parameters())
        self.is_sharded = False
        self.facts = {"the base": "toy"}
        self.run, self.accelerator = run, accelerator
        self.wish_at: dict[int, str] = {}
        self.looked: list[tuple[str, int]] = []
        self.asked = -1

    def wishes(self) -> frozenset[str]:
        self.asked += 1
        planned = {self.wish_at[self.asked]} if self.asked in self.wish_at else set()
        taken = {
            name for name in ("stop", "save", "sample") if self.accelerator.is_main_process and self.run.take(name)
        }
        return frozenset(planned | taken)

    def validate(self, step: int, average: dict[str, torch.Tensor]) -> None:
        self.looked.append(("validate", step))

    def sample(self, step: int, average: dict[str, torch.Tensor], *, again: bool) -> None:
        self.looked.append(("sample", step))


def toy_loop(run: RunFolder) -> StepLoop:
    """The loop over a run folder, not yet resumed."""
    config, accelerator = run.config(), Accelerator(cpu=True)
    return StepLoop(
        config=config,
        task=ToyTask(config, run, accelerator),
        run=run,
        log=EventLog(path=run.events_path, is_main=accelerator.is_main_process),
        accelerator=accelerator,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop = toy_loop(RunFolder(Path(sys.argv[1])))
    step = loop.resume()
    loop.tell(Started(step=step, num_steps=loop.config.num_steps, config_sha256=loop.config.sha256, pid=os.getpid()))
    kill_at = int(sys.argv[2]) if len(sys.argv) > 2 else -1
    if kill_at >= 0:
        loop.task.forwards.register_forward_pre_hook(
            lambda _module, inputs: os.kill(os.getpid(), signal.SIGKILL) if inputs[0] == kill_at else None
        )
    sys.exit(0 if loop.train() else 5)
