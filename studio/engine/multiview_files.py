"""Where the parts of a multiview network lie, and the parts read from there.

A network's folder is in the published layout: `unet/`, `vae/`, `image_encoder/`, `scheduler/`; what it lacks, the
catalogue's entry may name elsewhere. Safetensors only: the published repository also offers pickles, which are not
opened. Knows files and networks, not what is drawn with them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionModelWithProjection

from studio.engine.hub import Hub, Say, unavailable, weight_files
from studio.engine.samplers import STABLE_DIFFUSION_SCHEDULE
from studio.errors import IncompatibleWeights, ModelUnavailable
from studio.networks.wonder3d import on_base, read_wonder3d
from studio.perflow.delta import weights_sha256
from studio.perflow.safefile import read_header, read_tensors
from studio.specs import MultiviewSpec

PARTS = ("unet", "vae", "image_encoder")


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """All that draws views: the network as stored, the autoencoder, the image encoder, the noise schedule."""

    unet: UNet2DConditionModel
    vae: Any
    image_encoder: Any
    noise_schedule: Any

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.unet, self.vae, self.image_encoder)


class MultiviewFiles:
    """Finds and, where allowed, downloads what a multiview network needs."""

    def __init__(self, hub: Hub, assets_dir: Path) -> None:
        self._hub, self._assets_dir = hub, assets_dir

    def folders(self, spec: MultiviewSpec, say: Say) -> dict[str, Path]:
        """The folder of every part (and of the base, where one is named), complete. Raises `ModelUnavailable`."""
        found = self._present(spec)
        if spec.kind == "hub" and not _complete(found):
            snapshot = self._hub.download(spec.source, spec.revision, _choose, say)
            found = {part: snapshot / part for part in PARTS}
        for part, folder in found.items():
            if not _is_whole(folder):
                raise _missing(spec, part)
        return found

    def is_on_disk(self, spec: MultiviewSpec) -> bool:
        """Whether all parts are there without a download."""
        return _complete(self._present(spec))

    def num_bytes(self, spec: MultiviewSpec) -> int:
        """The size of the parts' weights on disk."""
        folders = [folder for folder in self._present(spec).values() if folder.is_dir()]
        return sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))

    def _present(self, spec: MultiviewSpec) -> dict[str, Path]:
        root = self._root(spec)
        named = {"vae": spec.vae, "image_encoder": spec.image_encoder, "base": spec.base}
        parts = [*PARTS, *(["base"] if spec.base else [])]
        return {part: self._local(named.get(part) or "") or root / part for part in parts}

    def _root(self, spec: MultiviewSpec) -> Path:
        cached = self._hub.cached(spec.source, "unet/config.json", spec.revision) if spec.kind == "hub" else None
        return self._local(spec.source) or (cached.parent.parent if cached else self._assets_dir / spec.source)

    def _local(self, source: str) -> Path | None:
        for path in (self._assets_dir / source, Path(source).expanduser()):
            if source and path.is_dir():
                return path
        return None


def read_networks(spec: MultiviewSpec, folders: dict[str, Path]) -> Networks:
    """The parts in memory, the network in the precision it is stored in. Raises `IncompatibleWeights`."""
    unet: Any = read_wonder3d(folders["unet"], unet_tensors(folders["unet"], folders.get("base")))
    try:
        vae = AutoencoderKL.from_pretrained(
            folders["vae"], use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
        encoder = CLIPVisionModelWithProjection.from_pretrained(
            folders["image_encoder"], use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    except (KeyError, ValueError, OSError) as error:
        raise IncompatibleWeights(f"{spec.title} could not be read: {error}") from error
    if encoder.config.projection_dim != unet.config.cross_attention_dim:
        raise IncompatibleWeights(
            f"{spec.title}: expected an image encoder of width {unet.config.cross_attention_dim}, "
            f"got {encoder.config.projection_dim}."
        )
    schedule = _noise_schedule(folders["unet"].parent / "scheduler" / "scheduler_config.json")
    return Networks(unet=unet, vae=vae.eval(), image_encoder=encoder.eval(), noise_schedule=schedule)


def unet_tensors(folder: Path, base: Path | None) -> dict[str, torch.Tensor]:
    """A network's tensors; what it does not store are those of its base. Raises `IncompatibleWeights`."""
    own = _stored(folder)
    if base is None:
        return own
    below, metadata = _stored(base), read_header(folder / _weights(folder)[0]).metadata
    return on_base(own, metadata, below, weights_sha256(below))


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in _weights(folder) for name, value in read_tensors(folder / file).items()}


def _noise_schedule(path: Path) -> Any:
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else STABLE_DIFFUSION_SCHEDULE
    scheduler: Any = DDIMScheduler.from_config({key: value for key, value in config.items() if not key.startswith("_")})
    return scheduler.config


def _choose(names: list[str]) -> list[str]:
    """Of a repository: the parts' configuration and safetensors."""
    wanted = [name for name in names if name.split("/")[0] in (*PARTS, "scheduler") and name.count("/") == 1]
    chosen = [name for name in wanted if name.endswith(".json") and "index" not in name]
    for part in PARTS:
        chosen += weight_files([name for name in wanted if name.startswith(f"{part}/")], None)
    return chosen


def _complete(folders: dict[str, Path]) -> bool:
    return all(_is_whole(folder) for folder in folders.values())


def _is_whole(folder: Path) -> bool:
    """A configuration, and every file of the weights that the index (or the only name) tells of."""
    if not (folder / "config.json").is_file():
        return False
    names = [path.name for path in folder.iterdir()]
    indices = [name for name in weight_files(names, None) if name.endswith(".json")]
    if not indices:
        return len(_weights(folder)) == 1
    shards = json.loads((folder / indices[0]).read_text(encoding="utf-8"))["weight_map"].values()
    return set(shards) <= set(names)


def _weights(folder: Path) -> list[str]:
    files = weight_files([path.name for path in folder.iterdir()], None)
    return [name for name in files if name.endswith(".safetensors")]


def _missing(spec: MultiviewSpec, part: str) -> ModelUnavailable:
    if spec.kind == "hub":
        return unavailable(
            spec.source, f"it has no safetensors of {part} (pickled weights are never opened here: convert them where "
            f"you trust them, and put the folder at assets/{spec.source})",
        )  # fmt: skip
    return ModelUnavailable(f"{spec.title} is not on disk: expected its {part} in '{spec.source}'.")
