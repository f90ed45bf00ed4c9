"""From a configuration to what a step's loss is: the choice among the methods, and those without a teacher.

What a run may rely on is written in `method`. Knows no files, no optimizer and no events.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from studio.runs.config import TrainingConfig
from trainer.distilling import ConsistencyMethod, WindowMethod
from trainer.method import Batch, Measured, Method, Stateless, pieces_of, seeded, stratified
from trainer.networks import Networks
from trainer.objectives import diffusion_loss
from trainer.students import Student
from trainer.teacher import Network

__all__ = ["Batch", "Measured", "Method", "method_of"]


def method_of(config: TrainingConfig, networks: Networks, student: Student) -> Method:
    """The method a configuration names, bound to its networks."""
    if config.method in ("perflow", "rectified"):
        return WindowMethod(config=config, networks=networks, student=student)
    if config.method in ("lcm", "pcm"):
        return ConsistencyMethod(config=config, networks=networks, student=student)
    return DiffusionMethod(config=config, networks=networks, network=student.network())


@dataclass(kw_only=True, eq=False)
class DiffusionMethod(Stateless):
    """The base's own loss (epsilon or v), at stratified timesteps; with a ControlNet's network, a ControlNet's."""

    config: TrainingConfig
    networks: Networks
    network: Network

    def loss(self, batch: Batch, step: int, generator: torch.Generator, slot: int = 0) -> torch.Tensor:  # noqa: ARG002
        return self._loss(self.network, batch, generator)

    def _loss(self, network: Network, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        schedule = self.networks.schedule
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents)
        timesteps = stratified(len(noise), schedule.num_train_timesteps, generator)
        return diffusion_loss(network, schedule, batch.latents, noise, timesteps, batch.condition,
                              self.config.min_snr or None, self.networks.head)  # fmt: skip

    def held_out(self, batch: Batch, generator: torch.Generator) -> Measured:  # noqa: ARG002
        return Measured(pieces=tuple(piece for _, piece in pieces_of(batch, self.config.batch_size)))

    def endpoint_errors(self, network: Network, measured: Measured) -> list[float]:  # noqa: ARG002
        return []

    @torch.no_grad()
    def held_out_loss(self, network: Network, measured: Measured) -> float:
        losses = [self._loss(network, piece, seeded(0, place, 0)) for place, piece in enumerate(measured.pieces)]
        return float(torch.stack(losses).mean())
