"""Our training loop against the published one, side by side on the same model, data and machine. Prints markdown.

    python -m benchmarks.training                                        Tabletop, 5 minutes a side
    python -m benchmarks.training --device cuda --model sd15-random      random weights of Stable Diffusion 1.5's shape

The peer is `benchmarks.published_loop`. Both train PeRFlow (4 windows, ddim_eps, CFG-sync) from the same base with the
same batch size, learning rate, precision and EMA, in turns of a few seconds on clocks of their own, so that whatever
else the machine does falls on both. Pictures lie in memory before the clocks start; encoding them counts: the
published loop encodes in every step, ours once, on its clock. Held-out endpoint errors (relative RMSE at each window's
end, of the averaged weights) are against the teacher's ODE by many DDIM steps, the same samples for both. A student's
forward and backward count as three forwards. Random weights show speed, and nothing about quality.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.latency import sd15_folder, tabletop_folder
from benchmarks.published_loop import CAPTION_DROPOUT, PublishedLoop
from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from trainer.method import Measured, seeded
from trainer.methods import method_of
from trainer.networks import Condition, Networks
from trainer.optimization import Optimization
from trainer.precision import half_dtype
from trainer.students import Student
from trainer.tabletop.captions import caption
from trainer.tabletop.data import image_of
from trainer.tabletop.scenes import random_scene

TURN_SECONDS = 10.0
HELD_OUT_SEEDS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pixels `[N, 3, H, W]` in [-1, 1] on the CPU, and a caption each."""

    pixels: torch.Tensor
    captions: list[str]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A batch as `trainer.method.Batch`."""

    latents: torch.Tensor
    condition: Condition


class Side(Protocol):
    """One of the loops, with a step to take and weights to measure."""

    name: str
    num_samples: int

    def step(self) -> None: ...
    def average(self) -> dict[str, torch.Tensor]: ...
    def forwards(self) -> float: ...


@dataclass(kw_only=True)
class Counted:
    """Samples that went through a network; hooks count, so nobody has to be believed."""

    num_samples: int = 0

    def watch(self, module: Any) -> Counted:
        module.register_forward_hook(lambda _module, inputs, _answer: self._add(len(inputs[0])))
        return self

    def _add(self, count: int) -> None:
        self.num_samples += count


@dataclass(kw_only=True)
class Ours:
    """`trainer`'s method, student and optimization; of `trainer.data` only what one set in memory needs."""

    config: TrainingConfig
    networks: Networks
    pictures: Pictures
    name: str = "ours"
    num_samples: int = 0
    _steps: int = 0
    _parameters: torch.Tensor | None = None
    _conditions: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.student = Student.of(self.config, self.networks)
        self.method = method_of(self.config, self.networks, self.student)
        self.optimization = Optimization(parameters=self.student.trainable(), ema_decay=self.config.ema_decay)
        self._student = Counted().watch(self.student.module)
        self._teacher = Counted().watch(self.student._teacher)

    def prepare(self, held_out: Embedded) -> Measured:
        measured = self.method.held_out(held_out, seeded(0, 0, 0))
        self._teacher.num_samples = 0
        return measured

    def step(self) -> None:
        if self._parameters is None:
            self._cache()
        step, config = self._steps, self.config
        rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
        self.optimization.step(lambda: self._backward(step), rate, step)
        self._steps += 1
        self.num_samples += config.batch_size

    def _cache(self) -> None:
        """Latents and captions once; this is on the clock."""
        size, pixels = self.config.batch_size, self.pictures.pixels
        parts = [self.networks.encode(pixels[first : first + size]) for first in range(0, len(pixels), size)]
        self._parameters = torch.cat(parts)
        self._conditions = embedded(self.networks, ["", *self.pictures.captions], size)

    def _backward(self, step: int) -> float:
        loss = self.method.loss(self._batch(self.method.data_step(step)), step, seeded(self.config.seed, step, 0))
        loss.backward()
        return float(loss.detach())

    def _batch(self, step: int) -> Embedded:
        assert self._parameters is not None
        generator, size = seeded(1, step, 0), self.config.batch_size
        rows = torch.randint(len(self._parameters), (size,), generator=generator)
        noise = torch.randn((size, self.networks.latent_channels, *self._parameters.shape[2:]), generator=generator)
        dropped = torch.rand(size, generator=generator) < self.config.caption_dropout
        texts = torch.where(dropped, 0, rows + 1).to(self.networks.device)
        latents = self.networks.latents(self._parameters[rows.to(self.networks.device)], noise)
        return Embedded(latents=latents, condition={key: value[texts] for key, value in self._conditions.items()})

    def average(self) -> dict[str, torch.Tensor]:
        return self.optimization.average

    def forwards(self) -> float:
        return (3 * self._student.num_samples + self._teacher.num_samples) / self.num_samples


@dataclass(kw_only=True)
class Published:
    """The published loop on the same pictures, drawn with replacement as ours are."""

    loop: PublishedLoop
    pictures: Pictures
    batch_size: int
    name: str = "published loop"
    num_samples: int = 0

    def __post_init__(self) -> None:
        self._student, self._teacher = Counted().watch(self.loop.unet), Counted().watch(self.loop.teacher)

    def step(self) -> None:
        rows = torch.randint(len(self.pictures.pixels), (self.batch_size,), generator=self.loop.generator)
        self.loop.step(self.pictures.pixels[rows], [self.pictures.captions[row] for row in rows.tolist()])
        self.num_samples += self.batch_size

    def average(self) -> dict[str, torch.Tensor]:
        return self.loop.average

    def forwards(self) -> float:
        return (3 * self._student.num_samples + self._teacher.num_samples) / self.num_samples


def embedded(networks: Networks, texts: list[str], size: int) -> Condition:
    """Conditions of many texts, a few at a time."""
    parts = [networks.embed(texts[first : first + size]) for first in range(0, len(texts), size)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def tabletop_pictures(count: int, first_seed: int) -> Pictures:
    """Rendered scenes with their captions."""
    scenes = [random_scene(seed) for seed in range(first_seed, first_seed + count)]
    pixels = torch.stack([torch.from_numpy(image_of(scene)) for scene in scenes]).float() / 127.5 - 1
    return Pictures(pixels=pixels, captions=[caption(scene, row) for row, scene in enumerate(scenes)])


def random_pictures(count: int, size: int, seed: int) -> Pictures:
    """Smooth random colours: enough to be encoded."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    pixels = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return Pictures(pixels=pixels, captions=[f"colours number {row}" for row in range(count)])


def take_turns(sides: list[Side], seconds_each: float, device: str) -> dict[str, float]:
    """Let the sides train in turns until each has had its time; returns the seconds each took."""
    spent = {side.name: 0.0 for side in sides}
    while any(seconds < seconds_each for seconds in spent.values()):
        for side in sides:
            turn = time.monotonic()
            while (now := time.monotonic() - turn) < TURN_SECONDS and spent[side.name] + now < seconds_each:
                side.step()
                if device.startswith("cuda"):
                    torch.cuda.synchronize()
            spent[side.name] += time.monotonic() - turn
    return spent


def table(sides: list[Side], spent: dict[str, float], ours: Ours, measured: Measured) -> Iterator[str]:
    """Rows of markdown: both loops, and the student before training."""
    yield "| | samples/s | UNet forwards a sample | samples | endpoint error by window | root mean square |"
    yield "|---|---|---|---|---|---|"
    yield f"| untrained (DDIM-4) | | | 0 | {shown(measured.untrained)} | {together(measured.untrained):.4f} |"
    for side in sides:
        with ours.student.wearing(side.average()):
            errors = ours.method.endpoint_errors(ours.method.network, measured)
        rate = side.num_samples / spent[side.name]
        yield (f"| {side.name} | {rate:.2f} | {side.forwards():.2f} | {side.num_samples} | {shown(errors)} | "
               f"{together(errors):.4f} |")  # fmt: skip
    rates = [side.num_samples / spent[side.name] for side in sides]
    yield f"\nOurs takes {rates[0] / rates[1]:.2f} times the samples in the same wall time."


def shown(errors: Any) -> str:
    return ", ".join(f"{error:.4f}" for error in errors)


def together(errors: Any) -> float:
    return float(torch.tensor(errors).square().mean().sqrt())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our training loop against the published one.")
    parser.add_argument("--model", choices=("tabletop", "sd15-random"), default="tabletop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each side")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=None, help="pixels; 128 for Tabletop, 512 for SD1.5")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--solver", choices=("ddim", "dpmpp", "probe"), default="probe", help="our teacher's")
    parser.add_argument("--solver-steps", type=int, default=4, help="our teacher's; the published loop takes 8")
    parser.add_argument("--reuse", type=int, default=2, help="training steps that use one of our solved windows")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def config_of(args: argparse.Namespace, folder: Path) -> TrainingConfig:
    base = BaseModel(id=args.model, family="tabletop" if args.model == "tabletop" else "sd15", source=str(folder),
                     kind="folder")  # fmt: skip
    return TrainingConfig(
        name="benchmark", base=base, dataset=DatasetRef(id="benchmark"), batch_size=args.batch,
        learning_rate=args.learning_rate, teacher_solver=args.solver, num_solver_steps=args.solver_steps,
        pair_reuse=args.reuse, caption_dropout=CAPTION_DROPOUT, seed=args.seed,
    )  # fmt: skip


def main() -> None:
    args = arguments()
    is_tabletop = args.model == "tabletop"
    size = args.size or (128 if is_tabletop else 512)
    with tempfile.TemporaryDirectory() as scratch:
        folder, what = (tabletop_folder if is_tabletop else sd15_folder)(Path(scratch))
        config = config_of(args, folder)
        networks = Networks.load(config.base, args.device, args.precision)
    train, test = (
        (tabletop_pictures(args.pictures, 0), tabletop_pictures(args.held_out, HELD_OUT_SEEDS))
        if is_tabletop
        else (random_pictures(args.pictures, size, 0), random_pictures(args.held_out, size, 1))
    )
    latents = torch.cat([networks.encode(pixels[None]) for pixels in test.pixels])
    zeros = torch.zeros_like(latents[:, : networks.latent_channels])
    held_out = Embedded(
        latents=networks.latents(latents, zeros), condition=embedded(networks, test.captions, args.batch)
    )
    loop = PublishedLoop(copy.deepcopy(networks.pipe), device=args.device, precision=args.precision, seed=args.seed,
                         learning_rate=args.learning_rate, warmup_steps=config.warmup_steps,
                         ema_decay=config.ema_decay)  # fmt: skip
    ours = Ours(config=config, networks=networks, pictures=train)
    measured = ours.prepare(held_out)
    sides: list[Side] = [ours, Published(loop=loop, pictures=train, batch_size=args.batch)]
    spent = take_turns(sides, args.minutes * 60, args.device)
    machine = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "CPU"
    dtype = str(half_dtype(args.device, args.precision) or torch.float32).removeprefix("torch.")
    print(f"{what}, {size} pixels, batch {args.batch}, {dtype}, {args.minutes:g} minutes a side; {machine}, "
          f"{os.cpu_count()} cores ({torch.get_num_threads()} threads), torch {torch.__version__}\n")  # fmt: skip
    print(*ours.method.notes, sep="\n")
    print()
    print(*table(sides, spent, ours, measured), sep="\n")


if __name__ == "__main__":
    main()
