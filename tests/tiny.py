"""Tiny random pipelines in Stable Diffusion's own layout, one per family: made in a second, drawn in a blink.

They have the shapes and the files of the real ones (factor-8 VAE, 4-channel latents, CLIP text towers, byte-level
tokenizer) and seeded random weights, so what they draw is noise, but always the same noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from studio.specs import DeltaSpec, Family

PROMPT_TOKENS = 24
TEXT_WIDTH = 16


def tiny_pipeline_folder(path: Path, family: Family = "sd15", *, seed: int = 0) -> Path:
    """Save a tiny pipeline of a family at `path` (safetensors) and return the path."""
    tiny_pipeline(path.parent / f"{path.name}-tokenizer", family, seed=seed).save_pretrained(path)
    return path


def tiny_pipeline(scratch: Path, family: Family = "sd15", *, seed: int = 0) -> Any:
    """A tiny pipeline of a family; `scratch` is a folder for the tokenizer's files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "vae": _vae(),
            "unet": _unet(family),
            "scheduler": _scheduler(family),
            "tokenizer": _tokenizer(scratch),
            "text_encoder": CLIPTextModel(_text_config()),
        }
        if family == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config())
            parts["tokenizer_2"] = _tokenizer(scratch)
            return StableDiffusionXLPipeline(**parts, add_watermarker=False)
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )


def tiny_delta(
    path: Path, pipeline_folder: Path, *, family: Family = "sd15", size: float = 0.05, seed: int = 1, **facts: Any
) -> Path:
    """Write random delta weights that fit the tiny pipeline's UNet; `facts` are fields of `DeltaSpec`."""
    from studio.perflow import DeltaWeights

    teacher = UNet2DConditionModel.from_pretrained(pipeline_folder, subfolder="unet").state_dict()
    generator = torch.Generator().manual_seed(seed)
    student = {
        key: weight + size * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator)
        for key, weight in teacher.items()
    }
    spec = DeltaSpec(family=family, **facts)
    DeltaWeights.from_models(student, teacher, spec=spec).write(path)
    return path


def tiny_lora(
    folder: Path, pipeline_folder: Path, *, family: Family = "sd15", seed: int = 2, reads_too: bool = False
) -> Path:
    """Write a random rank-2 LoRA of the UNet's attention, in the layout LoRAs are published in; where it `reads_too`,
    with layers of the text encoder."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    def layers(network: Any, targets: list[str]) -> dict[str, torch.Tensor]:
        network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
        return get_peft_model_state_dict(network, save_embedding_layers=False)

    cls = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = {"unet_lora_layers": layers(_part(UNet2DConditionModel, pipeline_folder, "unet"), ["to_q", "to_v"])}
        if reads_too:
            reader = _part(CLIPTextModel, pipeline_folder, "text_encoder")
            found["text_encoder_lora_layers"] = layers(reader, ["q_proj", "v_proj"])
    cls.save_lora_weights(folder, **found)
    return folder


def _part(cls: Any, pipeline_folder: Path, name: str) -> Any:
    return cls.from_pretrained(pipeline_folder, subfolder=name)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def _unet(family: Family) -> UNet2DConditionModel:
    added = {}
    if family == "sdxl":
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
        }
    return UNet2DConditionModel(
        sample_size=16 if family == "tabletop" else 8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=2 * TEXT_WIDTH if family == "sdxl" else TEXT_WIDTH,
        use_linear_projection=family in ("sd21", "sdxl"),
        **added,
    )


def _scheduler(family: Family) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if family == "sd21" else "epsilon",
    )


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Byte-level BPE without merges: one token a byte, so any prompt is accepted and its length is its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(_byte_letters().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=PROMPT_TOKENS)


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


def tiny_controlnet(folder: Path, pipeline_folder: Path, *, seed: int = 3) -> Path:
    """Write a random ControlNet that fits the tiny pipeline's UNet, in diffusers' own folder layout."""
    from diffusers import ControlNetModel

    unet = UNet2DConditionModel.from_pretrained(pipeline_folder, subfolder="unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
        for name, weight in network.named_parameters():
            if "controlnet_" in name:  # else the zero convolutions would hide everything
                weight.data.normal_(0, 0.1)
    network.save_pretrained(folder)
    return folder


def tiny_ip_adapter(folder: Path, pipeline_folder: Path, *, seed: int = 4) -> Path:
    """Write a random IP-Adapter and its image encoder in the published layout: adapter.safetensors, image_encoder/."""
    from safetensors.torch import save_file

    unet = UNet2DConditionModel.from_pretrained(pipeline_folder, subfolder="unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = tiny_image_encoder()
        tensors = ip_adapter_tensors(unet, encoder.config.projection_dim)
    encoder.save_pretrained(folder / "image_encoder")
    save_file(tensors, folder / "adapter.safetensors")
    return folder


def tiny_image_encoder() -> Any:
    """A CLIP image encoder for 32 x 32 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, projection_dim=12, num_hidden_layers=2, num_attention_heads=2,
            image_size=32, patch_size=8,
        )
    )  # fmt: skip


def ip_adapter_tensors(unet: Any, image_width: int, *, num_tokens: int = 4) -> dict[str, torch.Tensor]:
    """The tensors of `ip-adapter_sd15.safetensors` for a UNet: projection, and keys and values of odd layer numbers."""
    text_width = unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(num_tokens * text_width, image_width),
        "image_proj.proj.bias": torch.zeros(num_tokens * text_width),
        "image_proj.norm.weight": torch.ones(text_width),
        "image_proj.norm.bias": torch.zeros(text_width),
    }
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for place, name in enumerate(cross):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            weight = torch.randn(layer.to_q.out_features, text_width) / text_width**0.5
            tensors[f"ip_adapter.{2 * place + 1}.to_{part}_ip.weight"] = weight
    return tensors
