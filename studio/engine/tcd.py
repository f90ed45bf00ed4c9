"""Trajectory consistency distillation's sampler: diffusers' own, with the authors' gamma and a prediction to preview.

Strategic stochastic sampling (arXiv 2402.19159, Algorithm 4) goes from each step down past the next, to (1 - gamma) of
its diffusion index, and comes up to it again by fresh noise. Shapes: B C H W latents. Time: timestep 1000 is noise.
It does not know weights, guidance or previews.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import TCDScheduler
from diffusers.schedulers.scheduling_tcd import TCDSchedulerOutput

# How much of a step's end TCD noises again, from 0 (none of it) to 1 (all): the value of the cards of TCD's LoRAs.
TCD_GAMMA = 0.3


@dataclass
class TCDOutput(TCDSchedulerOutput):
    """What a step gives, with the clean latents it predicts, for previews."""

    pred_original_sample: torch.Tensor | None = None


class TCD(TCDScheduler):
    """`TCDScheduler` whose `gamma` does not follow the `eta` of pipelines, which is DDIM's and 0 unless asked for."""

    gamma = TCD_GAMMA

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        eta: float = TCD_GAMMA,  # noqa: ARG002
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step, as `TCDScheduler` takes it with `gamma` for its `eta`; the last one adds no noise."""
        ended: Any = super().step(model_output, timestep, sample, self.gamma, generator, return_dict=True)
        output = TCDOutput(
            prev_sample=ended.prev_sample,
            pred_noised_sample=ended.pred_noised_sample,
            pred_original_sample=self._clean(model_output, timestep, sample),
        )
        return output if return_dict else (output.prev_sample, output.pred_noised_sample)

    def renoised(self, noised: torch.Tensor, noise: torch.Tensor, place: int) -> torch.Tensor:
        """The `pred_noised_sample` of the step before the grid's step `place`, brought up to it by this noise."""
        timestep = self.timesteps[place]
        below = torch.floor((1 - self.gamma) * timestep).long()
        share = self.alphas_cumprod[timestep] / self.alphas_cumprod[below]
        return share.sqrt() * noised + (1 - share).sqrt() * noise

    def _clean(self, model_output: torch.Tensor, timestep: int | torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        signal = self.alphas_cumprod[timestep]
        alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
        if self.config["prediction_type"] == "v_prediction":
            return alpha * sample - sigma * model_output
        return (sample - sigma * model_output) / alpha
