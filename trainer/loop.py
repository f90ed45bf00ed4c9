"""One optimisation loop for everything this project trains: a budget of minutes, EMA, checkpoints, exact data order.

A `Task` says what is trained and what a step's loss is; the loop knows nothing of pictures or diffusion. The learning
rate warms up over steps and falls along a cosine over the budget (wall clock spent, kept across resumes), so that a run
of any length ends well annealed. Master weights, moments and EMA are fp32; the task autocasts its own forward.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from trainer.checkpoint import load_latest, save_checkpoint

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_SECONDS = 120
LOG_EVERY_SECONDS = 20
MAX_BAD_STEPS = 3


class Task(Protocol):
    """What the loop trains. `loss` must draw all its randomness from the generator, which is seeded by (seed, step)."""

    module: nn.Module

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """The mean loss of this step's batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how hot. `minutes` counts training time over all sessions of the run."""

    minutes: float
    learning_rate: float
    warmup_steps: int = 100
    final_share: float = 0.05
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    max_norm: float = 1.0
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.99)

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at a step, `progress` in [0, 1] of the budget."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))
        return (
            self.learning_rate
            * min(1.0, (step + 1) / self.warmup_steps)
            * (self.final_share + (1 - self.final_share) * cosine)
        )


@dataclass(kw_only=True)
class Progress:
    """Where a run stands; `loss` is smoothed over about 50 steps."""

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan


def train(
    task: Task, schedule: Schedule, folder: Path, report: Callable[[Progress], None] = lambda _: None
) -> dict[str, torch.Tensor]:
    """Train until the budget is spent, going on from `folder` if it holds a checkpoint; returns the EMA weights.

    `report` is called about every 20 seconds. A step whose loss or gradient is not finite is skipped; after three in a
    row `FloatingPointError` is raised and the last good checkpoint stays the latest.
    """
    parameters = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=schedule.learning_rate,
        betas=schedule.betas,
        weight_decay=schedule.weight_decay,
        foreach=True,
    )
    average = {name: p.detach().clone() for name, p in parameters.items()}
    progress = _resume(folder, parameters, average, optimizer)
    bad_steps = 0
    last_saved = last_logged = clock = time.monotonic()
    while progress.seconds < schedule.minutes * 60:
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + progress.step)
        rate = schedule.rate(progress.step, progress.seconds / (schedule.minutes * 60))
        value = _step(task, optimizer, parameters, schedule, rate, progress.step, generator)
        bad_steps = 0 if math.isfinite(value) else bad_steps + 1
        if bad_steps > MAX_BAD_STEPS:
            raise FloatingPointError(f"the loss was not finite {bad_steps} times in a row at step {progress.step}")
        decay = min(schedule.ema_decay, (progress.step + 1) / (progress.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        if math.isfinite(value):
            progress.loss = value if math.isnan(progress.loss) else 0.98 * progress.loss + 0.02 * value
        progress.step += 1
        now = time.monotonic()
        progress.seconds += now - clock
        clock = now
        if now - last_logged > LOG_EVERY_SECONDS:
            report(progress)
            last_logged = now
        if now - last_saved > CHECKPOINT_EVERY_SECONDS:
            _save(folder, progress, parameters, average, optimizer)
            last_saved = now
    _save(folder, progress, parameters, average, optimizer)
    report(progress)
    return average


def _step(task: Task, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], schedule: Schedule,
          rate: float, step: int, generator: torch.Generator) -> float:  # fmt: skip
    """One optimizer step; the loss, or nan if the step was skipped."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = task.loss(step, generator)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters.values(), schedule.max_norm)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        log.warning("step %d skipped: loss %s, gradient norm %s", step, float(loss.detach()), float(norm))
        return math.nan
    optimizer.step()
    return float(loss.detach())


def _save(folder: Path, progress: Progress, parameters, average, optimizer) -> None:
    tensors = {f"model.{name}": p for name, p in parameters.items()}
    tensors |= {f"ema.{name}": p for name, p in average.items()}
    for name, p in parameters.items():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    save_checkpoint(folder, progress.step, tensors, {"seconds": progress.seconds, "loss": progress.loss})


def _resume(folder: Path, parameters, average, optimizer) -> Progress:
    found = load_latest(folder)
    if found is None:
        return Progress()
    step, tensors, counters = found
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"model.{name}"])
            average[name].copy_(tensors[f"ema.{name}"])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{key}.{name}" in tensors]
            optimizer.state[p] = {key: _placed(tensors[f"optimizer.{key}.{name}"], key, p) for key in keys}
    return Progress(step=step, seconds=counters["seconds"], loss=counters["loss"])


def _placed(value: torch.Tensor, key: str, like: torch.Tensor) -> torch.Tensor:
    """Moments live where the parameter lives and in its memory format; Adam's step counter stays on the CPU."""
    return value if key == "step" else torch.empty_like(like).copy_(value)
