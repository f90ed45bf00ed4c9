"""One arm: so many optimizer steps from the base, and at some of them how good the averaged student is.

Measured on held-out scenes, before the first step too:
* `endpoint_errors`, per window: relative RMSE at its end (studio.perflow's windows, so K of them);
* `paired`: relative latent RMSE to the teacher's `REFERENCE_STEPS`-step DDIM from the same noise, at N steps; it means
  the same for every K, head and method. Without guidance at every point, and at `FIXED_GUIDANCE` at both ends of the
  curve; a CFG-fixed arm has that in its weights, so it is always measured against the guided teacher.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.ablations.arms import FIXED_GUIDANCE, Arm
from benchmarks.drawing import NOISE_SEED, Bench, Contestant, noise_of
from benchmarks.measures import paired_error
from studio.runs.config import TrainingConfig
from studio.specs import AcceleratorSpec
from trainer.facts import facts_of
from trainer.loop import Schedule
from trainer.method import Method, seeded
from trainer.methods import method_of
from trainer.networks import Networks
from trainer.optimization import MAX_BAD_STEPS, Optimization
from trainer.students import Student
from trainer.tabletop.diffusion import LatentSet
from trainer.tabletop.distillation import Drawn

REFERENCE_STEPS = 200
NUM_HELD_OUT = 96
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
EMA_DECAY = 0.995
DDIM = Contestant(spec=AcceleratorSpec(id="ddim", title="DDIM", kind="none", sampler="ddim", families=("tabletop",)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """What all arms share: latents to train on and to measure on, and the teacher's pictures of a fixed noise."""

    assets: Path
    train: LatentSet
    held_out: LatentSet
    noise: torch.Tensor
    references: dict[float, torch.Tensor]
    base_sha256: str

    @classmethod
    def of(cls, assets: Path, cache: Path, train: LatentSet, held_out: LatentSet, num_noises: int) -> Ground:
        """The references are drawn once and kept in the cache, under the base's hash."""
        bench, noise = Bench(assets, num_noises), noise_of(num_noises)
        path = cache / f"references-{bench.worn.base_sha256[:16]}-{num_noises}-{REFERENCE_STEPS}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = {str(w): bench.draw(DDIM, REFERENCE_STEPS, w, noise) for w in (1.0, FIXED_GUIDANCE)}
            save_file(drawn, path)
        references = {float(name): value for name, value in load_file(path).items()}
        return cls(
            assets=assets, train=train, held_out=held_out, noise=noise, references=references,
            base_sha256=bench.worn.base_sha256,
        )  # fmt: skip


class Run:
    """An arm's student on a base of its own, with its optimizer."""

    def __init__(self, arm: Arm, ground: Ground) -> None:
        self.arm, self.ground, config = arm, ground, arm.config
        self.bench = Bench(ground.assets, len(ground.noise))
        self.base_sha256 = self.bench.worn.base_sha256
        networks = Networks(base=config.base, pipe=self.bench.pipe, device="cpu")
        self.student = Student.of(config, networks)
        self.method: Method = method_of(config, networks, self.student)
        self.measured = self.method.held_out(
            drawn(ground.held_out, config, NUM_HELD_OUT, seeded(NOISE_SEED, 0, 0)), seeded(NOISE_SEED, 0, 1)
        )
        self.schedule = Schedule(minutes=0, learning_rate=config.learning_rate, warmup_steps=config.warmup_steps)
        self.optimization = Optimization(parameters=self.student.trainable(), ema_decay=EMA_DECAY)
        facts = facts_of(config)
        sampler = AcceleratorSpec(
            id=arm.name, title=arm.name, kind="none", sampler=facts.sampler, families=("tabletop",)
        )
        self.contestant = Contestant(spec=sampler, facts=facts.delta)

    def points(self) -> Iterator[dict[str, Any]]:
        """What was measured, point by point, while it is trained; `seconds` are of training alone."""
        total, seconds = self.arm.config.num_steps, 0.0
        marks = sorted({round(share * total) for share in SHARES})
        for step in range(total + 1):
            if step in marks:
                yield {"step": step, "seconds": seconds, "loss": _plain(self.optimization.smoothed),
                       **self._measure(at_an_end=step in (0, total))}  # fmt: skip
            if step < total:
                start = time.monotonic()
                self._step(step)
                seconds += time.monotonic() - start

    def _step(self, step: int) -> None:
        config = self.arm.config
        batch = drawn(self.ground.train, config, config.batch_size, seeded(1 + config.seed, self._data_step(step), 0))

        def backward() -> float:
            loss = self.method.loss(batch, step, seeded(config.seed, step, 0))
            loss.backward()
            return float(loss.detach())

        self.student.module.train()
        self.optimization.step(backward, self.schedule.rate(step, step / config.num_steps), step)
        if self.optimization.bad_steps > MAX_BAD_STEPS:
            raise FloatingPointError(f"{self.arm.name}: the loss was not finite for too long, at step {step}.")

    def _data_step(self, step: int) -> int:
        return self.method.data_step(step)

    def _measure(self, *, at_an_end: bool) -> dict[str, Any]:
        with self.student.wearing(self.optimization.average):
            self.student.module.eval()
            errors = self.method.endpoint_errors(self.method.network, self.measured)
            plain = {} if self.arm.guidance == 1.0 else self._paired(1.0, 1.0)
            guided = self._paired(self.arm.guidance, FIXED_GUIDANCE) if at_an_end or not plain else {}
        return {"endpoint_errors": errors, "paired": plain, "paired_guided": guided}

    def _paired(self, guidance: float, reference: float) -> dict[str, dict[str, float]]:
        """By the number of steps: one a window, and 4 and 8 where that is at least as many."""
        count = self.arm.config.num_time_windows
        found = {}
        for steps in sorted({count, *(n for n in (4, 8) if n >= count)}):
            latents = self.bench.draw(self.contestant, steps, guidance, self.ground.noise)
            error = paired_error(latents, self.ground.references[reference])
            found[str(steps)] = {"all": error.all, "median": error.median}
        return found


def drawn(data: LatentSet, config: TrainingConfig, count: int, generator: torch.Generator) -> Drawn:
    """A batch of a method."""
    latents, prompts, whole = data.draw(count, config.caption_dropout, generator, "cpu")
    return Drawn(latents=latents, condition={"prompt_embeds": prompts}, full_condition={"prompt_embeds": whole})


def _plain(loss: float) -> float | None:
    return loss if loss == loss else None
