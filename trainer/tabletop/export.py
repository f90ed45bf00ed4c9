"""From the recipe's results to the folders that ship: Stable Diffusion's layout, fp16 safetensors, below 10 MB a file.

assets/tabletop/          a StableDiffusionPipeline folder (text encoder, VAE, UNet, tokenizer, scheduler)
assets/tabletop-clip/     the image encoder of the same CLIP pair, and the text side's projection
assets/perflow-tabletop/  delta weights with their DeltaSpec
assets/judge/             the classifier that benchmarks ask
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextModel

from studio.perflow.delta import DeltaWeights, weights_sha256
from studio.types import DeltaSpec
from trainer.tabletop import models
from trainer.tabletop.cards import LICENCE, write_cards
from trainer.tabletop.judge import Judge

if TYPE_CHECKING:
    from trainer.tabletop.recipe import Recipe

SHARD = "9MB"


def export(recipe: Recipe) -> None:
    """Write what exists of the family to `recipe.assets`."""
    if recipe.result("teacher").exists():
        _pipeline(recipe, recipe.assets / "tabletop")
    if recipe.result("perflow").exists():
        _delta(recipe, recipe.assets / "perflow-tabletop")
    _clip(recipe, recipe.assets / "tabletop-clip")
    if recipe.result("judge").exists():
        folder = _emptied(recipe.assets / "judge")
        judge = recipe.read("judge", Judge())
        save_file(
            {name: value.half().contiguous() for name, value in judge.state_dict().items()},
            folder / "judge.safetensors",
        )
    write_cards(recipe.assets, recipe.facts(), recipe.num_scenes)


def _emptied(folder: Path) -> Path:
    """The folder without its old weights; a README.md in it stays."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".md":
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def text_encoder(recipe: Recipe) -> CLIPTextModel:
    """The CLIP text encoder without its projection, as pipelines want it."""
    pair = recipe.new_clip()
    recipe.read("clip", pair)
    encoder = CLIPTextModel(pair.text.config)
    wanted = encoder.state_dict()
    given = {name.removeprefix("text_model."): value for name, value in pair.text.state_dict().items()}
    encoder.load_state_dict({name: given[name.removeprefix("text_model.")] for name in wanted})
    return encoder


def pipeline(recipe: Recipe) -> StableDiffusionPipeline:
    """The base in fp32 with fp16-rounded weights."""
    vae = models.new_vae()
    recipe.read("decoder" if recipe.result("decoder").exists() else "vae", vae)
    vae.register_to_config(scaling_factor=recipe.facts()["vae"]["scaling_factor"])
    return StableDiffusionPipeline(
        vae=vae.half().float(),
        text_encoder=text_encoder(recipe).half().float(),
        tokenizer=recipe.tokenizer(),
        unet=recipe.teacher(),
        scheduler=models.new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _pipeline(recipe: Recipe, folder: Path) -> None:
    _emptied(folder)
    pipeline(recipe).to(dtype=torch.float16).save_pretrained(folder, max_shard_size=SHARD)


def _clip(recipe: Recipe, folder: Path) -> None:
    if not recipe.result("clip").exists():
        return
    _emptied(folder)
    pair = recipe.new_clip()
    recipe.read("clip", pair)
    pair.image.half().save_pretrained(folder / "image_encoder")
    projection = {
        "text_projection.weight": pair.text.text_projection.weight.half(),
        "logit_scale": pair.logit_scale.half(),
    }
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in projection.items()},
        folder / "text_projection.safetensors",
    )


def _delta(recipe: Recipe, folder: Path) -> None:
    teacher = recipe.teacher()
    student = models.new_unet()
    recipe.read("perflow", student)
    spec = DeltaSpec(
        family="tabletop", prediction_type="ddim_eps", num_time_windows=4, guidance_mode="sync",
        base_sha256=weights_sha256(teacher), license=LICENCE, name="perflow-tabletop",
    )  # fmt: skip
    _emptied(folder)
    DeltaWeights.from_models(student, teacher, spec=spec).write(folder, max_shard_bytes=9_000_000)
