"""The smallest real run: a tiny random Stable Diffusion folder and a stored dataset of a dozen pictures.

`little_run` makes a run folder; `python -m trainer` on it takes some seconds, most of them imports.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from studio.datasets.store import DatasetStore
from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from studio.runs.folder import RunFolder, RunsFolder
from tests.tiny import tiny_pipeline_folder


def little_base(folder: Path, family: Any = "sd15") -> BaseModel:
    """A tiny random base, made once in `folder`."""
    path = folder / f"base-{family}"
    if not path.exists():
        tiny_pipeline_folder(path, family)
    kind = "v_prediction" if family == "sd21" else "epsilon"
    return BaseModel(id=f"tiny-{family}", family=family, source=str(path), kind="folder", prediction_type=kind,
                     license="mit")  # fmt: skip


def little_dataset(folder: Path, count: int = 12) -> DatasetRef:
    """Captioned squares, imported as a person's zip would be; made once in `folder`."""
    source = folder / "pictures"
    if not source.exists():
        source.mkdir(parents=True)
        for number in range(count):
            _picture(number, count).save(source / f"{number}.png")
            (source / f"{number}.txt").write_text(f"square {number}", encoding="utf-8")
        DatasetStore(folder / "datasets").import_folder(source, "Squares")
    (found,) = DatasetStore(folder / "datasets").all()
    return DatasetRef(id=found.id, source=str(found.path), fingerprint=found.fingerprint, title="Squares")


def _picture(number: int, count: int) -> Image.Image:
    """A square on a ground, all different."""
    picture = Image.new("RGB", (80, 80), _colour(number / count, 0.4))
    ImageDraw.Draw(picture).rectangle((10 + number, 20, 50 + number, 60), fill=_colour(number / count + 0.5, 0.9))
    return picture


def _colour(hue: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.8, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def little_config(folder: Path, **changes: Any) -> TrainingConfig:
    """A few steps on the processor, everything on."""
    family = changes.pop("family", "sd15")
    values: dict[str, Any] = {
        "name": "little", "base": little_base(folder, family), "dataset": little_dataset(folder), "resolution": 64,
        "num_steps": 6, "batch_size": 4, "warmup_steps": 2, "checkpoint_every_steps": 2, "validate_every_steps": 3,
        "sample_every_steps": 6, "checkpoint_every_minutes": 0.0, "num_held_out": 4, "num_solver_steps": 2,
        "sample_steps": (2, 4), "sample_prompts": ("square 1", "square 2"), "device": "cpu", "precision": "fp32",
        "learning_rate": 1e-3, "license": "mit",
    }  # fmt: skip
    if family == "sd21":
        values["prediction_type"] = "v_prediction"
    return TrainingConfig(**{**values, **changes})


def little_run(folder: Path, runs: str = "runs", **changes: Any) -> RunFolder:
    """A run folder below `folder`; base and dataset are shared by all of them."""
    return RunsFolder(folder / runs).create(little_config(folder, **changes))
