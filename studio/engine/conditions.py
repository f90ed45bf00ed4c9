"""What a drawing is conditioned on besides its prompt, as the stock pipelines take it.

ControlNets, IP-Adapters, image-to-image and inpainting are conditions on the one path of `drawing`, not paths of their
own. `make` turns a request's conditions into this: networks from the resident model's `Controls`, maps and references
fitted to the canvas, an encoded beginning. Anything may stand beside anything.
It does not know files, seeds or steps already done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import (
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from torch import nn

from studio.engine.beginning import Beginning, begin
from studio.engine.controls import Attached
from studio.engine.fitting import fit
from studio.engine.preview import weight_dtype
from studio.types import GenerationRequest

OpenPicture = Callable[[str], Image.Image]
CONTROLLED: dict[Any, Any] = {
    StableDiffusionPipeline: StableDiffusionControlNetPipeline,
    StableDiffusionXLPipeline: StableDiffusionXLControlNetPipeline,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """The conditions of one request, on the device. Without any, the resident pipeline itself draws."""

    control: nn.Module | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    references: tuple[torch.Tensor, ...] = ()
    beginning: Beginning | None = None

    def pipeline(self, resident_pipe: Any) -> Any:
        """The stock pipeline that draws, sharing the resident one's components."""
        if self.control is None:
            return resident_pipe
        cls, config = CONTROLLED[type(resident_pipe)], resident_pipe.config
        more: dict[str, Any] = {"requires_safety_checker": False}
        if cls is StableDiffusionXLControlNetPipeline:
            more = {"add_watermarker": False, "force_zeros_for_empty_prompt": config.force_zeros_for_empty_prompt}
        pipe = with_components(cls, resident_pipe, controlnet=self.control, **more)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def call_arguments(self, *, doubles: bool) -> dict[str, Any]:
        """What the pipeline's call takes beyond prompt, size, steps and latents; `doubles` says if it guides."""
        if not self.references:
            return self.arguments
        embeds = [torch.cat([torch.zeros_like(each), each]) if doubles else each for each in self.references]
        return {**self.arguments, "ip_adapter_image_embeds": embeds}

    def of_tile(self, beginning: Beginning, arguments: dict[str, Any]) -> Conditions:
        """The same for one tile of a larger picture: its own beginning, and its own part of what is followed."""
        return replace(self, beginning=beginning, arguments={**self.arguments, **arguments})

    @property
    def conditioners(self) -> tuple[nn.Module, ...]:
        """Networks beside the UNet that are asked at every step."""
        return () if self.control is None else (self.control,)


def make(
    request: GenerationRequest, attached: Attached, open_picture: OpenPicture, pipe: Any, *, num_steps: int
) -> Conditions:
    """The conditions of a request whose networks are attached. Raises `NotFound` for a picture that is gone."""
    size = (request.width, request.height)
    device = pipe._execution_device
    return Conditions(
        control=_control(attached),
        arguments={
            **_control_arguments(request, open_picture, num_steps),
            **_reference_arguments(request, open_picture, pipe),
        },
        references=tuple(
            attached.encode(place, open_picture(reference.image)) for place, reference in enumerate(request.references)
        ),
        beginning=_beginning(request, open_picture, pipe.vae, size, device),
    )


def with_components(cls: Any, pipe: Any, **more: Any) -> Any:
    """A pipeline of another class on the same modules: nothing is copied and nothing is cast."""
    return cls(**{**pipe.components, **more})


def _control(attached: Attached) -> nn.Module | None:
    if len(attached.controlnets) < 2:
        return attached.controlnets[0] if attached.controlnets else None
    return MultiControlNetModel(list(attached.controlnets))


def _control_arguments(request: GenerationRequest, open_picture: OpenPicture, num_steps: int) -> dict[str, Any]:
    if not request.controls:
        return {}
    size = (request.width, request.height)
    values: dict[str, list[Any]] = {"image": [], "controlnet_conditioning_scale": []}
    values |= {"control_guidance_start": [], "control_guidance_end": []}
    for unit in request.controls:
        first, behind = unit.steps(num_steps)
        values["image"].append(fit(open_picture(unit.image), size, unit.resize, is_map=True))
        values["controlnet_conditioning_scale"].append(float(unit.weight))
        values["control_guidance_start"].append(first / num_steps)
        values["control_guidance_end"].append(behind / num_steps)
    alone = len(request.controls) == 1
    return {name: each[0] if alone else each for name, each in values.items()}


def _reference_arguments(request: GenerationRequest, open_picture: OpenPicture, pipe: Any) -> dict[str, Any]:
    """Masks for the references, where any has one: the others then cover all of the canvas."""
    if not any(reference.mask for reference in request.references):
        return {}
    size = (request.width, request.height)
    masks = [
        fit(open_picture(each.mask).convert("L"), size, "crop") if each.mask else Image.new("L", size, 255)
        for each in request.references
    ]
    tensors = IPAdapterMaskProcessor().preprocess(masks, height=request.height, width=request.width)
    tensors = tensors.to(pipe._execution_device, weight_dtype(pipe.unet))
    return {"cross_attention_kwargs": {"ip_adapter_masks": [each[None] for each in tensors]}}


def _beginning(
    request: GenerationRequest, open_picture: OpenPicture, vae: Any, size: tuple[int, int], device: torch.device
) -> Beginning | None:
    initial = request.initial
    if initial is None:
        return None
    mask = open_picture(initial.mask) if initial.mask else None
    picture = open_picture(initial.image)
    return begin(vae, initial, picture, mask, size=size, first_step=request.first_step, device=device)
