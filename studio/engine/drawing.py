"""One image through one stock pipeline: noise, guided steps with a preview each, decode.

The latents and the solver's arithmetic are fp32 whatever the network computes in, and the noise comes from a CPU
generator, so a seed means the same picture on every device and in every precision (up to rounding).
Shapes: 1 C h w latents. Direction of time: timestep 1000 is noise, step 1 the noisiest.
It does not know where models come from, nor that there are other images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from studio.engine.conditions import Conditions
from studio.engine.device import or_out_of_memory
from studio.engine.guidance_hook import GuidanceSchedule
from studio.engine.preview import PredictedImage, Preview, decode
from studio.engine.prompts import EncodedPrompt
from studio.engine.samplers import Later
from studio.errors import OutOfMemory
from studio.types import StepPlan

Show = Callable[[int, float, Image.Image | None], None]
SMALLER = "Try a smaller size, or fewer things at once on this device."


@dataclass(frozen=True, kw_only=True)
class Order:
    """All that one image, or one tile of an image, needs to be drawn.

    `noise` stands in for the seed's own where a tile takes its part of one larger noise; without `is_decoded` the
    latents are all that is wanted.
    """

    conditions: Conditions
    plan: StepPlan
    prompt: EncodedPrompt
    negative: EncodedPrompt
    width: int
    height: int
    seed: int
    noise: torch.Tensor | None = None
    is_decoded: bool = True


@dataclass(kw_only=True)
class Drawn:
    """What came of it, and what it cost."""

    image: Image.Image
    latents: torch.Tensor | None = None
    seconds_steps: list[float] = field(default_factory=list)
    seconds_decode: float = 0.0
    num_network_calls: int = 0
    warnings: list[str] = field(default_factory=list)


def draw(resident_pipe: Any, sampler: Any, order: Order, preview: Preview | None, show: Show) -> Drawn:
    """Draw one image; `show(step, seconds, image)` is called after each step and may raise to stop there.

    What `show` gets after the last step is the finished picture; without a `preview` it gets `None` before that.
    Raises `OutOfMemory`.
    """
    pipe = order.conditions.pipeline(resident_pipe)
    beginning = order.conditions.beginning
    first = beginning.first_step if beginning else 0
    predicted = PredictedImage(sampler)
    pipe.scheduler = Later(sampler, first) if first else sampler
    guidance = GuidanceSchedule(order.plan.guidance)
    timesteps = (*order.plan.timesteps, 0)
    num_steps = len(order.plan.timesteps)
    generator = torch.Generator("cpu").manual_seed(order.seed)
    noise = initial_noise(pipe, order, generator) if order.noise is None else order.noise
    drawn = Drawn(image=Image.new("RGB", (order.width, order.height)))
    clock = _Clock()

    def on_step_end(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if beginning is not None:
            tensors["latents"] = beginning.hold(tensors["latents"], sampler, noise, timesteps[step + 1])
        drawn.seconds_steps.append(clock.lap())
        guidance.advance()
        image, drawn.latents = None, tensors["latents"]
        if step + 1 < num_steps:
            if preview is not None and predicted.latents is not None:
                clean = predicted.latents
                image = preview(beginning.hold(clean, sampler, noise, 0) if beginning else clean)
        elif order.is_decoded:
            image, note = decode_or_tile(pipe.vae, tensors["latents"])
            image = beginning.finish(image) if beginning else image
            drawn.image, drawn.seconds_decode = image, clock.lap()
            drawn.warnings += [note] if note else []
        show(step + 1, drawn.seconds_steps[-1], image)
        clock.lap()
        return {"latents": tensors["latents"]}

    arguments = {
        **_prompt_arguments(order, guidance),
        **order.conditions.call_arguments(doubles=guidance.doubles),
        "latents": beginning.noised(sampler, noise, timesteps[0]) if beginning and first else noise,
        "generator": generator,
        "num_inference_steps": first + num_steps,
        "callback_on_step_end": on_step_end,
        "output_type": "latent",
    }
    with guidance.on(pipe.unet, *order.conditions.conditioners):
        clock.lap()
        or_out_of_memory("drawing", SMALLER, lambda: pipe(**arguments))
    drawn.num_network_calls = guidance.num_network_calls
    return drawn


def initial_noise(pipe: Any, order: Order, generator: torch.Generator) -> torch.Tensor:
    """Unit noise of the image's own generator, fp32, where the pipeline runs (and the prompt's embeddings are)."""
    side = pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, order.height // side, order.width // side)
    return torch.randn(shape, generator=generator).to(order.prompt.embeds.device)


def decode_or_tile(vae: Any, latents: torch.Tensor) -> tuple[Image.Image, str | None]:
    """The finished picture; if memory does not reach, once more in tiles, which the second value then says."""
    try:
        return or_out_of_memory("decoding the picture", SMALLER, lambda: decode(vae, latents)), None
    except OutOfMemory:
        vae.enable_tiling()
    try:
        image = or_out_of_memory("decoding the picture in tiles", SMALLER, lambda: decode(vae, latents))
    finally:
        vae.disable_tiling()
    return image, "Memory was short: the picture was decoded in tiles, whose seams may show."


def _prompt_arguments(order: Order, guidance: GuidanceSchedule) -> dict[str, Any]:
    arguments = {
        "prompt_embeds": order.prompt.embeds,
        "guidance_scale": guidance.pipeline_scale,
        "width": order.width,
        "height": order.height,
    }
    if order.prompt.pooled is not None:
        arguments["pooled_prompt_embeds"] = order.prompt.pooled
    if guidance.doubles:
        arguments["negative_prompt_embeds"] = order.negative.embeds
        if order.negative.pooled is not None:
            arguments["negative_pooled_prompt_embeds"] = order.negative.pooled
    return arguments


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return elapsed
