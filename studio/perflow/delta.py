"""Delta weights: what a PeRFlow student learnt, as theta_student - theta_teacher by parameter name, with its facts.

Reads our own file (facts as JSON in the metadata, one file or shards below 10 MB), the hub's layout
`diffusion_pytorch_model[.variant].safetensors` and the older `delta_weights.safetensors`, or a folder with one of them.
Differences are formed in fp32. Writing replaces the old file whole or not at all.

This module knows no scheduler and no pipeline; `merge` puts deltas onto a base.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import torch
from safetensors.torch import save

from studio.errors import IncompatibleWeights, ModelUnavailable, UnsafeFile
from studio.perflow.prediction import EPSILON_HEADS, HEADS
from studio.perflow.safefile import read_header, read_sharded, read_tensors
from studio.specs import DeltaSpec, Family

OWN_NAME = "perflow_delta"
MAX_SHARD_BYTES = 9_500_000
_SPEC_KEY = "perflow_delta_spec"
_ENTRY_BYTES = 150  # what a tensor's line in the header takes at most, beside its name


@dataclass(frozen=True, kw_only=True, eq=False)
class DeltaWeights:
    """Differences by the plain UNet's parameter names, on the CPU, and what is true of them."""

    tensors: Mapping[str, torch.Tensor]
    spec: DeltaSpec

    @cached_property
    def sha256(self) -> str:
        """The hash of names, shapes and values; the same however the file is sharded."""
        return weights_sha256(self.tensors)

    @classmethod
    def read(cls, path: str | Path, *, variant: str | None = None, spec: DeltaSpec | None = None) -> DeltaWeights:
        """From a file, an index of shards, or a folder. `spec` is needed where the file does not carry its own.

        Raises `ModelUnavailable`, `UnsafeFile`, or `IncompatibleWeights` when `spec` contradicts the file.
        """
        file = _locate(Path(path), variant)
        if file.suffix == ".json":
            tensors, metadata = read_sharded(file)
        else:
            tensors, metadata = read_tensors(file), read_header(file).metadata
        return cls(tensors=tensors, spec=_agreed_spec(file.name, metadata.get(_SPEC_KEY), spec))

    @classmethod
    def from_models(
        cls,
        student: torch.nn.Module | Mapping[str, torch.Tensor],
        teacher: torch.nn.Module | Mapping[str, torch.Tensor],
        *,
        spec: DeltaSpec,
    ) -> DeltaWeights:
        """student - teacher in fp32; both must have the same parameters."""
        after, before = base_weights(student), base_weights(teacher)
        for name in sorted({*after, *before}):
            if name not in after or name not in before or after[name].shape != before[name].shape:
                raise IncompatibleWeights(f"{name}: expected the same parameter in student and teacher; it differs.")
        difference = {name: _fp32(after[name]) - _fp32(before[name]) for name in after}
        return cls(tensors=difference, spec=spec)

    def write(
        self, path: str | Path, *, dtype: torch.dtype = torch.float16, max_shard_bytes: int = MAX_SHARD_BYTES,
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> Path:  # fmt: skip
        """Write one file (`path` ends in .safetensors) or a folder of shards with an index; returns what to read.

        `notes` are further texts for the metadata, such as the recipe; nobody needs them to use the weights.

        Whatever happens, what stands at `path` is the old delta or the new one, never part of one.
        """
        tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in self.tensors.items()}
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name}: expected finite values in {dtype}, got NaN or overflow.")
        metadata = {**notes, "format": "pt", _SPEC_KEY: json.dumps(asdict(self.spec), sort_keys=True)}
        path = Path(path)
        if path.suffix == ".safetensors":
            _replace(path, save(tensors, metadata))
            return path
        return _write_shards(path, tensors, metadata, max_shard_bytes)


def check_fits(
    spec: DeltaSpec,
    *,
    family: Family,
    base_prediction_type: str = "epsilon",
    merged_with: str | None = None,
    base_sha256: str | None = None,
) -> tuple[str, ...]:
    """Warnings, in sentences; raises `IncompatibleWeights`, explaining it, where the weights cannot work on a base.

    `merged_with` names the accelerator that is already part of the base's weights, if one is.
    """
    name = spec.name or "These delta weights"
    if spec.prediction_type not in HEADS:
        raise IncompatibleWeights(f"{name}: expected a head out of {', '.join(HEADS)}, got {spec.prediction_type!r}.")
    if spec.family != family:
        raise IncompatibleWeights(
            f"{name}: trained on the {spec.family} family, and this model is {family}; choose an accelerator made for "
            f"{family}."
        )
    if merged_with is not None:
        raise IncompatibleWeights(
            f"{name}: this model already contains the accelerator {merged_with}, and two of them add up to noise; "
            "choose the plain base model, or no accelerator."
        )
    needed = {**dict.fromkeys(EPSILON_HEADS, "epsilon"), "v_prediction": "v_prediction"}.get(spec.prediction_type)
    if needed is not None and needed != base_prediction_type:
        raise IncompatibleWeights(
            f"{name}: its head {spec.prediction_type} belongs on a base that predicts {needed}, and this model "
            f"predicts {base_prediction_type}; choose a base of that kind."
        )
    if None not in (spec.base_sha256, base_sha256) and spec.base_sha256 != base_sha256:
        return (
            f"{name}: trained from a base whose values are not this model's (a fine-tune, or rounded to another "
            "precision); such weights usually carry over.",
        )
    return ()


def base_weights(model: torch.nn.Module | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The plain network's own weights by their plain names, live: LoRA and IP-Adapter layers are seen through."""
    state = model.state_dict() if isinstance(model, torch.nn.Module) else model
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if not _is_adapter(name)}


def weights_sha256(model: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """A hash of the plain network's weights, bit by bit: names, shapes, values as fp32.

    Loading an fp16 file as fp32 leaves it the same; rounding to bf16 or fp16 does not.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(base_weights(model).items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(_fp32(tensor).contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_adapter(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "encoder_hid_proj" or any(part == "processor" or part.startswith("lora_") for part in parts)


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32)


def _locate(path: Path, variant: str | None) -> Path:
    """The file or index that a path means."""
    if not path.is_dir():
        return path
    if variant is None:
        stems = (OWN_NAME, "diffusion_pytorch_model", "delta_weights")
        names = [f"{stem}{end}" for stem in stems for end in (".safetensors.index.json", ".safetensors")]
    elif re.fullmatch(r"[\w.\-]{1,60}", variant):
        stem = "diffusion_pytorch_model"
        names = [f"{stem}.safetensors.index.{variant}.json", f"{stem}.{variant}.safetensors"]
    else:
        raise ModelUnavailable(f"variant: expected letters, digits, dots and dashes, got {variant[:80]!r}.")
    for name in names:
        if (path / name).is_file():
            return path / name
    present = ", ".join(sorted(file.name for file in path.glob("*.safetensors*"))[:8]) or "no safetensors files"
    raise ModelUnavailable(f"{path.name}: expected one of {', '.join(names)}, got {present}.")


def _agreed_spec(file_name: str, stored: str | None, given: DeltaSpec | None) -> DeltaSpec:
    if stored is None:
        if given is None:
            raise IncompatibleWeights(
                f"{file_name}: expected facts about these weights in the file, got none; give family, prediction_type "
                "and num_time_windows in the catalogue."
            )
        return given
    spec = _parse_spec(file_name, stored)
    for fact in ("family", "prediction_type", "num_time_windows"):
        if given is not None and getattr(given, fact) != getattr(spec, fact):
            raise IncompatibleWeights(
                f"{file_name}: expected {fact} {getattr(given, fact)!r} as the catalogue says, got "
                f"{getattr(spec, fact)!r} from the file; correct the catalogue's entry."
            )
    return spec


def _parse_spec(file_name: str, text: str) -> DeltaSpec:
    """The facts out of a file's metadata, as strictly as the weights."""
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFile(f"{file_name} was refused: expected its facts as JSON, got something else.") from error
    known = {field.name for field in fields(DeltaSpec)}
    if not isinstance(values, dict) or not set(values) <= known or not _is_plausible(values):
        raise UnsafeFile(f"{file_name} was refused: expected the facts {', '.join(sorted(known))}, got {text[:200]}.")
    return DeltaSpec(**values)


def _is_plausible(values: dict[str, Any]) -> bool:
    """Whether values of a DeltaSpec have the right types and lie in their ranges."""
    windows, guidance = values.get("num_time_windows", 4), values.get("trained_guidance", 1.0)
    texts = [values.get(key) for key in ("base_sha256", "license", "name")]
    return (
        values.get("family") in get_args(Family)
        and values.get("prediction_type", "ddim_eps") in HEADS
        and type(windows) is int
        and 1 <= windows <= 1000
        and values.get("guidance_mode", "sync") in ("sync", "fixed")
        and type(guidance) in (int, float)
        and math.isfinite(guidance)
        and all(text is None or (isinstance(text, str) and len(text) <= 200) for text in texts)
    )


def _write_shards(folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], limit: int) -> Path:
    """Shards under new names, then the index in one move, and only then the old shards away."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.dumps(metadata, sort_keys=True)
    shards = _split(tensors, limit - len(facts) - _ENTRY_BYTES)
    tag = hashlib.sha256((weights_sha256(tensors) + facts).encode()).hexdigest()[:12]
    names = [f"{OWN_NAME}-{tag}-{place + 1:05d}-of-{len(shards):05d}.safetensors" for place in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _replace(folder / name, save(shard, metadata))
    places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = folder / f"{OWN_NAME}.safetensors.index.json"
    _replace(index, json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1).encode())
    for old in folder.glob(f"{OWN_NAME}-*.safetensors"):
        if old.name not in names:
            old.unlink()
    return index


def _split(tensors: dict[str, torch.Tensor], limit: int) -> list[dict[str, torch.Tensor]]:
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.nbytes + len(name) + _ENTRY_BYTES
        if size > limit:
            raise ValueError(f"{name}: expected at most {limit} bytes in a shard, got {size}; raise the limit.")
        if filled + size > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
    return shards


def _replace(path: Path, content: bytes) -> None:
    """Put a whole file in the place of another, through a synced neighbour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        staged.unlink(missing_ok=True)
