"""From a configuration to what a step's loss is: the objectives bound to a base, a teacher and a student.

What a run may rely on:

* `loss(batch, step, generator, slot)` draws from `generator` and from (config.seed, step, slot) alone. `slot` numbers
  the forwards of one optimizer step over all processes (micro * world + rank), so that one process with two
  accumulated forwards sees what two processes see. Nothing needs to be saved for an exact resume: `state()` is empty.
* `data_step(step)` is the step whose batch belongs here: with `pair_reuse` several steps share their solved windows,
  which are solved again, to the bit, when a resumed run begins in the middle.
* A batch's `condition` has captions dropped; `full_condition`, where it has one, has none dropped (a teacher at fixed
  guidance is always asked with the caption). `control` in the condition is a ControlNet's picture.
* `network` is the student as a callable. `endpoint_errors(network, measured)` has one number a window, of the relative
  error at the window's end (none for methods without a teacher); `held_out_loss` is the loss at fixed noise and times.
* Learn the base's own error from `measured.untrained`: it is DDIM with one step a window whatever head is trained.

Knows no files, no optimizer and no events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import torch

from studio.perflow.windows import TimeWindows
from studio.runs.config import TrainingConfig
from trainer.networks import Condition, Networks
from trainer.objectives import PeRFlow, Solved, TimeDraw, diffusion_loss
from trainer.students import Student
from trainer.teacher import Network, guided

REFERENCE_STEPS = 24


class Batch(Protocol):
    """What the data hand over; see the module's text."""

    @property
    def latents(self) -> torch.Tensor:
        """Scaled, `[B, C, h, w]`, on the device."""
        ...

    @property
    def condition(self) -> Condition:
        """One row a sample, captions dropped."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Held-out samples with what a student is measured against, and how the base itself does."""

    pieces: tuple[Any, ...]
    untrained: tuple[float, ...] = ()


class Method(Protocol):
    """A training method bound to its networks."""

    network: Network

    def data_step(self, step: int) -> int:
        """The step whose batch `loss` wants at this step."""
        ...

    def loss(self, batch: Batch, step: int, generator: torch.Generator, slot: int = 0) -> torch.Tensor:
        """The mean loss of one forward."""
        ...

    def held_out(self, batch: Batch, generator: torch.Generator) -> Measured:
        """Prepare held-out samples; costs a fine solution of each sample's window."""
        ...

    def endpoint_errors(self, network: Network, measured: Measured) -> list[float]:
        """Per window, relative RMSE at its end; empty where there is no teacher."""
        ...

    def held_out_loss(self, network: Network, measured: Measured) -> float:
        """The method's loss on held-out samples, at noise and times that never change."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What must be kept for an exact resume: nothing, everything here is a function of (seed, step, slot)."""
        ...

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of `state`."""
        ...


def method_of(config: TrainingConfig, networks: Networks, student: Student) -> Method:
    """The method a configuration names."""
    if config.method == "perflow":
        return WindowMethod(config=config, networks=networks, student=student, objective=_perflow(config, networks))
    if config.method == "diffusion":
        return DiffusionMethod(config=config, networks=networks, network=student.network())
    raise NotImplementedError(config.method)


def _perflow(config: TrainingConfig, networks: Networks) -> PeRFlow:
    return PeRFlow(
        schedule=networks.schedule,
        windows=TimeWindows(num_time_windows=config.num_time_windows),
        head=config.prediction_type,
        teacher_head=networks.head,
        num_solver_steps=config.num_solver_steps,
        times=TimeDraw(at_start=config.share_at_start, at_grid=config.share_at_grid, grid_steps=config.grid_steps),
    )


class _Stateless:
    """For methods whose every draw is a function of (seed, step, slot)."""

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        if state:
            raise ValueError(f"load_state: expected nothing, got {sorted(state)[:3]}.")


@dataclass(kw_only=True, eq=False)
class WindowMethod(_Stateless):
    """PeRFlow: windows solved by the teacher, each used at fresh times in `pair_reuse` steps.

    Windows are stratified: every batch holds each about equally often, and over batches exactly so.
    """

    config: TrainingConfig
    networks: Networks
    student: Student
    objective: PeRFlow
    _pool: dict[int, Solved] = field(default_factory=dict, init=False)
    _pool_step: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        self.network: Network = self.student.network()
        self._teacher = _guided_teacher(self.config, self.networks, self.student)

    def data_step(self, step: int) -> int:
        return step - step % self.config.pair_reuse

    def loss(self, batch: Batch, step: int, generator: torch.Generator, slot: int = 0) -> torch.Tensor:
        return self.objective.loss(self.network, self._solved(batch, self.data_step(step), slot), generator)

    def _solved(self, batch: Batch, step: int, slot: int) -> Solved:
        if step != self._pool_step:
            self._pool, self._pool_step = {}, step
        if slot not in self._pool:
            count = len(batch.latents)
            first = (step // self.config.pair_reuse + slot) * count
            self._pool[slot] = self._solve(batch, first, seeded(self.config.seed, step, slot), self.objective)
        return self._pool[slot]

    def _solve(self, batch: Batch, first: int, generator: torch.Generator, objective: PeRFlow) -> Solved:
        """The batch's windows, one a sample in turn from the `first`."""
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents)
        window = (torch.arange(len(noise)) + first) % objective.windows.num_time_windows
        is_fixed = self.config.guidance_mode == "fixed"
        asked = getattr(batch, "full_condition", None) if is_fixed else None
        pairs = objective.solve(self._teacher, batch.latents, noise, window, asked or batch.condition)
        return replace(pairs, condition=batch.condition)

    def held_out(self, batch: Batch, generator: torch.Generator) -> Measured:
        """Ends by many DDIM steps, so that the error is the student's and not the training solver's."""
        fine = replace(self.objective, solver="ddim", num_solver_steps=self._reference_steps())
        pieces = tuple(
            self._solve(piece, first, generator, fine) for first, piece in _pieces(batch, self.config.batch_size)
        )
        native = replace(self.objective, head=self.networks.head)
        base = self.student.teacher()

        def as_student(z: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
            return base(z, timesteps - 1, condition)

        return Measured(pieces=pieces, untrained=tuple(native.endpoint_errors(as_student, joined(pieces)).tolist()))

    def _reference_steps(self) -> int:
        widths = [
            start - end
            for start, end in map(self.objective.windows.bounds, range(len(self.objective.windows.edges) - 1))
        ]
        return min(max(REFERENCE_STEPS, 2 * self.config.num_solver_steps), min(widths) // 2)

    def endpoint_errors(self, network: Network, measured: Measured) -> list[float]:
        return self.objective.endpoint_errors(network, joined(measured.pieces)).tolist()

    @torch.no_grad()
    def held_out_loss(self, network: Network, measured: Measured) -> float:
        losses = [
            self.objective.loss(network, pairs, seeded(0, place, 0)) for place, pairs in enumerate(measured.pieces)
        ]
        return float(torch.stack(losses).mean())


@dataclass(kw_only=True, eq=False)
class DiffusionMethod(_Stateless):
    """The base's own loss (epsilon or v), at stratified timesteps; with a ControlNet's network, a ControlNet's."""

    config: TrainingConfig
    networks: Networks
    network: Network

    def data_step(self, step: int) -> int:
        return step

    def loss(self, batch: Batch, step: int, generator: torch.Generator, slot: int = 0) -> torch.Tensor:  # noqa: ARG002
        return self._loss(self.network, batch, generator)

    def _loss(self, network: Network, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents)
        timesteps = stratified(len(noise), self.networks.schedule.num_train_timesteps, generator)
        return diffusion_loss(network, self.networks.schedule, batch.latents, noise, timesteps, batch.condition,
                              self.config.min_snr or None, self.networks.head)  # fmt: skip

    def held_out(self, batch: Batch, generator: torch.Generator) -> Measured:  # noqa: ARG002
        return Measured(pieces=tuple(piece for _, piece in _pieces(batch, self.config.batch_size)))

    def endpoint_errors(self, network: Network, measured: Measured) -> list[float]:  # noqa: ARG002
        return []

    @torch.no_grad()
    def held_out_loss(self, network: Network, measured: Measured) -> float:
        losses = [self._loss(network, piece, seeded(0, place, 0)) for place, piece in enumerate(measured.pieces)]
        return float(torch.stack(losses).mean())


def _guided_teacher(config: TrainingConfig, networks: Networks, student: Student) -> Network:
    """sync: the teacher as it is; fixed: at its guidance scale."""
    scale = config.trained_guidance if config.guidance_mode == "fixed" else 1.0
    return guided(student.teacher(), networks.nothing, scale)


def seeded(seed: int, step: int, slot: int) -> torch.Generator:
    """A generator that is a function of its arguments and unlike any neighbour's."""
    digest = hashlib.sha256(f"{seed} {step} {slot}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def stratified(count: int, highest: int, generator: torch.Generator) -> torch.Tensor:
    """`count` timesteps, one from each equal share of 1 to `highest`."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return 1 + (strata * highest).long().clamp(max=highest - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    latents: torch.Tensor
    condition: Condition
    full_condition: Condition | None


def _pieces(batch: Batch, size: int) -> Iterator[tuple[int, _Piece]]:
    """A large batch in forwards of at most `size`, with the number of the first sample."""
    full = getattr(batch, "full_condition", None)
    for first in range(0, len(batch.latents), size):
        rows = slice(first, first + size)
        yield (
            first,
            _Piece(
                latents=batch.latents[rows],
                condition={key: value[rows] for key, value in batch.condition.items()},
                full_condition=None if full is None else {key: value[rows] for key, value in full.items()},
            ),
        )


def joined(pieces: tuple[Solved, ...]) -> Solved:
    """Several batches of solved windows as one."""
    return Solved(
        z_s=torch.cat([each.z_s for each in pieces]),
        z_e=torch.cat([each.z_e for each in pieces]),
        window=torch.cat([each.window for each in pieces]),
        condition={key: torch.cat([each.condition[key] for each in pieces]) for key in pieces[0].condition},
    )
