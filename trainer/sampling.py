"""Samples of a run in training: the student at a few steps beside the teacher at many, from the same noise.

Noise, captions and teacher never change in a run, so that grids of different training steps can be laid over each
other. Each method is sampled as its result will be: PeRFlow along its windows, LCM by its own sampler, the others by
plain solvers with trailing steps. The alarm compares the student's latents with the teacher's: how far they spread,
and how alike neighbours are, which noise is not.
Latents `[B, C, h, w]`, pixels `[B, 3, H, W]` in [-1, 1]. Knows no events and no folders.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler
from PIL import Image

from studio.perflow.scheduler import PeRFlowScheduler
from studio.runs.config import TrainingConfig
from trainer.facts import recommended_guidance
from trainer.networks import Networks
from trainer.teacher import Network, guided

TEACHER_STEPS = 30
NUM_DEFAULT_SAMPLES = 4
COLUMNS = 4
SPREAD_LIMITS = (0.5, 2.0)
LIKENESS_SHARE = 0.5
CLEAR_LIKENESS = 0.2

Condition = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of latents: their standard deviation, and how alike neighbours are (1: the same, 0: noise)."""

    deviation: float
    likeness: float

    @classmethod
    def of(cls, latents: torch.Tensor) -> Spread:
        """Over all samples and channels; each channel's mean is taken out."""
        z = latents.double().cpu()
        z = z - z.mean(dim=(0, 2, 3), keepdim=True)
        variance = z.square().mean()
        across, down = z[..., 1:] - z[..., :-1], z[..., 1:, :] - z[..., :-1, :]
        jump = (across.square().mean() + down.square().mean()) / 2
        return cls(deviation=float(variance.sqrt()), likeness=float(1 - jump / (2 * variance).clamp_min(1e-12)))

    def complaint(self, teacher: Spread) -> str:
        """Why these look like noise (or like nothing) beside the teacher's, in a sentence; empty if they do not."""
        if not all(map(_is_number, (self.deviation, self.likeness))):
            return "The samples are no numbers."
        ratio = self.deviation / max(teacher.deviation, 1e-12)
        if teacher.likeness > CLEAR_LIKENESS and self.likeness < LIKENESS_SHARE * teacher.likeness:
            return (
                f"The samples tend to noise: neighbouring places are {self.likeness:.2f} alike, the teacher's "
                f"{teacher.likeness:.2f}."
            )
        if not SPREAD_LIMITS[0] <= ratio <= SPREAD_LIMITS[1]:
            word = "flat" if ratio < 1 else "too strong"
            return f"The samples are {word}: their spread is {ratio:.2f} times the teacher's."
        return ""


def scheduler_of(config: TrainingConfig, networks: Networks) -> Any:
    """How a student of this method is sampled, on the base's own noise schedule."""
    base = networks.pipe.scheduler.config
    head: dict[str, Any] = {"prediction_type": config.base.prediction_type, "timestep_spacing": "trailing"}
    if config.method == "perflow":
        return PeRFlowScheduler.from_config(
            base, prediction_type=config.prediction_type, num_time_windows=config.num_time_windows
        )
    if config.method == "lcm":
        return LCMScheduler.from_config(base, **head)
    if config.method in ("diffusion", "controlnet"):
        return DPMSolverMultistepScheduler.from_config(
            base, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=False, final_sigmas_type="zero",
            thresholding=False, **head,
        )  # fmt: skip
    return _ddim(config, networks)


def _ddim(config: TrainingConfig, networks: Networks) -> Any:
    return DDIMScheduler.from_config(
        networks.pipe.scheduler.config, prediction_type=config.base.prediction_type, timestep_spacing="trailing",
        clip_sample=False, thresholding=False,
    )  # fmt: skip


def teacher_guidance(config: TrainingConfig) -> float:
    """The scale at which the teacher's pictures show what the student is to become."""
    if config.method in ("lcm", "pcm"):
        return max(1.0, config.trained_guidance * 2 / 3)  # the middle of what is drawn in training
    if config.method in ("perflow", "rectified") and config.guidance_mode == "fixed":
        return config.trained_guidance
    return config.sample_guidance


@torch.no_grad()
def walk(
    network: Network, scheduler: Any, noise: torch.Tensor, condition: Any, *, num_steps: int, guidance: float,
    nothing: Callable[[Any], Any],
) -> torch.Tensor:  # fmt: skip
    """Latents from noise; the same noise gives the same latents, also where the sampler adds some."""
    scheduler.set_timesteps(num_steps, device=noise.device)
    ask = guided(network, nothing, float(guidance))
    is_noisy = isinstance(scheduler, LCMScheduler)
    more = {"generator": torch.Generator().manual_seed(0)} if is_noisy else {}
    z = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        answer = ask(scheduler.scale_model_input(z, timestep), timestep.expand(len(z)), condition)
        z = scheduler.step(answer, timestep, z, return_dict=False, **more)[0]
    return z


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
    """What is drawn in a run: captions with their conditions, and the noise that goes with them."""

    config: TrainingConfig
    networks: Networks
    prompts: tuple[str, ...]
    condition: Condition
    noise: torch.Tensor

    @classmethod
    def of(cls, config: TrainingConfig, networks: Networks, held_out: Any) -> Sampler:
        """From the configuration's prompts, or held-out captions; a ControlNet's pictures are held-out ones."""
        prompts = config.sample_prompts or held_out.full_captions[:NUM_DEFAULT_SAMPLES]
        condition = networks.embed(list(prompts))
        rows = torch.arange(len(prompts)) % len(held_out.latents)
        for key in ("time_ids", "control"):
            if key in held_out.condition:
                condition[key] = held_out.condition[key][rows.to(held_out.condition[key].device)]
        shape = held_out.latents.shape[1:]
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(1000 + i)) for i in range(len(rows))]
        )
        return cls(config=config, networks=networks, prompts=tuple(prompts), condition=condition,
                   noise=noise.to(networks.device))  # fmt: skip

    def student(self, network: Network, num_steps: int, *, at_once: int | None = None) -> torch.Tensor:
        """The student's latents."""
        scheduler = scheduler_of(self.config, self.networks)
        return self._drawn(network, scheduler, num_steps, recommended_guidance(self.config), at_once)

    def teacher(self, network: Network, *, at_once: int | None = None) -> torch.Tensor:
        """The many-step latents of the base."""
        scheduler = _ddim(self.config, self.networks)
        return self._drawn(network, scheduler, TEACHER_STEPS, teacher_guidance(self.config), at_once)

    def picture(self, latents: torch.Tensor) -> bytes:
        """All samples side by side, as a PNG; decoded one by one, which needs the least memory."""
        pixels = [self.networks.decode(z[None])[0] for z in latents]
        return grid_png(torch.stack(pixels))

    def _drawn(
        self, network: Network, scheduler: Any, num_steps: int, guidance: float, at_once: int | None
    ) -> torch.Tensor:
        size = at_once or len(self.noise)
        parts = []
        for first in range(0, len(self.noise), size):
            rows = slice(first, first + size)
            condition = {key: value[rows] for key, value in self.condition.items()}
            parts.append(walk(network, scheduler, self.noise[rows], condition, num_steps=num_steps, guidance=guidance,
                              nothing=self.networks.nothing))  # fmt: skip
        return torch.cat(parts)


def grid_png(pixels: torch.Tensor) -> bytes:
    """Pictures in rows of four, as the bytes of a PNG."""
    tiles = ((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    count, height, width, _ = tiles.shape
    columns = min(COLUMNS, count)
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height))
    for place, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (place % columns * width, place // columns * height))
    packed = io.BytesIO()
    sheet.save(packed, "PNG")
    return packed.getvalue()


def _is_number(value: float) -> bool:
    return value - value == 0
