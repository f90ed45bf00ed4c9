"""What the step loop trains in a run: the method's loss on the run's data, measured and drawn with the average.

The baseline is taken before any weight moves: the base's own errors, its loss, its many-step pictures. Only the first
process measures and draws. Knows no optimizer and no checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from studio.runs.config import TrainingConfig
from studio.runs.events import Phase, SampleSaved, TrainingEvent, Validated, Warned
from studio.runs.folder import RunFolder
from studio.runs.lease import is_wanted
from studio.storage import write_whole
from trainer.data import Batch, TrainingData
from trainer.event_log import EventLog
from trainer.method import Measured, Method, seeded
from trainer.networks import Networks
from trainer.sampling import Sampler, Spread
from trainer.stopping import Stopping
from trainer.students import Student

log = logging.getLogger(__name__)
HELD_OUT_SEED = 0
_TEACHER = "teacher.json"

Result = TypeVar("Result")


class Forwards(nn.Module):
    """One forward of the run as a module, so that accelerate can wrap it: `(step, micro)` -> mean loss."""

    def __init__(self, config: TrainingConfig, student: Any, method: Method, data: TrainingData, rank: int,
                 world: int) -> None:  # fmt: skip
        super().__init__()
        self.student = student
        self.config, self.method, self.data, self.rank, self.world = config, method, data, rank, world

    def forward(self, step: int, micro: int) -> torch.Tensor:
        """Everything random in it is a function of (seed, step, slot)."""
        batch = self.data.batch(self.method.data_step(step), self.rank, self.world, micro)
        slot = micro * self.world + self.rank
        return self.method.loss(batch, step, seeded(self.config.seed, step, slot), slot)


@dataclass(kw_only=True, eq=False)
class RunTask:
    """One process's part of a run; `trainer.steps.Task`."""

    config: TrainingConfig
    run: RunFolder
    log: EventLog
    networks: Networks
    student: Student
    method: Method
    data: TrainingData
    stopping: Stopping
    rank: int = 0
    world: int = 1
    forwards: nn.Module = field(init=False)
    facts: dict[str, str] = field(init=False)
    measured: Measured = field(init=False)
    sampler: Sampler = field(init=False)
    errors: tuple[float, ...] = field(default=(), init=False)
    loss: float | None = field(default=None, init=False)
    first_loss: float = field(init=False)

    def __post_init__(self) -> None:
        self.forwards = Forwards(self.config, self.student.module, self.method, self.data, self.rank, self.world)
        self.parameters = self.student.trainable()
        self.facts = {
            "the base's UNet": self.networks.base_sha256,
            "the base's VAE": self.networks.vae_sha256,
            "the base's text encoder": self.networks.text_sha256,
        }

    @property
    def is_sharded(self) -> bool:
        """Whether the student is split over the processes, so that asking it anything takes all of them."""
        return self.student.is_sharded

    @property
    def _takes_part(self) -> bool:
        return self.log.is_main or self.is_sharded

    def prepare(self) -> None:
        """Before any weight moves: held-out samples with their ends, the base's loss, the teacher's pictures."""
        held_out = self.data.held_out(self.config.num_held_out)
        enough = in_every_window(held_out, self.config.num_time_windows)
        self.tell(Phase(words="measuring the base on held-out pictures"))
        self.measured = self.method.held_out(enough, seeded(HELD_OUT_SEED, 0, 0))
        self.first_loss = self.method.held_out_loss(self.method.network, self.measured)
        self.sampler = Sampler.of(self.config, self.networks, held_out)
        for words in (*self.data.warnings, *self.method.notes):
            self._warn("data" if words in self.data.warnings else "note", words, 0)
        if self.log.is_main and not (self._teacher_spread() and (self.run.samples_dir / _file(0, 0)).is_file()):
            self._draw_teacher()

    # --- what the loop asks ---

    def wishes(self) -> frozenset[str]:
        """Requests lie in the run's folder for the first process; a signal may come to any."""
        asked = {"stop"} if self.stopping.is_asked else set()
        if self.log.is_main:
            asked |= {name for name in ("stop", "save", "sample") if self.run.take(name)}
            asked |= {"pause"} if is_wanted(self.run) else set()
        return frozenset(asked)

    def validate(self, step: int, average: dict[str, torch.Tensor]) -> None:
        """Held-out errors of the average, beside the base's own."""
        if not self._takes_part:
            return
        with self.student.wearing(average):
            self.errors = tuple(self.method.endpoint_errors(self.method.network, self.measured))
            self.loss = self.method.held_out_loss(self.method.network, self.measured)
        self.tell(Validated(step=step, endpoint_errors=self.errors, untrained=self.measured.untrained, loss=self.loss))

    def sample(self, step: int, average: dict[str, torch.Tensor], *, again: bool) -> None:
        """A grid for each number of steps, and the alarm."""
        files = {steps: _file(step, steps) for steps in self.config.sample_steps}
        wanted = {steps: file for steps, file in files.items() if again or not self._is_there(file)}
        if self.is_sharded:
            wanted = files  # what is there already only one of them can see
        if not self._takes_part or not wanted:
            return
        self.tell(Phase(words="drawing samples"))
        with self.student.wearing(average):
            for steps, file in wanted.items():
                latents = self._with_less(lambda n, steps=steps: self.sampler.student(self.method.network, steps,
                                                                                     at_once=n), step)  # fmt: skip
                if latents is None:
                    return
                self._keep(latents, step, steps, file)
                if steps == max(self.config.sample_steps):
                    self._look(latents, step)

    # --- drawing ---

    def _draw_teacher(self) -> None:
        self.tell(Phase(words="drawing the teacher's pictures"))
        teacher = self.student.teacher()
        latents = self._with_less(lambda n: self.sampler.teacher(teacher, at_once=n), 0)
        if latents is not None:
            spread = Spread.of(latents)
            self._write(_TEACHER, json.dumps({"deviation": spread.deviation, "likeness": spread.likeness}).encode(), 0)
            self._keep(latents, 0, 0, _file(0, 0))

    def _keep(self, latents: torch.Tensor, step: int, steps: int, file: str) -> None:
        if self._write(file, self.sampler.picture(latents), step):
            self.tell(SampleSaved(step=step, num_steps=steps, file=file, prompts=self.sampler.prompts))

    def _write(self, file: str, content: bytes, step: int) -> bool:
        if not self.log.is_main:
            return False
        try:
            write_whole(self.run.samples_dir / file, content, sync=False)
        except OSError as error:
            self._warn("disk", f"The sample {file} could not be written ({error.strerror or error}).", step)
            return False
        return True

    def _look(self, latents: torch.Tensor, step: int) -> None:
        """Whether they tend to noise; the untrained student's are nobody's fault."""
        teacher = self._teacher_spread()
        if step and teacher is not None and (words := Spread.of(latents).complaint(teacher)):
            self._warn("noise", f"{words} A lower learning rate, or the head ddim_eps, usually helps.", step)

    def _teacher_spread(self) -> Spread | None:
        try:
            return Spread(**json.loads((self.run.samples_dir / _TEACHER).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _with_less(self, draw: Callable[[int | None], Result], step: int) -> Result | None:
        """Where memory runs out, once more one at a time, and then not at all: samples are not worth a run."""
        for at_once in (None, 1):
            try:
                return draw(at_once)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        self._warn("memory", "Memory ran out while drawing samples, even one at a time: this grid is left out.", step)
        return None

    def _is_there(self, file: str) -> bool:
        return (self.run.samples_dir / file).is_file()

    # --- telling ---

    def tell(self, event: TrainingEvent) -> None:
        """An event of this run."""
        self.log.tell(event)

    def _warn(self, kind: str, words: str, step: int) -> None:
        log.warning(words)
        self.tell(Warned(kind=kind, words=words, step=step))


def in_every_window(batch: Batch, num_time_windows: int) -> Batch:
    """Held-out samples so often that every window gets as many, and two at least; each time with other noise."""
    count = num_time_windows * max(2, -(-len(batch) // num_time_windows))
    rows = torch.arange(count) % len(batch)
    condition = {key: value[rows.to(value.device)] for key, value in batch.condition.items()}
    return replace(
        batch, latents=batch.latents[rows.to(batch.latents.device)], condition=condition,
        captions=tuple(batch.captions[row] for row in rows.tolist()),
    )  # fmt: skip


def _file(step: int, num_steps: int) -> str:
    return f"{step:08d}-{num_steps}.png"
