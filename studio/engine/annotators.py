"""Maps from ordinary pictures: edges, lines, depth, coarse tiles; and the picture itself where it is a map already.

Canny and tile are made as the trainer makes them for its ControlNets (thresholds 100 and 200; a fourth of the
detail). Canny, lines, shuffle and tile need no weights; depth needs Depth-Anything's, which are safetensors. What is
published as pickles only (OpenPose, HED, normals) is not offered: bring such a map. Libraries are imported when first
used.
It does not know what a map is for, nor where it is kept.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from studio.conditions import ANNOTATORS, CannyLevels
from studio.errors import InvalidRequest, ModelUnavailable

TILE_FACTOR = 4
DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"


class Annotators:
    """All annotators; a map is the size of its picture. Depth's network is read once and kept."""

    def __init__(self, hub_cache: Path | None = None, offline: bool | None = None) -> None:
        self._hub_cache, self._offline = hub_cache, offline
        self._loading = threading.Lock()
        self._depth: Any = None

    def annotate(self, name: str, image: Image.Image, levels: CannyLevels | None = None) -> Image.Image:
        """The map of an RGB picture. Raises `InvalidRequest` for unknown names, `ModelUnavailable` without weights."""
        if not isinstance(name, str) or name not in ANNOTATORS:
            raise InvalidRequest("annotator", f"one of {', '.join(ANNOTATORS)}", name)
        if name == "canny":
            return _canny(image, levels or CannyLevels())
        makers: dict[str, Callable[[Image.Image], Image.Image]] = {
            "lineart": _lineart, "shuffle": _shuffle, "tile": _tile, "depth": self._of_depth,
        }  # fmt: skip
        return makers[name](image) if name in makers else image

    def _of_depth(self, image: Image.Image) -> Image.Image:
        with self._loading:
            if self._depth is None:
                self._depth = _read_depth(self._hub_cache, offline=self._offline)
        found = np.asarray(self._depth(image)["depth"].convert("L").resize(image.size, Image.Resampling.BICUBIC))
        return Image.fromarray(found).convert("RGB")


def _canny(image: Image.Image, levels: CannyLevels) -> Image.Image:
    import cv2

    return Image.fromarray(cv2.Canny(np.ascontiguousarray(image), levels.low, levels.high)).convert("RGB")


def _tile(image: Image.Image) -> Image.Image:
    small = max(1, image.width // TILE_FACTOR), max(1, image.height // TILE_FACTOR)
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def _lineart(image: Image.Image) -> Image.Image:
    from controlnet_aux import LineartStandardDetector

    return LineartStandardDetector()(image, detect_resolution=_side(image)).convert("RGB")


def _shuffle(image: Image.Image) -> Image.Image:
    from controlnet_aux import ContentShuffleDetector

    state = random.getstate(), np.random.get_state()
    try:
        random.seed(0)
        np.random.seed(0)
        side = _side(image)
        made = ContentShuffleDetector()(image, detect_resolution=side, image_resolution=side)
        return made.convert("RGB").resize(image.size)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])


def _side(image: Image.Image) -> int:
    """The resolution to ask of a detector: the picture's shorter side, but a tile of 64 at least."""
    return max(64, min(image.size))


def _read_depth(cache: Path | None, *, offline: bool | None) -> Any:
    from huggingface_hub import constants
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline

    only_local = constants.HF_HUB_OFFLINE if offline is None else offline
    options: dict[str, Any] = {"cache_dir": cache, "local_files_only": only_local}
    try:
        model = AutoModelForDepthEstimation.from_pretrained(DEPTH_MODEL, use_safetensors=True, **options)
        processor = AutoImageProcessor.from_pretrained(DEPTH_MODEL, **options)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"Depth maps need {DEPTH_MODEL}, which is not on disk and could not be downloaded. Where there is a "
            f"network, run `hf download {DEPTH_MODEL}`; or bring a depth map and choose “{ANNOTATORS['none']}”."
        ) from error
    return pipeline("depth-estimation", model=model, image_processor=processor)
