"""The loop for a budget of minutes, with which the built-in models are made; runs are counted in steps (`steps`).

A `Task` says what is trained and what a step's loss is; the loop knows nothing of pictures or diffusion. The learning
rate warms up over steps and falls along a cosine over the budget (wall clock spent, kept across resumes), so that a run
of any length ends well annealed. The first step of a session is off the clock: networks may be compiled in it. Master
weights, moments and EMA are fp32; the task autocasts its own forward.
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
from trainer.optimization import MAX_BAD_STEPS, Optimization

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_SECONDS = 120
LOG_EVERY_SECONDS = 20


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
    optimization = Optimization(
        parameters=parameters,
        betas=schedule.betas,
        weight_decay=schedule.weight_decay,
        max_norm=schedule.max_norm,
        ema_decay=schedule.ema_decay,
    )
    progress = _resume(folder, optimization)
    last_saved = last_logged = time.monotonic()
    clock: float | None = None
    while progress.seconds < schedule.minutes * 60:
        _step(task, optimization, schedule, progress)
        now = time.monotonic()
        progress.seconds += 0 if clock is None else now - clock
        clock = now
        if now - last_logged > LOG_EVERY_SECONDS:
            report(progress)
            last_logged = now
        if now - last_saved > CHECKPOINT_EVERY_SECONDS:
            _save(folder, progress, optimization)
            last_saved = now
    _save(folder, progress, optimization)
    report(progress)
    return optimization.average


def _step(task: Task, optimization: Optimization, schedule: Schedule, progress: Progress) -> None:
    """One optimizer step. Raises `FloatingPointError` when too many in a row were skipped."""
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + progress.step)

    def backward() -> float:
        loss = task.loss(progress.step, generator)
        loss.backward()
        return float(loss.detach())

    rate = schedule.rate(progress.step, progress.seconds / (schedule.minutes * 60))
    stride = optimization.step(backward, rate, progress.step)
    if not stride.is_good:
        log.warning("step %d skipped: loss %s, gradient norm %s", progress.step, stride.loss, stride.gradient_norm)
    if optimization.bad_steps > MAX_BAD_STEPS:
        raise FloatingPointError(
            f"the loss was not finite {optimization.bad_steps} times in a row at step {progress.step}"
        )
    progress.loss = optimization.smoothed
    progress.step += 1


def _save(folder: Path, progress: Progress, optimization: Optimization) -> None:
    counters = {**optimization.counters(), "seconds": progress.seconds}
    save_checkpoint(folder, progress.step, optimization.tensors(), counters)


def _resume(folder: Path, optimization: Optimization) -> Progress:
    found = load_latest(folder)
    if found is None:
        return Progress()
    step, tensors, counters = found
    optimization.load(tensors, counters)
    return Progress(step=step, seconds=counters["seconds"], loss=counters["loss"])
