"""A tiny multiview network with random weights in the published layout, and a catalogue folder that lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from studio.networks.wonder3d import grown_from
from tests.tiny import TEXT_WIDTH, tiny_delta, tiny_pipeline_folder

SIZE = 64
MULTIVIEW = f"""
[tiny-views]
title = "Tiny views"
family = "sd15"
kind = "builtin"
source = "tiny-views"
{{vae}}
native_width = {SIZE}
native_height = {SIZE}
default_accelerator = "perflow"
"""
MODELS = """
[tiny]
title = "Tiny"
family = "sd15"
kind = "builtin"
source = "tiny"
native_width = 64
native_height = 64
default_accelerator = "perflow"
"""
ACCELERATORS = """
[perflow]
title = "Tiny PeRFlow"
kind = "perflow_delta"
sampler = "perflow"
families = ["sd15"]
source = "perflow"
[perflow.delta]
family = "sd15"
prediction_type = "ddim_eps"

[ddim]
title = "DDIM"
kind = "none"
sampler = "ddim"
families = ["sd15"]
recommended_steps = 8

[lcm]
title = "LCM"
kind = "lora"
sampler = "lcm"
families = ["sd15"]
source = "lora"
"""


def write_studio(folder: Path, *, with_weights: bool = True) -> tuple[Path, Path]:
    """Assets and presets of a studio with a tiny base, its delta weights and a tiny multiview network."""
    assets, presets = folder / "assets", folder / "presets"
    assets.mkdir(parents=True)
    presets.mkdir()
    (presets / "models.toml").write_text(MODELS)
    (presets / "accelerators.toml").write_text(ACCELERATORS)
    (presets / "multiview.toml").write_text(MULTIVIEW.format(vae='vae = "tiny/vae"'))
    tiny_delta(assets / "perflow", tiny_pipeline_folder(assets / "tiny"))
    if with_weights:
        write_views(assets / "tiny-views", assets / "tiny")
    return assets, presets


def write_views(folder: Path, base: Path) -> None:
    """unet/, image_encoder/ and scheduler/; the autoencoder is the base's, as in Tabletop's own folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        unet: Any = grown_from(UNet2DConditionModel.from_pretrained(base, subfolder="unet"))
        for value in unet.parameters():  # so that what is new does something
            value.data += 0.02 * torch.randn_like(value)
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=TEXT_WIDTH, intermediate_size=32, projection_dim=TEXT_WIDTH, num_hidden_layers=1,
                num_attention_heads=2, image_size=32, patch_size=16,
            )
        )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    encoder.save_pretrained(folder / "image_encoder")
    DDIMScheduler.from_pretrained(base, subfolder="scheduler").save_pretrained(folder / "scheduler")
