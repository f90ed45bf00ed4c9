"""Euler and TCD against what they must equal: DDIM's step, the paper's step, and diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, TCDScheduler

from studio.engine.beginning import Beginning, own_scale
from studio.engine.diffusion import DiffusionEngine
from studio.engine.samplers import STABLE_DIFFUSION_SCHEDULE, Later, make_sampler, plan_request
from studio.engine.tcd import TCD_GAMMA
from studio.engine.tiled_latents import TiledLatents, share_noise
from studio.types import GenerationRequest
from studio.upscaling.tiles import lay
from tests.engine.conftest import result_of
from tests.engine.test_parts import accelerator_spec, model_spec, request

Ask = Callable[..., GenerationRequest]
SHAPE = (1, 4, 8, 8)


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def network(latents: torch.Tensor, index: Any) -> torch.Tensor:
    """Stands in for a UNet: bends with its input and with time."""
    return torch.tanh(latents) * (0.5 + float(index) / 2000) + 0.1


def sampler_of(name: str, steps: int, head: Any = "epsilon") -> Any:
    made = make_sampler(STABLE_DIFFUSION_SCHEDULE, model_spec(prediction_type=head), accelerator_spec(name), None)
    made.set_timesteps(steps)
    return made


def walk(sampler: Any, latents: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """The latents after each step, as a pipeline walks."""
    generator, after = torch.Generator().manual_seed(seed), []
    for index in sampler.timesteps:
        predicted = network(sampler.scale_model_input(latents, index), index)
        latents = sampler.step(predicted, index, latents, generator=generator).prev_sample
        after.append(latents)
    return after


@pytest.mark.parametrize("name", ["euler", "tcd"])
def test_a_plan_has_the_steps_that_were_asked_for(name: str):
    for steps in range(1, 51):
        plan = plan_request(request(steps=steps), model_spec(), accelerator_spec(name))
        assert len(plan.timesteps) == steps
        assert (plan.timesteps[0], min(plan.timesteps) > 0) == (1000, True)


# --- Euler ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("head", ["epsilon", "v_prediction"])
def test_euler_steps_are_ddims_in_other_coordinates(head: Any, steps: int):
    """z = alpha x at every step, where both begin from the same latents and end at exactly clean ones."""
    euler = sampler_of("euler", steps, head)
    ddim: Any = DDIMScheduler.from_config(
        {**STABLE_DIFFUSION_SCHEDULE, "set_alpha_to_one": True}, prediction_type=head, timestep_spacing="trailing"
    )
    ddim.set_timesteps(steps)
    begun = normal(0) * euler.init_noise_sigma
    mine, theirs = walk(euler, begun), []
    latents = begun / own_scale(euler, 1000)
    for index in ddim.timesteps:
        latents = ddim.step(network(latents, index), index, latents).prev_sample
        theirs.append(latents)
    for place, (x, z) in enumerate(zip(mine, theirs, strict=True), start=1):
        following = int(euler.timesteps[place]) + 1 if place < steps else 0
        torch.testing.assert_close(x / own_scale(euler, following), z, atol=1e-4, rtol=1e-4)


def test_eulers_grid_is_ddims():
    for steps in (1, 3, 4, 7, 25, 50):
        assert sampler_of("euler", steps).timesteps.tolist() == sampler_of("ddim", steps).timesteps.tolist()


def test_euler_begins_in_the_middle_with_the_noise_of_that_step():
    """What the pipeline makes of the beginning is Euler's own noised latents, and so is what a mask puts back."""
    clean, noise, euler = normal(1), normal(2), sampler_of("euler", 8)
    beginning = Beginning(latents=clean, first_step=3, picture=Any, mask=torch.zeros(1, 1, 8, 8))  # type: ignore[arg-type]
    later = Later(euler, 3)
    later.set_timesteps(8)
    assert len(later.timesteps) == 5
    timestep = int(later.timesteps[0]) + 1
    expected = clean + euler.sigmas[3] * noise
    torch.testing.assert_close(beginning.noised(euler, noise, timestep) * later.init_noise_sigma, expected)
    torch.testing.assert_close(beginning.hold(normal(3), euler, noise, timestep), expected)
    assert torch.equal(beginning.hold(normal(3), euler, noise, 0), clean)
    assert Later(sampler_of("ddim", 8), 3).init_noise_sigma == 1


# --- TCD --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["epsilon", "v_prediction"])
def test_tcd_without_gamma_is_the_deterministic_walk(head: Any):
    """Each step is DDIM's from a step of the grid to the next, whatever the generator, and the last one to index 0."""
    seen = []
    for seed in (0, 1):
        tcd = sampler_of("tcd", 4, head)
        tcd.gamma = 0.0
        seen.append(walk(tcd, normal(0), seed))
    signal = tcd.alphas_cumprod.double()
    assert tcd.timesteps.tolist() == [999, 759, 499, 259]
    latents = normal(0).double()
    for place, index in enumerate([999, 759, 499, 259]):
        a, b = signal[index].sqrt(), (1 - signal[index]).sqrt()
        out = network(latents, index)
        clean = a * latents - b * out if head == "v_prediction" else (latents - b * out) / a
        noise = a * out + b * latents if head == "v_prediction" else out
        end = signal[[759, 499, 259, 0][place]]
        latents = end.sqrt() * clean + (1 - end).sqrt() * noise
        for each in seen:
            torch.testing.assert_close(each[place].double(), latents, atol=1e-4, rtol=1e-4)


def test_tcds_gamma_is_the_authors_whatever_a_pipeline_passes():
    theirs: Any = TCDScheduler.from_config(STABLE_DIFFUSION_SCHEDULE)
    noise, ends = normal(0), []
    for sampler, eta in ((sampler_of("tcd", 4), 0.0), (sampler_of("tcd", 4), 1.0), (theirs, TCD_GAMMA)):
        sampler.set_timesteps(4)
        ends.append(sampler.step(noise, sampler.timesteps[0], noise, eta, torch.Generator().manual_seed(3)).prev_sample)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_tcd_noises_again_between_steps_and_not_after_the_last():
    one, other = (walk(sampler_of("tcd", 2), normal(0), seed) for seed in (0, 1))
    assert not torch.allclose(one[0], other[0], atol=0.1)
    assert torch.equal(*(walk(sampler_of("tcd", 1), normal(0), seed)[0] for seed in (0, 1)))


def test_tiles_of_tcd_take_the_noise_of_their_place():
    """Two tiles with the same latents where they meet still have the same there after a step."""
    grid = lay(96, 64, 64, 32)
    left, right = grid.tiles()
    latents, whole = TiledLatents(grid.canvas, 4, 8, seed=1), torch.randn(1, 4, 8, 12)
    ends = []
    for tile in (left, right):
        tcd = sampler_of("tcd", 4)
        share_noise(tcd, tile, latents)
        part = whole[..., tile.left // 8 : tile.left // 8 + 8]
        ends.append(walk(tcd, part, seed=7))
    for at_left, at_right in zip(*ends, strict=True):
        torch.testing.assert_close(at_left[..., 4:], at_right[..., :4])
    own = sampler_of("tcd", 4)
    ended = own.step(normal(0), own.timesteps[0], normal(1), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(own.renoised(ended.pred_noised_sample, normal(2), 1), ended.prev_sample)


# --- through the engine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("accelerator", ["euler", "tcd"])
@pytest.mark.parametrize("family", ["sd15", "sd21"])
def test_the_picture_is_the_stock_pipelines(
    engine: DiffusionEngine, ask: Ask, family: str, accelerator: str, guidance: float
):
    """The same noise, steps and arithmetic as diffusers' pipeline with its own scheduler, prepared as the cards say."""
    asked = ask(family, accelerator=accelerator, steps=5, guidance=guidance)
    ours = np.asarray(result_of(engine.generate(asked)).images[0].image).astype(int)
    resident = engine._loader._resident
    assert resident is not None
    stock: Any = StableDiffusionPipeline(**resident.pipe.components, requires_safety_checker=False)
    kind = {"euler": EulerDiscreteScheduler, "tcd": TCDScheduler}[accelerator]
    stock.scheduler = kind.from_config(resident.noise_schedule, timestep_spacing="trailing")
    stock.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        theirs = stock(
            prompt_embeds=resident.prompts.encode(asked.prompt).embeds,
            negative_prompt_embeds=resident.prompts.encode("", negative=True).embeds,
            num_inference_steps=5, guidance_scale=guidance, eta=TCD_GAMMA, height=64, width=64,
            generator=torch.Generator().manual_seed(asked.seed), output_type="pil",
        ).images[0]  # fmt: skip
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1


@pytest.mark.parametrize("accelerator", ["euler", "tcd"])
def test_guidance_off_in_a_window_is_as_good_as_off(engine: DiffusionEngine, ask: Ask, accelerator: str):
    single, barely, mixed = (
        result_of(engine.generate(ask(accelerator=accelerator, steps=8, guidance=guidance)))
        for guidance in (1, [1.0000001, 1, 1, 1], [3, 3, 1, 1])
    )
    pictures = [np.asarray(each.images[0].image).astype(int) for each in (single, barely, mixed)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert np.abs(pictures[0] - pictures[2]).max() > 1
    assert mixed.receipt.num_network_calls == mixed.receipt.plan.num_network_calls == 12
