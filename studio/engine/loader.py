"""From a catalogue entry to a pipeline in memory: find or download the files, read them, place them on the device.

Sources: a folder below `assets/`, a hub id, a folder or a single safetensors file that the owner named. Safetensors
only, no remote code, no safety checker. One model is resident at a time; loading another frees the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from studio.catalog import Catalog
from studio.engine.accelerator import AcceleratedUNet
from studio.engine.controls import Controls
from studio.engine.device import num_weight_bytes, or_out_of_memory, place, release_memory
from studio.engine.hub import Say
from studio.engine.preview import LinearPreview, Preview, decode
from studio.engine.prompts import PromptEncoder
from studio.engine.samplers import STABLE_DIFFUSION_SCHEDULE
from studio.engine.weights import Weights, stored_dtype, unet_files
from studio.errors import IncompatibleWeights
from studio.specs import ModelSpec

PIPELINES: dict[str, Any] = {
    "tabletop": StableDiffusionPipeline,
    "sd15": StableDiffusionPipeline,
    "sd21": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
}


class Resident:
    """A model in memory: its pipeline, and all that is remembered about it while it stays."""

    def __init__(self, model: ModelSpec, pipe: Any, *, is_merged: bool) -> None:
        self.model = model
        self.pipe = pipe
        self.prompts = PromptEncoder(pipe)
        self.unet = AcceleratedUNet(pipe, model, is_merged=is_merged, read_anew=self.prompts.forget)
        self.controls = Controls(pipe, model)
        self.noise_schedule = pipe.scheduler.config
        self._preview: Preview | None = None

    @property
    def preview(self) -> Preview:
        """A small model's own VAE is quick enough to show every step as it is; a large one's needs the linear map."""
        if self._preview is None:
            is_small = self.model.family == "tabletop"
            linear = partial(LinearPreview, self.pipe.vae, self.pipe._execution_device)
            self._preview = partial(decode, self.pipe.vae) if is_small else linear()
        return self._preview


class Loader:
    """Keeps the one resident model."""

    def __init__(self, catalog: Catalog, weights: Weights, *, device: torch.device, dtype: torch.dtype) -> None:
        self._catalog, self._weights = catalog, weights
        self._device, self._dtype = device, dtype
        self._resident: Resident | None = None

    def load(self, model: ModelSpec, say: Say) -> Resident:
        """The resident model, loaded if it is not there. Raises `ModelUnavailable`, `UnsafeFile`, `OutOfMemory`."""
        if self._resident and self._resident.model == model:
            return self._resident
        source = self._weights.pipeline(model, say)
        self.unload()
        say(f"Reading {model.title}", None)
        self._resident = or_out_of_memory(
            f"loading {model.title}",
            "Close other programs that use the device, or choose a smaller model.",
            lambda: self._read(model, source),
        )
        return self._resident

    def num_loaded_bytes(self, model: ModelSpec) -> int:
        """The size of a model's weights if it is the resident one, else 0."""
        resident = self._resident
        return num_weight_bytes(resident.pipe) if resident is not None and resident.model == model else 0

    def unload(self) -> None:
        """Forget the resident model and give its memory back."""
        if self._resident:
            self._resident = None
            release_memory()

    def _read(self, model: ModelSpec, source: Path) -> Resident:
        with _without_progress_bars():
            pipe = read_pipeline(model, source, self._dtype, config=partial(self._weights.configuration, model))
        pipe.set_progress_bar_config(disable=True)
        resident = Resident(model, pipe, is_merged=self._catalog.is_merged(model))  # keeps the base as it is stored
        prepare(pipe, self._dtype)
        place(pipe, self._device)
        return resident


def prepare(pipe: Any, dtype: torch.dtype) -> None:
    """Bring the networks to the precision and the memory layout they compute in."""
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            overflows = name == "vae" and dtype == torch.float16 and pipe.vae.config.force_upcast  # SDXL's
            part.requires_grad_(False)
            nn.Module.to(part, torch.float32 if overflows else dtype)  # diffusers' own .to() only adds a log line
    for part in (pipe.unet, pipe.vae):
        nn.Module.to(part, memory_format=torch.channels_last)


def read_pipeline(model: ModelSpec, source: Path, dtype: torch.dtype, *, config: Callable[[], Path]) -> Any:
    """A stock pipeline of the model's family; `config` gives a configuration folder, needed for single files only."""
    cls = PIPELINES[model.family]
    parts = {"image_encoder": None, "feature_extractor": None}
    if cls is StableDiffusionPipeline:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    if source.is_file():
        stored = stored_dtype(source)
        return cls.from_single_file(str(source), config=str(config()), dtype=stored, local_files_only=True, **parts)
    try:
        return cls.from_pretrained(
            source,
            dtype={"unet": stored_dtype(unet_files(source, model.variant)[0]), "default": dtype},
            variant=_present_variant(source, model.variant),
            use_safetensors=True,
            local_files_only=True,
            scheduler=_read_scheduler(source),
            **parts,
        )
    except (KeyError, ValueError, OSError) as error:
        raise IncompatibleWeights(f"{model.title} could not be read as a {model.family} pipeline: {error}") from error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """The libraries' own bars would only fill the server's log; what a person sees are `Loading` events."""
    logs = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    for each in logs:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in logs:
            each.enable_progress_bar()


def _present_variant(folder: Path, variant: str | None) -> str | None:
    """diffusers refuses a variant that no file has."""
    return variant if variant and any(folder.glob(f"*/*.{variant}*.safetensors")) else None


def _read_scheduler(folder: Path) -> Any:
    """The base's noise schedule as a stock scheduler, whatever class its folder names."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else STABLE_DIFFUSION_SCHEDULE
    return DDIMScheduler.from_config({key: value for key, value in config.items() if not key.startswith("_")})
