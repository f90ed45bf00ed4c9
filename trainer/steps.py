"""The loop of a run: counted in steps, the same to the bit however often it is killed and taken up again.

Nothing here has a memory of its own. The learning rate is a function of the step; what a forward sees is a function of
(seed, step, slot), where slot = micro * processes + rank; all that moves is in the checkpoint. So the same loss
sequence and the same bytes come out of an interrupted run, and one process with two accumulated forwards matches two
processes within rounding.
Several processes are accelerate's business. Only the first one writes; wishes are agreed between steps.
Knows no pictures, no networks and no method: a `Task` has those.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from studio.runs.config import TrainingConfig, differences
from studio.runs.events import CheckpointSaved, Paused, StepLogged, TrainingEvent, Warned
from studio.runs.folder import RunFolder
from trainer.checkpoint import load_latest, save_checkpoint
from trainer.event_log import EventLog
from trainer.memory import memory_in_use
from trainer.optimization import MAX_BAD_STEPS, Optimization

log = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3
PAUSE_POLL_SECONDS = 0.2
WISHES = ("stop", "save", "sample", "pause")


class Diverged(Exception):
    """Too many steps in a row gave no usable gradient; the text says since when."""


class NotSaved(Exception):
    """Checkpoints cannot be written any more; the text says why."""


class ConfigChanged(Exception):
    """The checkpoint belongs to another configuration, and nobody said that this is meant."""


class Task(Protocol):
    """What is trained. `forwards(step, micro)` is the mean loss of one forward of this process."""

    @property
    def forwards(self) -> nn.Module: ...

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]: ...

    @property
    def is_sharded(self) -> bool:
        """Whether its parameters are split over the processes already; else each has all of them."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What else must be the same when a run is taken up again, by what to call it."""
        ...

    def wishes(self) -> frozenset[str]:
        """What somebody asks for now, out of `WISHES`; asked of every process between two steps."""
        ...

    def validate(self, step: int, average: dict[str, torch.Tensor]) -> None:
        """Measure the averaged weights on held-out samples."""
        ...

    def sample(self, step: int, average: dict[str, torch.Tensor], *, again: bool) -> None:
        """Draw with the averaged weights; what is drawn already is drawn `again` only if asked."""
        ...


def rate_at(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step (counted from 0): a linear rise, then a cosine down to its final share."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    length = max(1, config.num_steps - config.warmup_steps)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - config.warmup_steps) / length))
    return config.learning_rate * (config.final_rate_share + (1 - config.final_rate_share) * cosine)


@dataclass(kw_only=True)
class StepLoop:
    """One process's part of a run. `step` is how many are done, `saved_step` the last acknowledged checkpoint's."""

    config: TrainingConfig
    task: Task
    run: RunFolder
    log: EventLog
    accelerator: Any
    step: int = field(default=0, init=False)
    saved_step: int = field(default=0, init=False)
    optimization: Optimization = field(init=False)
    _forwards: Any = field(init=False)
    _saved_at: float = field(default_factory=time.monotonic, init=False)
    _failed_saves: int = field(default=0, init=False)
    _durations: deque[float] = field(default_factory=lambda: deque(maxlen=10), init=False)
    _looked_at: int = field(default=-1, init=False)
    _left: frozenset[str] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        forwards = self.task.forwards
        self._forwards = forwards if self.task.is_sharded else self.accelerator.prepare(forwards)
        self.optimization = Optimization(
            parameters=self.task.parameters,
            weight_decay=self.config.weight_decay,
            max_norm=self.config.max_gradient_norm,
            ema_decay=self.config.ema_decay,
            accelerator=self.accelerator,
        )

    # --- taking up ---

    def resume(self) -> int:
        """Go on from the newest whole checkpoint, if there is one; the step it stands at. Raises `ConfigChanged`."""
        found = load_latest(self.run.checkpoints_dir, lambda words: self._warn("checkpoint", words))
        if found is None:
            return 0
        step, tensors, counters = found
        self._check_same(step, counters)
        self.optimization.load(tensors, counters)
        self.step = self.saved_step = step
        return step

    def _check_same(self, step: int, counters: Mapping[str, Any]) -> None:
        """A checkpoint belongs to one configuration and one base; fields that are newer than it do not count."""
        lines = differences(TrainingConfig.from_json(counters["config"]), self.config)
        if lines and not self.run.is_confirmed(self.config):
            raise ConfigChanged(
                f"The checkpoint at step {step} was made otherwise ({'; '.join(lines)}). Confirm the change in the "
                "Train tab, or duplicate the run with it."
            )
        for name, value in self.task.facts.items():
            if counters["facts"].get(name, value) != value:
                raise ConfigChanged(f"{name.capitalize()} is not what it was when the checkpoint at step {step} was "
                                    "made: put the old one back, or duplicate the run and begin anew.")  # fmt: skip
        if (before := counters["num_processes"]) != self.accelerator.num_processes:
            self._warn("checkpoint", f"The run was begun with {before} processes and goes on with "
                       f"{self.accelerator.num_processes}: a step now has as many times the samples.")  # fmt: skip

    # --- the loop ---

    def train(self) -> bool:
        """Train to the last step (True), or until asked to stop (False), and save. Raises `Diverged`, `NotSaved`."""
        while True:
            wishes = self._agreed()
            is_done = self.step >= self.config.num_steps
            if is_done or wishes & {"stop", "save"} or self._is_checkpoint_due(wishes):
                self._save(is_last=is_done or "stop" in wishes)
            if "stop" in wishes:
                return False
            self._look(wishes, is_done)
            if is_done:
                return True
            if "pause" in wishes:
                self._pause()
                continue
            self.one_step()

    def _look(self, wishes: frozenset[str], is_done: bool) -> None:
        """Measure and draw where the step says so, once a step."""
        if "sample" in wishes:
            self.task.sample(self.step, self.optimization.average, again=True)
        if self._looked_at == self.step:
            return
        self._looked_at = self.step
        if is_done or self.step % self.config.validate_every_steps == 0:
            self.task.validate(self.step, self.optimization.average)
        if is_done or self.step % self.config.sample_every_steps == 0:
            self.task.sample(self.step, self.optimization.average, again=False)

    def one_step(self) -> None:
        """One optimizer step, told; bad ones are counted. Raises `Diverged`."""
        began = time.monotonic()
        rate = rate_at(self.config, self.step)
        stride = self.optimization.step(self._backward, rate, self.step)
        self.step += 1
        self._durations.append(time.monotonic() - began)
        samples = self.config.batch_size * self.config.gradient_accumulation * self.accelerator.num_processes
        self.tell(StepLogged(
            step=self.step, loss=stride.loss, learning_rate=rate, gradient_norm=stride.gradient_norm,
            seconds=self._durations[-1], memory_bytes=memory_in_use(self.accelerator.device),
            samples_per_second=samples * len(self._durations) / max(sum(self._durations), 1e-9),
        ))  # fmt: skip
        if self.optimization.bad_steps:
            self._skip(stride.loss, stride.gradient_norm)

    def _backward(self) -> float:
        """All forwards of one step, accumulated; the mean loss over all processes."""
        count = self.config.gradient_accumulation
        total = torch.zeros((), device=self.accelerator.device)
        for micro in range(count):
            is_last = micro == count - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self._forwards):
                loss = self._forwards(self.step, micro)
                self.accelerator.backward(loss / count)
            total += loss.detach() / count
        return float(self.accelerator.reduce(total, "mean"))

    def _skip(self, loss: float, norm: float) -> None:
        count = self.optimization.bad_steps
        words = f"Step {self.step} was skipped: its loss was {loss:.4g}, its gradient's norm {norm:.4g}"
        if count > MAX_BAD_STEPS:
            raise Diverged(
                f"The loss was not usable {count} times in a row (now {loss:.4g} at step {self.step}), so the run "
                f"stopped on its last good checkpoint, step {self.saved_step}. Duplicate it with a lower learning rate "
                f"than {self.config.learning_rate:g}."
            )
        self._warn("nan", f"{words} ({count} of at most {MAX_BAD_STEPS} in a row).")

    def _pause(self) -> None:
        """Leave the device to somebody else between two steps."""
        self.tell(Paused(paused=True, step=self.step))
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        while True:
            time.sleep(PAUSE_POLL_SECONDS)
            if "pause" not in (wishes := self._agreed(taking=False)) or "stop" in wishes:
                break
        self.tell(Paused(paused=False, step=self.step))

    # --- checkpoints ---

    def _is_checkpoint_due(self, wishes: frozenset[str]) -> bool:
        if self.step == self.saved_step or self.optimization.bad_steps:
            return False  # nothing new, or nothing to be proud of
        return self.step % self.config.checkpoint_every_steps == 0 or "overdue" in wishes

    def _save(self, *, is_last: bool) -> None:
        """A checkpoint by the first process. A refusal is told, and the run goes on for a while. Raises `NotSaved`."""
        if self.step == self.saved_step:
            return
        if not self._all_ok(self.optimization.is_finite()):
            raise Diverged(f"The weights are no numbers any more at step {self.step}, so the run stopped on its last "
                           f"good checkpoint, step {self.saved_step}.")  # fmt: skip
        tensors = self.optimization.tensors(keep=self.log.is_main)
        reason = self._written(tensors) if self.log.is_main else ""
        self._saved_at = time.monotonic()
        if self._all_ok(not reason):
            self._failed_saves, self.saved_step = 0, self.step
            return
        self._failed_saves += 1
        kept = (
            f"the last good checkpoint is step {self.saved_step}" if self.saved_step else "there is no checkpoint yet"
        )
        words = f"The checkpoint of step {self.step} could not be written ({reason}); {kept}."
        if is_last or self._failed_saves >= MAX_FAILED_SAVES:
            raise NotSaved(f"{words} Free some disk space and resume the run.")
        self._warn("disk", f"{words} The run goes on and will try again.")

    def _written(self, tensors: dict[str, torch.Tensor]) -> str:
        """Write it; why not, if not."""
        began = time.monotonic()
        counters = {
            **self.optimization.counters(), "config": self.config.to_json(), "facts": dict(self.task.facts),
            "num_processes": self.accelerator.num_processes,
        }  # fmt: skip
        try:
            path = save_checkpoint(self.run.checkpoints_dir, self.step, tensors, counters,
                                   keep=self.config.num_checkpoints_kept)  # fmt: skip
        except OSError as error:
            return error.strerror or str(error)
        size = sum(file.stat().st_size for file in path.iterdir())
        self.tell(CheckpointSaved(step=self.step, file=path.name, seconds=time.monotonic() - began, bytes=size))
        return ""

    # --- between processes ---

    def _agreed(self, *, taking: bool = True) -> frozenset[str]:
        """What any process was asked for; wishes that pass are remembered until they are taken."""
        asked = set(self.task.wishes())
        minutes = self.config.checkpoint_every_minutes
        if minutes and self.log.is_main and time.monotonic() - self._saved_at > minutes * 60:
            asked.add("overdue")
        asked |= self._left
        names = (*WISHES, "overdue")
        flags = torch.tensor([float(name in asked) for name in names], device=self.accelerator.device)
        flags = self.accelerator.reduce(flags, "sum")
        agreed = frozenset(name for name, flag in zip(names, flags.tolist(), strict=True) if flag)
        self._left = frozenset() if taking else agreed - {"pause", "overdue"}
        return agreed

    def _all_ok(self, is_ok: bool) -> bool:
        flag = torch.tensor(float(not is_ok), device=self.accelerator.device)
        return float(self.accelerator.reduce(flag, "sum")) == 0

    # --- telling ---

    def tell(self, event: TrainingEvent) -> None:
        """An event of this run."""
        self.log.tell(event)

    def _warn(self, kind: str, words: str) -> None:
        if self.log.is_main:
            log.warning(words)
        self.tell(Warned(kind=kind, words=words, step=self.step))
