"""Rendered scenes by seed, cached in chunks under the user's cache folder.

Three ranges of seeds never meet: what generators train on, what the judge trains on, what everything is tested on.
Images are uint8 `[N, 3, H, W]`. A chunk is written aside and renamed, so a chunk that exists is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import Scene, random_scene

IMAGE_SIZE = 128
CHUNK = 250
TRAIN_SEEDS = 0
JUDGE_SEEDS = 10_000_000
TEST_SEEDS = 20_000_000
WORLD_VERSION = 2


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/perflow-studio/tabletop`, or the same under `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "perflow-studio" / "tabletop"


def image_of(scene: Scene, size: int = IMAGE_SIZE, device: str = "cpu") -> np.ndarray:
    """`[3, size, size]` uint8."""
    rgb = render(scene, size, device).rgb
    return (rgb * 255).round().to(torch.uint8).cpu().numpy()


def render_chunks(cache: Path, first_seed: int, count: int, workers: int) -> Iterator[int]:
    """Make sure that the images of `count` scenes from `first_seed` are cached; yields how many are there by now."""
    starts = range(first_seed, first_seed + count, CHUNK)
    missing = [start for start in starts if not _chunk_path(cache, start).exists()]
    done = count - CHUNK * len(missing)
    yield done
    if not missing:
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for _ in as_completed([pool.submit(_render_chunk, cache, start) for start in missing]):
            done += CHUNK
            yield done


def load_images(cache: Path, first_seed: int, count: int) -> np.ndarray:
    """`[count, 3, H, W]` uint8; raises FileNotFoundError if they were never rendered."""
    starts = range(first_seed, first_seed + count, CHUNK)
    return np.concatenate([np.load(_chunk_path(cache, start)) for start in starts])[:count]


def scenes(first_seed: int, count: int) -> list[Scene]:
    """The scenes behind `load_images`."""
    return [random_scene(seed) for seed in range(first_seed, first_seed + count)]


def _chunk_path(cache: Path, start: int) -> Path:
    return cache / f"images-v{WORLD_VERSION}-{IMAGE_SIZE}-{start:09d}.npy"


def _render_chunk(cache: Path, start: int) -> None:
    images = np.stack([image_of(random_scene(seed)) for seed in range(start, start + CHUNK)])
    cache.mkdir(parents=True, exist_ok=True)
    path = _chunk_path(cache, start)
    staged = path.with_suffix(f".{os.getpid()}.tmp.npy")
    np.save(staged, images)
    staged.replace(path)
