"""Training state on disk: safetensors and JSON, whole or absent, the newest whole one wins.

A checkpoint is a folder `step-00001234` holding `state.safetensors` (weights, EMA, optimizer moments: every tensor by
name) and `state.json` (counters, and the sha256 of the tensors). It is written aside, flushed, renamed, and only then
are older ones removed. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

KEEP = 2


def save_checkpoint(folder: Path, step: int, tensors: dict[str, torch.Tensor], counters: dict[str, Any]) -> Path:
    """Write `folder/step-...` and return it; older checkpoints beyond two are pruned last."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    staged = folder / f".staged-{os.getpid()}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, staged / "state.safetensors"
    )
    record = {"step": step, "sha256": _sha256(staged / "state.safetensors"), "counters": counters}
    (staged / "state.json").write_text(json.dumps(record))
    for path in staged.iterdir():
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    _flush(folder)
    for old in _complete(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def load_latest(folder: Path) -> tuple[int, dict[str, torch.Tensor], dict[str, Any]] | None:
    """(step, tensors, counters) of the newest checkpoint whose bytes are as they were written, or `None`."""
    for path in reversed(_complete(folder)):
        record = json.loads((path / "state.json").read_text())
        if _sha256(path / "state.safetensors") == record["sha256"]:
            return record["step"], load_file(path / "state.safetensors"), record["counters"]
    return None


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
