"""The accelerators of the built-in base, learnt by the methods anybody's own are: PeRFlow, and its rivals.

`perflow` is what ships as the default: every weight, as long as there is time. The others are a fair race: each a LoRA
of one rank, at one learning rate and batch size, for as many minutes as the others. LCM and PCM draw the teacher's
guidance from 1 to 2, whose middle is the scale that benchmarks compare them all at; the others leave it to the sampler.
Knows no files: the recipe keeps results, `shipping` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from trainer.method import Method, seeded
from trainer.methods import method_of
from trainer.networks import Condition, Networks
from trainer.students import Student
from trainer.tabletop.diffusion import LatentSet

BASE = BaseModel(id="tabletop", family="tabletop", source="tabletop", license="mit")
SCENES = DatasetRef(id="tabletop", kind="tabletop", title="Tabletop scenes")
RACE_RANK = 16


def _config(name: str, **more: Any) -> TrainingConfig:
    """What all share. `caption_dropout` is above the usual 10 % because at sampling the unconditional branch weighs
    (w - 1) against the conditional's w, and learns only from dropped captions."""
    shared: dict[str, Any] = {
        "caption_dropout": 0.25,
        "share_at_start": 0.5,
        "share_at_grid": 0.4,
        "grid_steps": (5, 6, 8, 12, 16),
        "teacher_solver": "dpmpp",
        "num_solver_steps": 5,
        "trained_guidance": 2.0,
    }
    return TrainingConfig(name=name, base=BASE, dataset=SCENES, **{**shared, **more})


def _racer(name: str, **more: Any) -> TrainingConfig:
    return _config(name, student="lora", lora_rank=RACE_RANK, learning_rate=2e-4, **more)


# The solver was probed on the first teacher of this shape against DDIM-48, relative error by window: DPM-Solver++ with
# 5 calls .017 .008 .003 .053, DDIM with 6 .036 .029 .013 .052.
PERFLOW = _config("perflow-tabletop", method="perflow", learning_rate=5e-5)
RACE = {
    "perflow-lora": _racer("PeRFlow LoRA for Tabletop", method="perflow"),
    "rectified": _racer("Rectified Diffusion for Tabletop", method="rectified"),
    "lcm": _racer("LCM for Tabletop", method="lcm"),
    "pcm": _racer("PCM for Tabletop", method="pcm"),
}


def folder_of(stage: str) -> str:
    """Where a racer's LoRA ships, below `assets/`."""
    return f"{stage}-tabletop"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Latents of the world and their captions, as `trainer.method.Batch`."""

    latents: torch.Tensor
    condition: Condition


class MethodTask:
    """A training method on the world's latents, for the loop of minutes."""

    def __init__(self, config: TrainingConfig, networks: Networks, data: LatentSet) -> None:
        self.config, self.networks, self.data = config, networks, data
        self.student = Student.of(config, networks)
        self.method: Method = method_of(config, networks, self.student)
        self.module: nn.Module = self.student.module

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """The method's loss; its batch belongs to the step whose solved windows it uses."""
        of = self.method.data_step(step)
        batch = self._drawn(self.data, self.config.batch_size, self.config.caption_dropout, seeded(1, of, 0))
        return self.method.loss(batch, step, generator)

    def errors(self, data: LatentSet, count: int) -> tuple[list[float], list[float]]:
        """Per window on `data`, of the student as it is and of the base: relative RMSE at its end."""
        batch = self._drawn(data, count, self.config.caption_dropout, torch.Generator().manual_seed(1 << 40))
        measured = self.method.held_out(batch, torch.Generator().manual_seed(1 << 41))
        return self.method.endpoint_errors(self.method.network, measured), list(measured.untrained)

    def _drawn(self, data: LatentSet, count: int, dropout: float, generator: torch.Generator) -> Drawn:
        latents, prompts = data.draw(count, dropout, generator, self.networks.device)
        return Drawn(latents=latents, condition={"prompt_embeds": prompts})
