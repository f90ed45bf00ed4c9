"""ControlNets and IP-Adapters on a resident pipeline: attached for a request, taken off without a trace.

A ControlNet is a network beside the UNet and touches nothing of it. An IP-Adapter replaces the UNet's cross-attention
processors and gives it an image projection; taking it off puts back the very processors that were there, so that the
base, with or without delta weights in it, is bit by bit what it was. Networks of the last few requests stay in memory.
It does not know where files lie (`Weights` finds them), nor what is drawn.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from studio.conditions import MAX_CONTROL_UNITS, Reference
from studio.engine.accelerator import file_sha256
from studio.engine.hub import Say, weight_files
from studio.errors import IncompatibleWeights
from studio.perflow.safefile import read_tensors
from studio.specs import ControlSpec, ModelSpec

NUM_KEPT_CONTROLNETS = MAX_CONTROL_UNITS
PLAIN_PROJECTION = "proj.weight"


@dataclass(frozen=True, kw_only=True, eq=False)
class Attached:
    """What is attached for one request, in its order; `sha256` of the weights by the control's id."""

    controlnets: tuple[Any, ...] = ()
    encoders: tuple[ImageEncoder, ...] = ()
    sha256: dict[str, str] | None = None

    def encode(self, place: int, image: Image.Image) -> torch.Tensor:
        """What the reference at a place brings in: 1 1 D."""
        return self.encoders[place](image)


class ImageEncoder:
    """A CLIP image encoder, and how its pictures are prepared."""

    def __init__(self, model: Any) -> None:
        self._model = model
        side = model.config.image_size
        self._prepare = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The embedding of a picture, 1 1 D."""
        weight = next(self._model.parameters())
        pixels = self._prepare(images=image, return_tensors="pt")["pixel_values"].to(weight.device, weight.dtype)
        return self._model(pixels).image_embeds[None]


class Controls:
    """The ControlNets and IP-Adapters of one resident pipeline."""

    def __init__(self, pipe: Any, model: ModelSpec) -> None:
        self._pipe, self._model = pipe, model
        self._kept: OrderedDict[ControlSpec, tuple[nn.Module, str]] = OrderedDict()
        self._adapters: tuple[ControlSpec, ...] = ()
        self._adapter_sha256: dict[str, str] = {}
        self._encoders: tuple[ImageEncoder, ...] = ()
        self._processors: dict[str, Any] | None = None

    def attach(
        self, controls: tuple[ControlSpec, ...], adapters: tuple[ControlSpec, ...], weights: Any, say: Say
    ) -> Attached:
        """Exactly these, and nothing else. Raises `IncompatibleWeights`, `ModelUnavailable`; then no adapter is on."""
        for spec in (*controls, *adapters):
            check_fits(spec, self._model)
        if adapters != self._adapters:
            self.detach_adapters()
            if adapters:
                self._attach_adapters(adapters, weights, say)
        networks = tuple(self._controlnet(spec, weights, say) for spec in controls)
        hashes = {spec.id: self._kept[spec][1] for spec in controls} | self._adapter_sha256
        return Attached(controlnets=networks, encoders=self._encoders, sha256=hashes)

    def set_scales(self, references: tuple[Reference, ...]) -> None:
        """How strongly each attached reference acts."""
        for processor in self._pipe.unet.attn_processors.values():
            if hasattr(processor, "to_k_ip"):
                processor.scale = [float(each.scale) for each in references]

    def detach_adapters(self) -> None:
        """Take IP-Adapters off: the processors that were there before, and no projection."""
        if self._processors is not None:
            unet = self._pipe.unet
            unet.encoder_hid_proj = None
            unet.config.encoder_hid_dim_type = None
            unet.set_attn_processor(dict(self._processors))
        self._adapters, self._encoders, self._processors, self._adapter_sha256 = (), (), None, {}

    # --- ControlNets ---

    def _controlnet(self, spec: ControlSpec, weights: Any, say: Say) -> nn.Module:
        if spec not in self._kept:
            folder = weights.controlnet(spec, say)
            say(f"Reading {spec.title}", None)
            while len(self._kept) >= NUM_KEPT_CONTROLNETS:
                self._kept.popitem(last=False)
            self._kept[spec] = (self._read_controlnet(spec, folder), _sha256_of(folder, spec.variant))
        self._kept.move_to_end(spec)
        return self._kept[spec][0]

    def _read_controlnet(self, spec: ControlSpec, folder: Path) -> nn.Module:
        names = [path.name for path in folder.iterdir()]
        variant = spec.variant if spec.variant and any(f".{spec.variant}." in name for name in names) else None
        try:
            network: Any = ControlNetModel.from_pretrained(
                folder, dtype=_dtype(self._pipe), variant=variant, use_safetensors=True, local_files_only=True,
                low_cpu_mem_usage=False,
            )  # fmt: skip
        except (KeyError, ValueError, OSError, RuntimeError) as error:
            raise IncompatibleWeights(f"{spec.title} could not be read as a ControlNet: {error}") from error
        _check_shape(spec, network, self._pipe.unet, self._model)
        network.requires_grad_(False).eval()
        return network.to(self._pipe._execution_device, memory_format=torch.channels_last)

    # --- IP-Adapters ---

    def _attach_adapters(self, adapters: tuple[ControlSpec, ...], weights: Any, say: Say) -> None:
        files, states, encoders = {}, {}, {}
        for spec in dict.fromkeys(adapters):
            files[spec] = weights.ip_adapter(spec, say)
            say(f"Reading {spec.title}", None)
            states[spec] = _split(spec, read_tensors(files[spec]))
            encoders[spec] = self._read_encoder(weights.image_encoder(spec, say))
        unet = self._pipe.unet
        self._processors = dict(unet.attn_processors)
        try:
            with torch.inference_mode(False):
                unet._load_ip_adapter_weights([states[spec] for spec in adapters], low_cpu_mem_usage=False)
        except (KeyError, ValueError, RuntimeError) as error:
            self.detach_adapters()
            raise IncompatibleWeights(f"{adapters[0].title} does not fit {self._model.title}: {error}") from error
        for part in (unet.encoder_hid_proj, *unet.attn_processors.values()):
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self._encoders = tuple(encoders[spec] for spec in adapters)
        self._adapters = adapters
        self._adapter_sha256 = {spec.id: file_sha256(files[spec]) for spec in files}

    def _read_encoder(self, folder: Path) -> ImageEncoder:
        model: Any = CLIPVisionModelWithProjection.from_pretrained(
            folder, dtype=_dtype(self._pipe), use_safetensors=True, local_files_only=True
        )
        model.requires_grad_(False).eval()
        return ImageEncoder(model.to(self._pipe._execution_device))


def check_fits(spec: ControlSpec, model: ModelSpec) -> None:
    """Refuse what was made for another family."""
    if spec.family != model.family:
        raise IncompatibleWeights(
            f"{spec.title} is made for {spec.family}, and {model.title} is {model.family}: choose one of its family."
        )


def _check_shape(spec: ControlSpec, network: Any, unet: Any, model: ModelSpec) -> None:
    for name in ("block_out_channels", "cross_attention_dim", "in_channels"):
        wanted, got = unet.config[name], network.config[name]
        if (tuple(wanted) if isinstance(wanted, list | tuple) else wanted) != (
            tuple(got) if isinstance(got, list | tuple) else got
        ):
            raise IncompatibleWeights(
                f"{spec.title} does not fit {model.title}: expected {name} {wanted}, got {got}; was it trained on "
                f"another base?"
            )


def _split(spec: ControlSpec, tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The two halves of an IP-Adapter file: the projection, and keys and values by the number of their layer."""
    halves: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        half, _, rest = name.partition(".")
        if half not in halves:
            raise IncompatibleWeights(f"{spec.title}: expected the keys of an IP-Adapter file, got {name!r}.")
        halves[half][rest] = tensor
    if PLAIN_PROJECTION not in halves["image_proj"] or not halves["ip_adapter"]:
        raise IncompatibleWeights(
            f"{spec.title}: expected an IP-Adapter of whole-picture embeddings (image_proj.proj.weight and ip_adapter "
            f"keys); its “plus” and face kinds are not read."
        )
    return halves


def _sha256_of(folder: Path, variant: str | None) -> str:
    names = weight_files([path.name for path in folder.iterdir()], variant)
    first = next(name for name in names if name.endswith(".safetensors"))
    return file_sha256(folder / first)


def _dtype(pipe: Any) -> torch.dtype:
    return next(pipe.unet.parameters()).dtype
