"""From averaged weights to a result others load: delta weights, a LoRA, a ControlNet or a whole model, and its card.

Everything is written into a folder aside, synced, and then put in the place of `export/` by renaming: what stands there
is the old result or the new one, never part of one. No paths of this machine are in it. `lora` makes LoRA files out of
a finished run's delta weights, and says what they lose.
Knows no loop; what the files are called is `studio.runs.exports`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from studio.errors import InvalidRequest, NotFound
from studio.perflow.delta import OWN_NAME, DeltaWeights
from studio.runs.config import TrainingConfig
from studio.runs.exports import LORA_FILE, Export, Kind, read_export, write_export
from studio.runs.folder import RunFolder
from studio.storage import write_whole
from trainer.cards import card, metadata
from trainer.facts import facts_of, licence_of
from trainer.lora_layouts import diffusers_layout, kohya_layout, lora_of_delta
from trainer.networks import Networks
from trainer.students import Student

WEIGHTS = "diffusion_pytorch_model.safetensors"
KOHYA_FILE = "kohya_lora.safetensors"
PLAIN_STEPS = 20  # of a solver without an accelerator
_NOT_COPIED = {"unet", "README.md", "recipe.json", ".git", ".gitattributes"}

Average = Mapping[str, torch.Tensor]


def export(
    run: RunFolder, config: TrainingConfig, networks: Networks, student: Student, average: Average, *, step: int,
    words: str,
) -> Export:  # fmt: skip
    """Write the run's result and return its description. Raises `OSError`, `StudioError`; then the old one stands."""
    aside = RunFolder(run.path / ".staged-export")
    shutil.rmtree(aside.path, ignore_errors=True)
    aside.export_dir.mkdir(parents=True)
    notes = metadata(config, base_sha256=networks.base_sha256, step=step)
    sha256 = _write_weights(aside.export_dir, config, networks, student, average, notes)
    described = describe(config, networks.base_sha256, step=step, sha256=sha256, words=words)
    text = card(config, described, base_sha256=networks.base_sha256, words=words)
    write_whole(aside.export_dir / "README.md", text.encode())
    write_export(aside, described)
    _put_in_place(aside, run)
    return described


def describe(config: TrainingConfig, base_sha256: str, *, step: int, sha256: str, words: str) -> Export:
    """What the catalogue is told of a result."""
    kind = kind_of(config)
    is_accelerator = config.method not in ("diffusion", "controlnet")
    facts = facts_of(config, base_sha256=base_sha256) if is_accelerator else None
    return Export(
        kind=kind, family=config.base.family, sampler=facts.sampler if facts else "dpmpp", base_id=config.base.id,
        title=config.name[:120], step=step, sha256=sha256,
        recommended_steps=facts.recommended_steps if facts else PLAIN_STEPS,
        recommended_guidance=(facts.recommended_guidance if facts else config.sample_guidance,),
        reason=facts.reason if facts else "as the run's samples were drawn", description=words,
        license=licence_of(config), delta=facts.delta if facts else None,
        prediction_type=config.base.prediction_type, native_width=config.resolution, native_height=config.resolution,
        control=config.control,
    )  # fmt: skip


def kind_of(config: TrainingConfig) -> Kind:
    """What comes out of a configuration."""
    if config.method == "controlnet":
        return "controlnet"
    if config.student == "lora":
        return "lora"
    return "model" if config.method == "diffusion" else "perflow_delta"


# --- the weights ------------------------------------------------------------------------------------------------


def _write_weights(
    folder: Path, config: TrainingConfig, networks: Networks, student: Student, average: Average,
    notes: dict[str, str],
) -> str:  # fmt: skip
    """The files of the result; the sha256 of the one that matters."""
    kind = kind_of(config)
    if kind == "perflow_delta":
        facts = facts_of(config, base_sha256=networks.base_sha256)
        weights = DeltaWeights(tensors=student.delta(average), spec=facts.delta)
        return _sha256(in_order(weights.write(folder / f"{OWN_NAME}.safetensors", notes=notes)))
    if kind == "lora":
        return _write_lora(folder, student.lora_layers(average), notes)
    if kind == "controlnet":
        return _write_module(folder / "controlnet", student.module, average, notes)
    _copy_rest(folder, networks)
    return _write_module(folder / "unet", networks.unet, average, notes)


def _write_lora(folder: Path, layers: dict[str, torch.Tensor], notes: dict[str, str]) -> str:
    _save(diffusers_layout(layers), folder / LORA_FILE, notes)
    _save(kohya_layout(layers), folder / KOHYA_FILE, notes)
    return _sha256(folder / LORA_FILE)


def _write_module(folder: Path, module: Any, average: Average, notes: dict[str, str]) -> str:
    """A diffusers model folder in fp16, the average in the place of what was trained."""
    folder.mkdir()
    module.save_config(folder)
    state = {name: average.get(name, value).detach().to("cpu", torch.float16) for name, value in
             module.state_dict().items()}  # fmt: skip
    _save(state, folder / WEIGHTS, notes)
    return _sha256(folder / WEIGHTS)


def _copy_rest(folder: Path, networks: Networks) -> None:
    """All of the base but its UNet: its own files where it is a folder, else saved from memory."""
    source = Path(networks.base.source).expanduser()
    if not source.is_dir():
        networks.pipe.save_pretrained(folder)
        shutil.rmtree(folder / "unet")
        return
    for path in sorted(source.iterdir()):
        if path.name in _NOT_COPIED:
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy(path, folder / path.name)


def _save(tensors: dict[str, torch.Tensor], path: Path, notes: dict[str, str]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidRequest("weights", "finite values in fp16", f"NaN or overflow in {name}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt", **notes})
    in_order(path)


def in_order(path: Path) -> Path:
    """A safetensors file with its metadata sorted, in place: the library writes them in any order, and equal results
    should be equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        sorted_one = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(sorted_one) == length:
            file.seek(8)
            file.write(sorted_one)
    return path


def _put_in_place(aside: RunFolder, run: RunFolder) -> None:
    """The new folder where the old one was; a crash in between leaves no result rather than half of one."""
    _sync(aside.export_dir)
    if run.export_dir.exists():
        run.export_dir.rename(aside.path / "old")
    aside.export_dir.rename(run.export_dir)
    _sync_one(run.path)
    shutil.rmtree(aside.path)


# --- more of a finished run -------------------------------------------------------------------------------------


def lora(run: RunFolder, rank: int) -> float:
    """LoRA files of a rank beside a finished run's delta weights; the share of their norm that it loses.

    Raises `NotFound`, `InvalidRequest`.
    """
    if not 1 <= rank <= 1024:
        raise InvalidRequest("lora", "a rank from 1 to 1024", rank)
    described, config = read_export(run), run.config()
    if described is None:
        raise NotFound(f"{run.id} has no result yet: let it finish first.")
    if described.kind != "perflow_delta":
        raise InvalidRequest("lora", "a run whose result is delta weights", described.kind)
    weights = DeltaWeights.read(run.export_dir)
    layers, lost = lora_of_delta(weights.tensors, rank)
    notes = metadata(config, base_sha256=weights.spec.base_sha256 or "", step=described.step)
    notes |= {"lora_rank": str(rank), "lora_loses": f"{lost:.4f} of the delta weights' norm"}
    _write_lora(_fresh(run.export_dir / f"lora-{rank}"), layers, notes)
    return lost


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
