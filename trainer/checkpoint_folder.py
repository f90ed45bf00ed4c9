"""A folder of files that is whole or absent, whatever happens while it is written; the newest whole one wins.

    step-00000200/state.json     what the writer says of it, and the size and sha256 of every other file
                  ...            the writer's files
                  COMPLETE       the sha256 of state.json; written last, so a folder without it was never acknowledged
    .staged, .removed-*          halves of a write or a removal that was cut off; the next write clears them

The order is: write aside, sync files and folder, rename, sync, COMPLETE, sync, and only then remove older ones.
Knows no tensors (and loads no torch): what the files are is the writer's business.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

RECORD, COMPLETE = "state.json", "COMPLETE"
_STAGED, _REMOVED = ".staged", ".removed-"


def commit(folder: Path, step: int, fill: Callable[[Path], None], counters: dict[str, Any], *, keep: int) -> Path:
    """Write `folder/step-...` by `fill(staged)` and return it once it is on disk; then prune all but the newest `keep`.

    A whole one of the same step stays as it is. Raises `OSError`, and then nothing that was whole has changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    _clear_litter(folder)
    if damage(final) is not None:
        _write(folder, final, fill, {"step": step, "counters": counters})
    _prune(folder, final, keep)
    return final


def newest(folder: Path, report: Callable[[str], None] = log.warning) -> Path | None:
    """The newest checkpoint whose bytes are as they were written; `report` gets a sentence for each one passed over."""
    for path in reversed(_listed(folder)):
        reason = damage(path)
        if reason is None:
            return path
        report(f"Checkpoint {path.name} was passed over: {reason}")
    return None


def record_of(path: Path) -> dict[str, Any]:
    """What `commit` was told: `step` and `counters`."""
    return json.loads((path / RECORD).read_text(encoding="utf-8"))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a sentence; `None` if it is whole."""
    try:
        raw = (path / RECORD).read_bytes()
        record = json.loads(raw)
        files = _promised(path, record, raw)
        for name, (size, sha256) in files.items():
            if (found := (path / name).stat().st_size) != size and size >= 0:
                return f"{name} has {found:,} bytes instead of {size:,}."
            if _sha256(path / name) != sha256:
                return f"{name} is not what was written (its sha256 differs)."
    except FileNotFoundError as error:
        lost = Path(error.filename).name
        return "it was not finished." if lost == COMPLETE else f"{lost} is missing."
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})."
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{RECORD} is not what was written."
    return None


def _promised(path: Path, record: dict[str, Any], raw: bytes) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file. Checkpoints from before COMPLETE name one file's hash and no size."""
    if "sha256" in record:
        return {"state.safetensors": (-1, record["sha256"])}
    if (path / COMPLETE).read_text(encoding="ascii").strip() != hashlib.sha256(raw).hexdigest():
        raise ValueError(f"{RECORD} differs from {COMPLETE}")
    return {name: (each["bytes"], each["sha256"]) for name, each in record["files"].items()}


def _write(folder: Path, final: Path, fill: Callable[[Path], None], record: dict[str, Any]) -> None:
    staged = folder / _STAGED
    try:
        staged.mkdir()
        fill(staged)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(staged.iterdir())
        }
        for name in files:
            _sync(staged / name)
        raw = json.dumps({**record, "files": files}).encode()
        _write_synced(staged / RECORD, raw)
        _sync(staged)
        if final.exists():  # a damaged one, or one that was never acknowledged
            _remove(final)
        staged.rename(final)
        _sync(folder)
        _write_synced(final / COMPLETE, hashlib.sha256(raw).hexdigest().encode())
        _sync(final)
    except BaseException:
        with contextlib.suppress(OSError):
            _clear_litter(folder)
            if final.exists() and damage(final) is not None:
                _remove(final)
        raise


def _prune(folder: Path, newest_one: Path, keep: int) -> None:
    """Remove what is older than the newest `keep`; what the system will not remove stays, and the log says so."""
    older = [path for path in _listed(folder) if path.name < newest_one.name]
    finished = [path for path in older if (path / COMPLETE).exists()]
    doomed = {*older} - {*finished[max(0, len(finished) - keep + 1) :]}
    for path in sorted(doomed):
        try:
            _remove(path)
        except OSError as error:
            log.warning("%s could not be removed (%s)", path, error.strerror or error)


def _remove(path: Path) -> None:
    """Renamed first, so that a half-removed checkpoint is never listed."""
    doomed = path.with_name(f"{_REMOVED}{os.getpid()}-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _clear_litter(folder: Path) -> None:
    for path in [*folder.glob(f"{_STAGED}*"), *folder.glob(f"{_REMOVED}*")]:
        shutil.rmtree(path, ignore_errors=True)


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
