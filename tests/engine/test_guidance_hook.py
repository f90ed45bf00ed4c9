"""Guidance per step at the network's boundary: right in every pipeline, and half price where it is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)

from studio.engine.guidance_hook import GuidanceSchedule
from tests.tiny import tiny_pipeline

# As far from off as counting sees it and as near to it as arithmetic does: both halves are asked, mixed with w = 1.
JUST_ON = 1.0 + 1e-7


class RowCounter:
    """Counts the batch rows a module is really asked for."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.rows: list[int] = []
        module.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self.rows.append((args[0] if args else kwargs["sample"]).shape[0])


def run(pipe: Any, scales: tuple[float, ...], *conditioners: torch.nn.Module, **arguments: Any) -> torch.Tensor:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    guidance = GuidanceSchedule(scales)

    def advance(_pipe: Any, _step: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        guidance.advance()
        return {}

    with torch.inference_mode(), guidance.on(pipe.unet, *conditioners):
        return pipe(
            prompt="a cube",
            negative_prompt="a cone",
            guidance_scale=guidance.pipeline_scale,
            num_inference_steps=len(scales),
            callback_on_step_end=advance,
            generator=torch.Generator().manual_seed(3),
            height=64,
            width=64,
            output_type="latent",
            **arguments,
        ).images


def stock(pipe: Any, scale: float, num_steps: int) -> torch.Tensor:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        return pipe(
            prompt="a cube",
            negative_prompt="a cone",
            guidance_scale=scale,
            num_inference_steps=num_steps,
            generator=torch.Generator().manual_seed(3),
            height=64,
            width=64,
            output_type="latent",
        ).images


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "tabletop"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_constant_scale_is_what_the_stock_pipeline_does(tmp_path: Path, family: Any, scale: float):
    pipe = tiny_pipeline(tmp_path, family)
    torch.testing.assert_close(run(pipe, (scale,) * 3), stock(pipe, scale, 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_step_at_scale_1_asks_once_and_draws_the_same(tmp_path: Path, family: Any):
    pipe = tiny_pipeline(tmp_path, family)
    counter = RowCounter(pipe.unet)
    mixed = run(pipe, (5.0, 1.0, 1.0, 3.0))
    assert counter.rows == [2, 1, 1, 2]
    torch.testing.assert_close(mixed, run(pipe, (5.0, JUST_ON, JUST_ON, 3.0)), rtol=1e-4, atol=1e-5)


def test_the_first_step_may_be_the_one_without_guidance(tmp_path: Path):
    pipe = tiny_pipeline(tmp_path)
    counter = RowCounter(pipe.unet)
    first_off = run(pipe, (1.0, 5.0))
    assert counter.rows == [1, 2]
    torch.testing.assert_close(first_off, run(pipe, (JUST_ON, 5.0)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first_off, run(pipe, (5.0, 5.0)), atol=1e-3)


def test_without_guidance_the_unconditional_half_is_never_asked(tmp_path: Path):
    pipe = tiny_pipeline(tmp_path)
    counter = RowCounter(pipe.unet)
    run(pipe, (1.0, 1.0))
    assert counter.rows == [1, 1]


@pytest.mark.parametrize("guess_mode", [False, True])
@pytest.mark.parametrize(
    ("family", "cls"),
    [("sd15", StableDiffusionControlNetPipeline), ("sdxl", StableDiffusionXLControlNetPipeline)],
)
def test_a_controlnet_is_asked_once_too(tmp_path: Path, family: Any, cls: Any, guess_mode: bool):
    base = tiny_pipeline(tmp_path, family)
    torch.manual_seed(0)
    controlnet = ControlNetModel.from_unet(base.unet, conditioning_channels=3)
    for name, weight in controlnet.named_parameters():
        if "controlnet_" in name:  # zero at birth, so that nothing would be tested
            torch.nn.init.normal_(weight, std=0.1)
    pipe = cls(**base.components, controlnet=controlnet)
    counter, control_counter = RowCounter(pipe.unet), RowCounter(controlnet)
    arguments = {"image": torch.rand(1, 3, 64, 64), "guess_mode": guess_mode}
    mixed = run(pipe, (5.0, 1.0), controlnet, **arguments)
    assert counter.rows == [2, 1]
    assert control_counter.rows == ([1, 1] if guess_mode else [2, 1])
    torch.testing.assert_close(mixed, run(pipe, (5.0, JUST_ON), controlnet, **arguments), rtol=1e-4, atol=1e-5)


def test_image_embeds_of_an_ip_adapter_are_cropped_too(tmp_path: Path):
    pipe = tiny_pipeline(tmp_path)
    pipe.unet._load_ip_adapter_weights([ip_adapter_weights(pipe.unet, image_width=8)])
    pipe.set_ip_adapter_scale(0.6)
    counter = RowCounter(pipe.unet)
    embeds = [torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(4))]
    mixed = run(pipe, (5.0, 1.0), ip_adapter_image_embeds=embeds)
    assert counter.rows == [2, 1]
    torch.testing.assert_close(mixed, run(pipe, (5.0, JUST_ON), ip_adapter_image_embeds=embeds), rtol=1e-4, atol=1e-5)
    other = [torch.cat([embeds[0][:1], -embeds[0][1:]])]
    assert not torch.allclose(mixed, run(pipe, (5.0, 1.0), ip_adapter_image_embeds=other), atol=1e-4)


def ip_adapter_weights(unet: Any, *, image_width: int, num_tokens: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    width = unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    attention, index = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        block = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            attention[f"{index}.{part}.weight"] = random(block.to_k.out_features, width)
        index += 2
    projection = {
        "proj.weight": random(num_tokens * width, image_width),
        "proj.bias": random(num_tokens * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": attention}


def test_the_network_may_compute_in_bf16_while_the_latents_stay_fp32(tmp_path: Path):
    pipe = tiny_pipeline(tmp_path)
    exact = run(pipe, (4.0, 1.0), latents=torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    pipe.unet.to(torch.bfloat16)
    pipe.text_encoder.to(torch.bfloat16)
    rough = run(pipe, (4.0, 1.0), latents=torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < 0.05


def test_the_hooks_leave_with_the_block(tmp_path: Path):
    pipe = tiny_pipeline(tmp_path)
    with pytest.raises(RuntimeError), GuidanceSchedule((3.0,)).on(pipe.unet):
        raise RuntimeError
    assert not pipe.unet._forward_hooks
    assert not pipe.unet._forward_pre_hooks
