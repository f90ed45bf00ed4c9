"""Training state on disk: safetensors and JSON, whole or absent, the newest whole one wins.

A checkpoint is a folder `step-00001234` holding `state.safetensors` (weights, EMA, optimizer moments: every tensor by
name) and `state.json` (step and counters). `checkpoint_folder` sees to it that it is whole. Knows nothing of what the
tensors mean.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer import checkpoint_folder

log = logging.getLogger(__name__)

KEEP = 2
TENSORS = "state.safetensors"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], counters: dict[str, Any], *, keep: int = KEEP
) -> Path:
    """Write `folder/step-...` and return it; older checkpoints beyond `keep` are pruned last. Raises `OSError`."""

    def fill(staged: Path) -> None:
        ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(ready, staged / TENSORS)
        except SafetensorError as error:  # the library's own words for a full disk
            raise _as_os_error(error) from error

    return checkpoint_folder.commit(folder, step, fill, counters, keep=keep)


def load_latest(
    folder: Path, report: Callable[[str], None] = log.warning
) -> tuple[int, dict[str, torch.Tensor], dict[str, Any]] | None:
    """(step, tensors, counters) of the newest checkpoint whose bytes are as they were written, or `None`.

    `report` gets a sentence for each newer one that was passed over.
    """
    path = checkpoint_folder.newest(folder, report)
    if path is None:
        return None
    record = checkpoint_folder.record_of(path)
    return record["step"], load_file(path / TENSORS), record["counters"]


def _as_os_error(error: SafetensorError) -> OSError:
    """What the system said, out of the library's text: `... (os error 28)`."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES):
        if f"os error {code})" in str(error):
            return OSError(code, os.strerror(code))
    return OSError(errno.EIO, str(error))
