"""The methods with a teacher, bound to a base and a student.

PeRFlow and Rectified Diffusion solve whole windows, from noised pictures or along the teacher's way from noise, and use
each in `pair_reuse` steps at fresh times; LCM and PCM take one teacher step a sample. What a run may rely on is written
in `method`. Windows are stratified: every batch holds each about equally often, a row of batches exactly so, in shapes
that never change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from studio.perflow.windows import TimeWindows
from studio.runs.config import TrainingConfig
from trainer.consistency import Consistency
from trainer.facts import drawn_guidance
from trainer.method import Batch, Measured, Stateless, pieces_of, seeded
from trainer.networks import Condition, Networks
from trainer.objectives import PeRFlow, Solved, TimeDraw
from trainer.probe import NUM_SAMPLES_PER_WINDOW, probe
from trainer.rectified import Rectified
from trainer.students import Student
from trainer.teacher import Network, Solver, guided, in_pieces, one_below

REFERENCE_STEPS = 24
CONSISTENCY_REFERENCE_STEPS = 32


@dataclass(kw_only=True, eq=False)
class WindowMethod(Stateless):
    """PeRFlow and Rectified Diffusion."""

    config: TrainingConfig
    networks: Networks
    student: Student
    _pool: dict[int, tuple[Solved, ...]] = field(default_factory=dict, init=False)
    _pool_step: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        config, is_fixed = self.config, self.config.guidance_mode == "fixed"
        self.network: Network = self.student.network()
        scale = config.trained_guidance if is_fixed else 1.0
        self._teacher = guided(self.student.teacher(), self.networks.nothing, scale)
        self._solver: Solver | tuple[Solver, ...] | None = (
            None if config.teacher_solver == "probe" else config.teacher_solver
        )
        kind, head = (
            (PeRFlow, config.prediction_type) if config.method == "perflow" else (Rectified, self.networks.head)
        )
        self.objective = kind(
            schedule=self.networks.schedule,
            windows=TimeWindows(num_time_windows=config.num_time_windows),
            head=head,
            teacher_head=self.networks.head,
            num_solver_steps=config.num_solver_steps,
            error_at=config.error_at,
            times=TimeDraw(at_start=config.share_at_start, at_grid=config.share_at_grid, grid_steps=config.grid_steps),
        )

    def data_step(self, step: int) -> int:
        return step - step % self.config.steps_per_batch

    def loss(self, batch: Batch, step: int, generator: torch.Generator, slot: int = 0) -> torch.Tensor:
        solved = self._solved(batch, self.data_step(step), slot)
        return self.objective.loss(self.network, solved[step % self.config.steps_per_batch % len(solved)], generator)

    def _solved(self, batch: Batch, step: int, slot: int) -> tuple[Solved, ...]:
        """What the steps of one batch take in turn."""
        if self._solver is None:
            raise RuntimeError("loss: expected held_out before the first loss; it probes the teacher's solvers.")
        if step != self._pool_step:
            self._pool, self._pool_step = {}, step
        if slot not in self._pool:
            first = (step // self.config.steps_per_batch + slot) * len(batch.latents)
            objective = replace(self.objective, solver=self._solver)
            solve = self._walk if self.config.window_starts == "teacher" else self._solve_once
            self._pool[slot] = solve(batch, first, seeded(self.config.seed, step, slot), objective)
        return self._pool[slot]

    def _walk(self, batch: Batch, first: int, generator: torch.Generator, objective: PeRFlow) -> tuple[Solved, ...]:
        """The teacher's ways from noise, dealt out so that each part holds every sample once and all windows."""
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents)
        return dealt(objective.walk(self._teacher, noise, self._asked(batch)), first, batch.condition)

    def _solve_once(
        self, batch: Batch, first: int, generator: torch.Generator, objective: PeRFlow
    ) -> tuple[Solved, ...]:
        return (self._solve(batch, first, generator, objective),)

    def _solve(self, batch: Batch, first: int, generator: torch.Generator, objective: PeRFlow) -> Solved:
        """The batch's windows, one a sample in turn from the `first`."""
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents)
        window = (torch.arange(len(noise)) + first) % objective.windows.num_time_windows
        pairs = objective.solve(self._teacher, batch.latents, noise, window, self._asked(batch))
        return replace(pairs, condition=batch.condition)

    def _asked(self, batch: Batch) -> Condition:
        """What the teacher is asked with: at fixed guidance always the caption, else what the student is."""
        full = getattr(batch, "full_condition", None) if self.config.guidance_mode == "fixed" else None
        return batch.condition if full is None else full

    def held_out(self, batch: Batch, generator: torch.Generator) -> Measured:
        """Ends by many DDIM steps, so that the error is the student's and not the training solver's."""
        if self._solver is None:
            self._probe(batch)
        narrowest = min(start - end for start, end in pairwise(self.objective.windows.edges))
        steps = min(max(REFERENCE_STEPS, 2 * self.config.num_solver_steps), narrowest // 2)
        fine = replace(self.objective, solver="ddim", num_solver_steps=steps)
        pieces = tuple(
            self._solve(piece, first, generator, fine) for first, piece in pieces_of(batch, self.config.batch_size)
        )
        plain = PeRFlow(schedule=fine.schedule, windows=fine.windows, head=self.networks.head)
        everything = joined(pieces)
        asked = replace(everything, condition=self._asked(batch))
        untrained = plain.endpoint_errors(in_pieces(one_below(self._teacher), self.config.batch_size), asked)
        return Measured(pieces=pieces, untrained=tuple(untrained.tolist()))

    def _probe(self, batch: Batch) -> None:
        count = NUM_SAMPLES_PER_WINDOW * self.config.num_time_windows
        rows = torch.arange(count) % len(batch.latents)
        clean = batch.latents[rows.to(batch.latents.device)]
        condition = {key: value[rows.to(value.device)] for key, value in self._asked(batch).items()}
        noise = torch.randn(clean.shape, generator=seeded(0, 0, 1)).to(clean)
        window = torch.arange(count) % self.config.num_time_windows
        found = probe(self._teacher, self.objective, clean, noise, window, condition)
        self._solver, self.notes = found.solvers, (found.words,)

    def endpoint_errors(self, network: Network, measured: Measured) -> list[float]:
        return self.objective.endpoint_errors(
            in_pieces(network, self.config.batch_size), joined(measured.pieces)
        ).tolist()

    @torch.no_grad()
    def held_out_loss(self, network: Network, measured: Measured) -> float:
        losses = [self.objective.loss(network, pairs, seeded(0, i, 0)) for i, pairs in enumerate(measured.pieces)]
        return float(torch.stack(losses).mean())


@dataclass(kw_only=True, eq=False)
class ConsistencyMethod(Stateless):
    """LCM and PCM. Guidance is drawn up to `trained_guidance`, and the middle of that is what held-out ends have."""

    config: TrainingConfig
    networks: Networks
    student: Student

    def __post_init__(self) -> None:
        lowest, highest = drawn_guidance(self.config)
        self.network: Network = self.student.network()
        self._teacher = self.student.teacher()
        self._middle = guided(self._teacher, self.networks.nothing, (lowest + highest) / 2)
        self.objective = Consistency(
            schedule=self.networks.schedule,
            windows=TimeWindows(num_time_windows=self.config.num_time_windows),
            phased=self.config.method == "pcm",
            head=self.networks.head,
            guidance=(lowest, highest),
        )

    def loss(self, batch: Batch, step: int, generator: torch.Generator, slot: int = 0) -> torch.Tensor:  # noqa: ARG002
        return self._loss(self.network, batch, generator)

    def _loss(self, network: Network, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        part = self.objective.stretch(self._teacher, self.networks.nothing, batch.latents, batch.condition, generator)
        return self.objective.loss(network, part)

    def held_out(self, batch: Batch, generator: torch.Generator) -> Measured:
        """Ends by the guided teacher's ODE; the samples themselves are kept for the loss."""
        parts = []
        for first, piece in pieces_of(batch, self.config.batch_size):
            noise = torch.randn(piece.latents.shape, generator=generator).to(piece.latents)
            window = (torch.arange(len(noise)) + first) % self.config.num_time_windows
            solved = self.objective.solve(
                self._middle, piece.latents, noise, window, piece.condition, CONSISTENCY_REFERENCE_STEPS
            )
            parts.append((piece, solved))
        base = in_pieces(self._middle, self.config.batch_size)
        untrained = self.objective.direct_errors(base, joined(tuple(solved for _, solved in parts)))
        return Measured(pieces=tuple(parts), untrained=tuple(untrained.tolist()))

    def endpoint_errors(self, network: Network, measured: Measured) -> list[float]:
        pairs = joined(tuple(solved for _, solved in measured.pieces))
        return self.objective.endpoint_errors(in_pieces(network, self.config.batch_size), pairs).tolist()

    @torch.no_grad()
    def held_out_loss(self, network: Network, measured: Measured) -> float:
        losses = [self._loss(network, piece, seeded(0, place, 0)) for place, (piece, _) in enumerate(measured.pieces)]
        return float(torch.stack(losses).mean())


def dealt(way: tuple[Solved, ...], first: int, condition: Condition) -> tuple[Solved, ...]:
    """Of K solved windows `[B]` K parts `[B]`: in part j sample i has window (first + i + j) mod K."""
    rows, count = torch.arange(len(way[0].z_s)), len(way)
    starts, ends = torch.stack([each.z_s for each in way]), torch.stack([each.z_e for each in way])
    windows = [(first + rows + j) % count for j in range(count)]
    return tuple(Solved(z_s=starts[k, rows], z_e=ends[k, rows], window=k, condition=condition) for k in windows)


def joined(pieces: tuple[Solved, ...]) -> Solved:
    """Several batches of solved windows as one."""
    return Solved(
        z_s=torch.cat([each.z_s for each in pieces]),
        z_e=torch.cat([each.z_e for each in pieces]),
        window=torch.cat([each.window for each in pieces]),
        condition={key: torch.cat([each.condition[key] for each in pieces]) for key in pieces[0].condition},
    )
