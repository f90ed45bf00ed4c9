"""A process that saves one checkpoint and nothing else, light enough to be killed a hundred times.

`python -m tests.trainer.saving FOLDER STEP` writes the step's file as the trainer does, says `saved STEP` once it is
acknowledged, and ends with 3 if the system refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from trainer.checkpoint_folder import commit

KEEP = 2


def content(step: int) -> dict[str, np.ndarray]:
    """What a step's checkpoint holds."""
    return {"weights": np.full(5000, step, dtype=np.float32), "moments": np.arange(5000, dtype=np.float32) * step}


def save(folder: Path, step: int) -> None:
    """Raises `OSError`."""

    def fill(staged: Path) -> None:
        try:
            save_file(content(step), staged / "state.safetensors")
        except SafetensorError as error:
            raise OSError(str(error)) from error

    commit(folder, step, fill, {"loss": step / 10}, keep=KEEP)


if __name__ == "__main__":
    try:
        save(Path(sys.argv[1]), int(sys.argv[2]))
    except OSError as refused:
        print(refused, file=sys.stderr)
        sys.exit(3)
    print("saved", sys.argv[2], flush=True)
