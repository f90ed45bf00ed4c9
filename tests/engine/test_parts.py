"""The engine's small parts: samplers, prompts, previews, precision, advice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from studio.engine.advice import odd_choices
from studio.engine.device import choose_device, choose_dtype, is_out_of_memory, or_out_of_memory
from studio.engine.preview import LinearPreview, PredictedImage, decode, fit_latents_to_rgb
from studio.engine.prompts import PromptEncoder
from studio.engine.samplers import STABLE_DIFFUSION_SCHEDULE, make_sampler, plan_request
from studio.errors import InvalidRequest, OutOfMemory
from studio.perflow import PeRFlowScheduler
from studio.specs import AcceleratorSpec, DeltaSpec, ModelSpec
from studio.types import GenerationRequest, Guidance
from tests.tiny import tiny_pipeline

SAMPLERS = ("perflow", "ddim", "dpmpp", "euler", "lcm", "tcd")


def model_spec(**fields: Any) -> ModelSpec:
    return ModelSpec(**{"id": "m", "title": "M", "family": "sd15", "source": "m", "kind": "builtin", **fields})


def accelerator_spec(sampler: Any, **fields: Any) -> AcceleratorSpec:
    kind = {"perflow": "perflow_delta", "lcm": "lora"}.get(sampler, "none")
    defaults = {"id": sampler, "title": sampler, "kind": kind, "sampler": sampler, "families": ("sd15",)}
    return AcceleratorSpec(**{**defaults, **fields})


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a cube", "width": 512, "height": 512, **fields})


# --- samplers -------------------------------------------------------------------------------------------------------


def test_leaving_perflow_leaves_its_head_behind():
    perflow = make_sampler(
        STABLE_DIFFUSION_SCHEDULE,
        model_spec(),
        accelerator_spec("perflow", delta=DeltaSpec(family="sd15", prediction_type="diff_eps")),
        None,
    )
    assert isinstance(perflow, PeRFlowScheduler)
    assert perflow.config.prediction_type == "diff_eps"
    for sampler in SAMPLERS[1:]:
        left = make_sampler(perflow.config, model_spec(), accelerator_spec(sampler), None)
        assert left.config.prediction_type == "epsilon"
        v = make_sampler(perflow.config, model_spec(prediction_type="v_prediction"), accelerator_spec(sampler), None)
        assert v.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_bases_noise_schedule_survives(sampler: str):
    config = {**STABLE_DIFFUSION_SCHEDULE, "beta_end": 0.02, "beta_schedule": "linear"}
    made = make_sampler(config, model_spec(), accelerator_spec(sampler), None)
    expected = DDIMScheduler.from_config(config).alphas_cumprod
    torch.testing.assert_close(made.alphas_cumprod.float(), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 25, 32])
def test_the_plan_is_the_grid_the_sampler_walks(sampler: str, steps: int):
    spec = accelerator_spec(sampler)
    plan = plan_request(request(steps=steps), model_spec(), spec)
    made = make_sampler(STABLE_DIFFUSION_SCHEDULE, model_spec(), spec, None)
    made.set_timesteps(steps)
    shift = 0 if sampler == "perflow" else 1
    assert list(plan.timesteps) == [int(timestep) + shift for timestep in made.timesteps]
    assert len(plan.guidance) == steps
    assert plan.timesteps[0] == 1000


def test_plain_solvers_share_perflows_grid():
    plans = [plan_request(request(steps=4), model_spec(), accelerator_spec(name)) for name in ("perflow", "ddim")]
    assert plans[0].timesteps == plans[1].timesteps == (1000, 750, 500, 250)
    assert plans[0].windows == plans[1].windows == (0, 1, 2, 3)


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_prompt_is_encoded_once(tmp_path: Path, family: Any):
    pipe = tiny_pipeline(tmp_path, family)
    encoder = PromptEncoder(pipe)
    calls: list[int] = []
    pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    first = encoder.encode("a red cube")
    assert encoder.encode("a red cube") is first
    assert len(calls) == 1
    encoder.encode("a cone", negative=True)
    assert len(calls) == 2
    encoder.forget()
    again = encoder.encode("a red cube")
    assert len(calls) == 3
    torch.testing.assert_close(first.embeds, again.embeds)
    assert (first.pooled is not None) == (family == "sdxl")


def test_an_empty_negative_prompt_is_zeros_where_the_model_learnt_so(tmp_path: Path):
    encoder = PromptEncoder(tiny_pipeline(tmp_path, "sdxl"))
    empty = encoder.encode("", negative=True)
    assert empty.embeds.abs().max() == 0
    assert empty.pooled is not None
    assert empty.pooled.abs().max() == 0
    assert encoder.encode("").embeds.abs().max() > 0
    assert encoder.encode("fog", negative=True).embeds.abs().max() > 0


def test_a_cut_prompt_says_what_was_not_read(tmp_path: Path):
    encoder = PromptEncoder(tiny_pipeline(tmp_path))
    assert encoder.encode("a" * 22).warning is None
    cut = encoder.encode("a" * 22 + "zzz").warning
    assert cut is not None
    assert "reads 22 tokens and got 25" in cut
    assert "“zzz”" in cut
    assert "negative prompt was cut" in (encoder.encode("b" * 30, negative=True).warning or "")


# --- previews -------------------------------------------------------------------------------------------------------


class LinearVae(torch.nn.Module):
    """A VAE whose latents are a linear code of the mean colour below, so that the right answer is known."""

    def __init__(self) -> None:
        super().__init__()
        self.code = torch.nn.Parameter(torch.tensor([[1.0, 0.2, 0.1], [0, 1, 0.3], [0.4, 0, 1], [0.5, 0.5, 0]]))
        self.config = type("Config", (), {"scaling_factor": 0.5})

    def encode(self, pixels: torch.Tensor) -> Any:
        means = torch.nn.functional.avg_pool2d(pixels, 8)
        latents = torch.einsum("lc,bchw->blhw", self.code, means) + 0.25
        distribution = type("Distribution", (), {"mode": lambda _: latents})()
        return type("Encoded", (), {"latent_dist": distribution})()


def test_the_linear_preview_recovers_a_linear_code():
    vae = LinearVae()
    with torch.no_grad():
        preview = LinearPreview(vae, torch.device("cpu"))
        red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        image = preview(vae.encode(red).latent_dist.mode() * 0.5)
    assert image.size == (32, 32)
    assert image.getpixel((16, 16)) == pytest.approx((255, 0, 0), abs=2)


def test_the_fit_works_on_a_real_vae(tmp_path: Path):
    pipe = tiny_pipeline(tmp_path)
    with torch.no_grad():
        weights = fit_latents_to_rgb(pipe.vae, torch.device("cpu"))
    assert weights.shape == (5, 3)
    assert bool(torch.isfinite(weights).all())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_tells_its_predicted_image(sampler: str):
    made = make_sampler(STABLE_DIFFUSION_SCHEDULE, model_spec(), accelerator_spec(sampler), None)
    made.set_timesteps(4)
    predicted = PredictedImage(made)
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    start = made.timesteps[:1]
    sample = made.add_noise(clean, noise, start)
    made.scale_model_input(sample, start[0])
    (following,) = made.step(noise, start[0], sample, return_dict=False)
    assert following.shape == sample.shape
    assert predicted.latents is not None
    # DDIM's answer to a perfect noise prediction is the clean latent; PeRFlow's untrained ddim_eps is close to it.
    tolerance = 0.35 if sampler == "perflow" else 1e-2
    assert (predicted.latents - clean).abs().mean() < tolerance * clean.abs().mean()


def test_decode_is_what_the_stock_pipeline_does(tmp_path: Path):
    pipe: StableDiffusionPipeline = tiny_pipeline(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 2}
    latents = pipe("a", **arguments, generator=torch.Generator().manual_seed(0), output_type="latent").images
    picture = pipe("a", **arguments, generator=torch.Generator().manual_seed(0)).images[0]  # type: ignore[union-attr]
    with torch.no_grad():
        assert decode(pipe.vae, latents).tobytes() == picture.tobytes()


# --- precision, memory, advice --------------------------------------------------------------------------------------


def test_device_and_dtype_are_chosen_or_refused():
    cpu = choose_device("cpu")
    assert choose_dtype("fp32", cpu) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(InvalidRequest, match="dtype: expected fp32 or bf16 on a processor"):
        choose_dtype("fp16", cpu)
    with pytest.raises(InvalidRequest, match="dtype"):
        choose_dtype("int4", cpu)
    with pytest.raises(InvalidRequest, match="device"):
        choose_device("abacus")


def test_memory_shortage_is_told_from_other_errors():
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("sizes of tensors must match"))

    def fail() -> None:
        raise MemoryError

    with pytest.raises(OutOfMemory, match=r"while testing; .* Do less") as caught:
        or_out_of_memory("testing", "Do less.", fail)
    assert caught.value.__context__ is None  # the failed frames, and what they held, are gone


def test_a_shortage_can_really_happen_and_is_recognised():
    with pytest.raises(OutOfMemory):
        or_out_of_memory("testing", "Do less.", lambda: torch.empty(1 << 60, dtype=torch.uint8))


def test_advice_names_what_is_odd_and_only_that():
    def advice(accelerator: AcceleratorSpec, facts: DeltaSpec | None = None, **fields: Any) -> str:
        asked = request(**fields)
        plan = plan_request(asked, model_spec(), accelerator)
        return " ".join(odd_choices(asked, model_spec(), accelerator, facts, plan))

    fixed = DeltaSpec(family="sd15", guidance_mode="fixed", trained_guidance=7.5)
    strong = Guidance(scales=(7.5,))
    assert "learnt their guidance" in advice(accelerator_spec("perflow"), fixed, guidance=strong)
    assert advice(accelerator_spec("perflow"), DeltaSpec(family="sd15"), guidance=strong) == ""
    assert "a lot for LCM" in advice(accelerator_spec("lcm"), guidance=strong)
    unguided = replace(accelerator_spec("ddim"), kind="lora", source="x", recommended_guidance=(1.0,))
    assert "which was made for none" in advice(unguided, guidance=strong)
    assert "which was made for none" not in advice(unguided, guidance=Guidance(scales=(2.0,)))
    assert "has no effect" in advice(accelerator_spec("ddim"), accelerator_strength=0.5)
    assert "bare model" in advice(accelerator_spec("perflow"), accelerator_strength=0)
    assert "negative prompt" in advice(accelerator_spec("ddim"), negative_prompt="x", guidance=Guidance(scales=(1,)))
    assert "not the size" in advice(accelerator_spec("ddim"), width=256)


def test_the_true_sd15_unet_has_the_layout_the_published_delta_has():
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    shapes = {name: tuple(weight.shape) for name, weight in unet.state_dict().items()}
    assert len(shapes) == 686
    assert sum(weight.numel() for weight in unet.state_dict().values()) == 859_520_964
    assert shapes["conv_in.weight"] == (320, 4, 3, 3)
    assert shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == (1280, 768)
