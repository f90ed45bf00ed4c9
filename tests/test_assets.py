"""What ships: sizes, formats, licences, and that the built-in models really draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from studio.perflow import DeltaWeights, KeptBase, PeRFlowScheduler, weights_sha256

ASSETS = Path(__file__).parent.parent / "assets"
FILES = [path for path in ASSETS.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    """The base as anyone would load it, without this project."""
    pipe = StableDiffusionPipeline.from_pretrained(ASSETS / "tabletop", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_no_file_needs_large_file_storage_and_all_fit_the_budget() -> None:
    assert max(path.stat().st_size for path in FILES) < 10_000_000
    assert sum(path.stat().st_size for path in FILES) < 80_000_000


def test_weights_are_safetensors_only() -> None:
    assert {path.suffix for path in FILES if path.stat().st_size > 1_000_000} <= {".safetensors", ".png", ".jpg"}
    assert not [path for path in FILES if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


@pytest.mark.parametrize("name", ["tabletop", "perflow-tabletop", "tabletop-clip", "judge"])
def test_every_model_has_a_card_with_its_recipe(name: str) -> None:
    card = (ASSETS / name / "README.md").read_text()
    for word in ("license:", "Data", "Recipe", "python -m trainer.tabletop", "seed", "minutes", "Measured"):
        assert word in card, word


def test_the_delta_knows_its_base(pipe: StableDiffusionPipeline) -> None:
    delta = DeltaWeights.read(ASSETS / "perflow-tabletop")
    assert delta.spec.base_sha256 == weights_sha256(pipe.unet)
    assert (delta.spec.prediction_type, delta.spec.num_time_windows, delta.spec.guidance_mode) == (
        "ddim_eps",
        4,
        "sync",
    )


def test_the_pipeline_is_stable_diffusions_own(pipe: StableDiffusionPipeline) -> None:
    index = json.loads((ASSETS / "tabletop" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert pipe.vae_scale_factor == 8
    assert pipe.unet.config.sample_size * 8 >= 128
    assert pipe.scheduler.config.beta_start == 0.00085
    assert pipe.scheduler.config.prediction_type == "epsilon"


def test_four_steps_come_nearer_to_the_teacher_than_ddims_four(pipe: StableDiffusionPipeline) -> None:
    """The point of the whole project, on 12 prompts: the error to the teacher's 100 steps falls.

    The median over the pictures: one that flips to another scene outweighs all the rest in a mean.
    """
    prompts = [
        f"a {material} {colour} {shape} on {floor}"
        for material, floor in (("glossy", "grass"), ("matte", "a wooden floor"))
        for colour, shape in (("red", "cube"), ("blue", "ball"), ("green", "cone"))
        for _ in range(2)
    ]
    noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(5))

    def draw(scheduler, steps: int) -> torch.Tensor:
        pipe.scheduler = scheduler
        return pipe(
            prompts, latents=noise.clone(), num_inference_steps=steps, guidance_scale=1.0, output_type="latent"
        ).images

    config = pipe.scheduler.config
    ddim = DDIMScheduler.from_config(config, timestep_spacing="trailing")
    reference = draw(ddim, 100)
    plain = draw(ddim, 4) - reference
    base = KeptBase(pipe.unet)
    base.apply(DeltaWeights.read(ASSETS / "perflow-tabletop"), 1.0)
    few = draw(PeRFlowScheduler.from_config(config, prediction_type="ddim_eps", num_time_windows=4), 4) - reference
    base.restore()
    errors = [each.square().mean(dim=(1, 2, 3)).median() for each in (few, plain)]
    assert errors[0] < 0.8 * errors[1]
