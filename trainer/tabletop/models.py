"""The architectures of the Tabletop family: Stable Diffusion's own, only smaller.

`B 3 128 128` pixels in [-1, 1] <-> `B 4 16 16` latents; prompts are `B 64` token ids of a byte-level BPE whose merges
are the world's words, so that any text is accepted and "red" is one token. Sizes were chosen by measuring speed on two
CPU cores (channels at full resolution cost most in a VAE) and by the 10 MB a file, 80 MB in all, that may be shipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from trainer.tabletop.captions import vocabulary

IMAGE_SIZE = 128
LATENT_SIZE = 16
TEXT_WIDTH = 192
MAX_TOKENS = 64


def new_vae() -> AutoencoderKL:
    """KL autoencoder, factor 8, 3 M parameters; no attention, so it decodes any size."""
    blocks: dict[str, Any] = {
        "block_out_channels": (16, 32, 96, 128),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        **blocks,
    )


def new_unet() -> UNet2DConditionModel:
    """Noise predictor, 7.7 M parameters: wide convolutions at 16 x 16, attention at 8 x 8 only.

    Attention over the 256 places of 16 x 16 took a third of the time there, for half of these channels.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(128, 160),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def new_text_encoder(vocab_size: int) -> CLIPTextModelWithProjection:
    """Four layers of CLIP's causal text transformer, 2 M parameters; start and end are the last two tokens."""
    end_token = vocab_size - 1
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=end_token - 1,
            eos_token_id=end_token,
            pad_token_id=end_token,
        )
    )


def new_image_encoder() -> CLIPVisionModelWithProjection:
    """Five layers of CLIP's vision transformer on 8 x 8 patches of 16 pixels, 2.5 M parameters."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=5,
            num_attention_heads=6,
            image_size=IMAGE_SIZE,
            patch_size=16,
            hidden_act="gelu",
        )
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Make the tokenizer's files: 512 byte symbols, a merge chain for every word of the world, start and end."""
    symbols = list(_byte_symbols())
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    merges: list[str] = []
    for word in vocabulary():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merge = f"{pieces[-2]} {pieces[-1]}"
            if merge not in merges:
                merges.append(merge)
            pieces[-2:] = [pieces[-2] + pieces[-1]]
            if pieces[-1] not in tokens:
                tokens.append(pieces[-1])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(hidden)) for byte in range(256)]
