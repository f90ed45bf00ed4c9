"""Where the weights of catalogue entries lie, and the delta weights read from them.

An entry's source is a folder below `assets/`, a path the owner named, or a hub id; looked for in that order.
Knows files and ΔW, not pipelines, devices or what is resident.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from studio.catalog import Catalog
from studio.engine.hub import (
    DELTA_NAMES,
    LORA_NAME,
    Choose,
    Hub,
    Say,
    has_all_shards,
    missing_parts,
    pipeline_files,
    unavailable,
    weight_files,
)
from studio.errors import ModelUnavailable, UnsafeFile
from studio.perflow import DeltaWeights
from studio.perflow.safefile import read_tensors
from studio.specs import AcceleratorSpec, ControlSpec, DeltaSpec, ModelSpec


class Weights:
    """Finds and, where allowed, downloads what a model or an accelerator needs."""

    def __init__(self, catalog: Catalog, hub: Hub, assets_dir: Path) -> None:
        self._catalog, self._hub, self._assets_dir = catalog, hub, assets_dir

    # --- models ---

    def pipeline(self, model: ModelSpec, say: Say) -> Path:
        """The folder (or single file) of a model, complete. Raises `ModelUnavailable` or `UnsafeFile`."""
        found = self._local(model.source)
        if model.kind == "single_file":
            return _checked_single_file(model, found)
        if model.kind != "hub":
            return _checked_folder(model, found)
        if cached := self._cached_pipeline(model):
            return cached
        folder = self._hub.download(model.source, model.revision, pipeline_files(model.variant), say)
        missing = missing_parts(folder, model.variant)
        if missing:
            raise unavailable(model.source, f"the repository has no safetensors or configuration of {missing}")
        return folder

    def num_bytes(self, model: ModelSpec) -> int:
        """The size of a model's weights on disk, or of their download, by which their memory is estimated."""
        found = self._cached_pipeline(model) if model.kind == "hub" else self._local(model.source)
        if found is None:
            return model.download_bytes or 0
        if found.is_file():
            return found.stat().st_size
        folders = [path for path in found.iterdir() if path.is_dir()]
        names = [(folder, [path.name for path in folder.iterdir()]) for folder in folders]
        return sum((folder / name).stat().st_size for folder, all in names for name in weight_files(all, model.variant))

    def configuration(self, model: ModelSpec) -> Path:
        """A folder with the configuration of a model's family, for reading single files."""
        peers = [each for each in self._catalog.models if each.family == model.family and each.kind == "hub"]
        for peer in peers:
            if cached := self._cached_pipeline(peer):
                return cached
        if not peers:
            raise ModelUnavailable(
                f"{model.title}: the catalogue names no hub model of family {model.family}, whose "
                f"configuration a single file needs."
            )
        return self._hub.download(peers[0].source, peers[0].revision, pipeline_files(None, weights=False), _silent)

    def _cached_pipeline(self, model: ModelSpec) -> Path | None:
        index = self._hub.cached(model.source, "model_index.json", model.revision)
        return index.parent if index and not missing_parts(index.parent, model.variant) else None

    # --- accelerators ---

    def delta(self, accelerator: AcceleratorSpec, say: Say) -> DeltaWeights:
        """The delta weights of an accelerator, read or formed. Raises `ModelUnavailable`, `UnsafeFile`."""
        if accelerator.minus:
            return self._subtract(accelerator, self._catalog.model(accelerator.minus), say)
        path = self._files(accelerator, _delta_files(accelerator.variant), say)
        say(f"Reading {accelerator.title}", None)
        return DeltaWeights.read(path, variant=accelerator.variant, spec=accelerator.delta)

    def lora(self, accelerator: AcceleratorSpec, say: Say) -> Path:
        """The safetensors file of a LoRA. Raises `ModelUnavailable`, and `UnsafeFile` for any other kind of file."""
        wanted = accelerator.file or LORA_NAME
        folder = self._files(accelerator, lambda names: [name for name in names if name == wanted], say)
        path = folder if folder.is_file() else folder / wanted
        if path.suffix != ".safetensors":
            raise UnsafeFile(f"{accelerator.title}: expected a safetensors file, got '{path.name}'; convert it first.")
        if not path.is_file():
            raise _not_in_assets(accelerator.title, f"{accelerator.source}/{wanted}", self._assets_dir)
        return path

    def _files(self, accelerator: AcceleratorSpec, choose: Choose, say: Say) -> Path:
        source = accelerator.source or ""
        found = self._local(source)
        if found is not None:
            return found
        if not _is_hub_id(source):
            raise _not_in_assets(accelerator.title, source, self._assets_dir)
        return self._cached_files(accelerator, choose) or self._hub.download(source, None, choose, say)

    def _cached_files(self, accelerator: AcceleratorSpec, choose: Choose) -> Path | None:
        infix = f".{accelerator.variant}" if accelerator.variant else ""
        names = [*DELTA_NAMES, accelerator.file or LORA_NAME, f"diffusion_pytorch_model{infix}.safetensors"]
        for name in choose(names):
            if path := self._hub.cached(accelerator.source or "", name):
                return Path(str(path).removesuffix(name))
        return None

    def _subtract(self, accelerator: AcceleratorSpec, base: ModelSpec, say: Say) -> DeltaWeights:
        merged = self._whole_pipeline(accelerator, base)
        student, teacher = self.pipeline(merged, say), self.pipeline(base, say)
        say(f"Forming {accelerator.title}", None)
        spec = accelerator.delta or DeltaSpec(family=base.family)
        return DeltaWeights.from_models(read_unet(student, merged.variant), read_unet(teacher, base.variant), spec=spec)

    def _whole_pipeline(self, accelerator: AcceleratorSpec, base: ModelSpec) -> ModelSpec:
        """The pipeline whose UNet, less the base's, is the accelerator."""
        source = accelerator.source or ""
        return ModelSpec(
            id=accelerator.id,
            title=accelerator.title,
            family=base.family,
            kind="folder" if self._local(source) else "hub",
            source=source,
            variant=accelerator.variant,
        )

    # --- controls ---

    def controlnet(self, control: ControlSpec, say: Say) -> Path:
        """The folder of a ControlNet: its configuration and safetensors. Raises `ModelUnavailable`."""
        return self._control_folder(control, control.file, say)

    def image_encoder(self, control: ControlSpec, say: Say) -> Path:
        """The folder of an IP-Adapter's image encoder."""
        beside = self._local(control.image_encoder) if control.origin != "hub" else None
        return beside if beside is not None else self._control_folder(control, control.image_encoder, say)

    def ip_adapter(self, control: ControlSpec, say: Say) -> Path:
        """The safetensors file of an IP-Adapter."""
        found = self._local(control.source) if control.origin != "hub" else None
        if found is not None and (found / control.file).is_file():
            return found / control.file
        if control.origin != "hub":
            raise _not_in_assets(control.title, f"{control.source}/{control.file}", self._assets_dir)
        cached = self._hub.cached(control.source, control.file, control.revision)
        if cached is not None:
            return cached
        return self._hub.download(control.source, control.revision, lambda _: [control.file], say) / control.file

    def _control_folder(self, control: ControlSpec, subfolder: str, say: Say) -> Path:
        """A folder with config.json and weights, in the source of a control."""
        prefix = f"{subfolder}/" if subfolder else ""
        if control.origin != "hub":
            found = self._local(control.source)
            if found is None or not _is_network(found / subfolder, control.variant):
                raise _not_in_assets(control.title, f"{control.source}/{prefix}".rstrip("/"), self._assets_dir)
            return found / subfolder
        cached = self._hub.cached(control.source, f"{prefix}config.json", control.revision)
        if cached is not None and _is_network(cached.parent, control.variant):
            return cached.parent

        def choose(names: list[str]) -> list[str]:
            inside = [name for name in names if name.startswith(prefix) and "/" not in name[len(prefix) :]]
            return [f"{prefix}config.json", *weight_files(inside, control.variant)]

        return self._hub.download(control.source, control.revision, choose, say) / subfolder

    def _control_is_on_disk(self, control: ControlSpec) -> bool:
        offline = self._offline()
        if control.kind == "controlnet":
            return offline.controlnet(control, _silent).is_dir()
        return offline.ip_adapter(control, _silent).is_file() and offline.image_encoder(control, _silent).is_dir()

    # --- all ---

    def is_on_disk(self, id: str) -> bool:
        """Whether a model, accelerator or control can be used without a download; also false for what is malformed."""
        entry = self._entry(id)
        try:
            if isinstance(entry, ControlSpec):
                return self._control_is_on_disk(entry)
            is_model = isinstance(entry, ModelSpec)
            return self._model_is_on_disk(entry) if is_model else self._accelerator_is_on_disk(entry)
        except (UnsafeFile, ModelUnavailable):
            return False

    def _entry(self, id: str) -> ModelSpec | AcceleratorSpec | ControlSpec:
        for entry in (*self._catalog.models, *self._catalog.controls):
            if entry.id == id:
                return entry
        return self._catalog.accelerator(id)

    def _model_is_on_disk(self, model: ModelSpec) -> bool:
        if model.kind == "hub":
            return self._cached_pipeline(model) is not None
        return self.pipeline(model, _silent).exists()

    def _accelerator_is_on_disk(self, accelerator: AcceleratorSpec) -> bool:
        if accelerator.kind in ("none", "perflow_merged"):
            return True
        if accelerator.minus:
            base = self._catalog.model(accelerator.minus)
            return self._model_is_on_disk(base) and self._model_is_on_disk(self._whole_pipeline(accelerator, base))
        if accelerator.kind == "lora":
            return self._offline().lora(accelerator, _silent).is_file()
        if local := self._local(accelerator.source or ""):
            return local.is_file() or any(local.glob("*.safetensors*"))
        return self._cached_files(accelerator, _delta_files(accelerator.variant)) is not None

    def _offline(self) -> Weights:
        """The same, but it never asks the network."""
        return Weights(self._catalog, Hub(self._hub.cache, offline=True), self._assets_dir)

    def _local(self, source: str) -> Path | None:
        """A source below the assets folder, or the owner's own path."""
        for path in (self._assets_dir / source, Path(source).expanduser()):
            if source and path.exists():
                return path
        return None


def _is_network(folder: Path, variant: str | None) -> bool:
    """Whether a folder holds one network, whole."""
    if not (folder / "config.json").is_file():
        return False
    return has_all_shards(folder, weight_files([path.name for path in folder.iterdir()], variant))


def read_unet(folder: Path, variant: str | None) -> dict[str, torch.Tensor]:
    """The UNet's parameters of a pipeline's folder, in the precision they are stored in."""
    tensors: dict[str, torch.Tensor] = {}
    for path in unet_files(folder, variant):
        tensors |= read_tensors(path)
    return tensors


def unet_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files of a pipeline's UNet."""
    names = weight_files([path.name for path in (folder / "unet").iterdir()], variant)
    return [folder / "unet" / name for name in names if name.endswith(".safetensors")]


def stored_dtype(path: Path) -> torch.dtype:
    """The precision of a safetensors file, by its first tensor."""
    with safe_open(path, framework="pt") as file:
        name = next(iter(file.keys()))
        return {"F16": torch.float16, "BF16": torch.bfloat16}.get(file.get_slice(name).get_dtype(), torch.float32)


def _delta_files(variant: str | None) -> Choose:
    def choose(names: list[str]) -> list[str]:
        return weight_files(names, variant) or [name for name in names if name in DELTA_NAMES]

    return choose


def _checked_folder(model: ModelSpec, folder: Path | None) -> Path:
    if folder is None:
        raise _not_in_assets(model.title, model.source, None)
    missing = missing_parts(folder, model.variant)
    if missing:
        raise ModelUnavailable(f"{model.title}: its folder '{model.source}' lacks {', '.join(missing)}.")
    return folder


def _checked_single_file(model: ModelSpec, path: Path | None) -> Path:
    if path is None:
        raise _not_in_assets(model.title, model.source, None)
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) < 9 or start[8:] != b"{":
        raise UnsafeFile(
            f"{model.title}: expected a safetensors file, '{path.name}' is something else; "
            f"convert it to safetensors first."
        )
    return path


def _not_in_assets(title: str, source: str, _assets_dir: Path | None) -> ModelUnavailable:
    return ModelUnavailable(
        f"{title} is not on disk: expected it at '{source}' (below the assets folder, or the path "
        f"the owner named). Choose another, or put it there."
    )


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def _silent(_text: str, _fraction: float | None) -> None:
    """For whoever does not want to hear about progress."""
