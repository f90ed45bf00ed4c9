"""Features of rendered scenes: what the first two references of Table 1 are made of, and real against real.

Training scenes are those of the base's own training; held-out ones have seeds that neither a network nor a prompt has.
Both have as many scenes with one thing as with two, as the prompts do.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.measures import Eye
from benchmarks.paper.shelf import Row, Shelf
from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.data import CHUNK, TEST_SEEDS, TRAIN_SEEDS, WORLD_VERSION, image_of, load_images
from trainer.tabletop.scenes import Scene, random_scene

NUM_TRAIN_SCENES = 8000


def seeds_of(first: int, wanted: int, skip: int = 0) -> list[int]:
    """`wanted` seeds from `first` on, half of scenes with one thing and half with two; `skip` leaves out as many."""
    found: list[list[int]] = []
    for things in (1, 2):
        matching = (seed for seed in count(first) if len(random_scene(seed).things) == things)
        found.append(list(islice(matching, skip // 2, (skip + wanted) // 2)))
    return [seed for pair in zip(*found, strict=True) for seed in pair]


def references(eye: Eye, shelf: Shelf, wanted: int, cache: Path, workers: int) -> dict[str, torch.Tensor]:
    """Features `[wanted, D]` by name: train, train_b (other training scenes) and held_out."""
    sets = {
        "train": seeds_of(TRAIN_SEEDS, wanted),
        "train_b": seeds_of(TRAIN_SEEDS, wanted, skip=wanted),
        "held_out": seeds_of(TEST_SEEDS, wanted),
    }
    found = {}
    for name, seeds in sets.items():
        decides = {"what": "scenes", "seeds": [seeds[0], seeds[-1], len(seeds)], "world": WORLD_VERSION,
                   "judge": eye.sha256}  # fmt: skip
        row = shelf.row(decides, partial(_look, eye, seeds, cache, workers))
        found[name] = torch.from_numpy(row.arrays["features"])
    return found


def pictures(seeds: list[int], cache: Path, workers: int) -> np.ndarray:
    """`[N, 3, H, W]` uint8: out of the recipe's cache where a chunk is there, else rendered."""
    draw = partial(_picture, cache)
    if workers <= 1:
        return np.stack([draw(seed) for seed in seeds])
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return np.stack(list(pool.map(draw, seeds, chunksize=8)))


def scenes_of(seeds: list[int]) -> list[Scene]:
    """The scenes behind them."""
    return [random_scene(seed) for seed in seeds]


def _look(eye: Eye, seeds: list[int], cache: Path, workers: int) -> Row:
    pixels = to_pixels(pictures(seeds, cache, workers))
    return Row(numbers=eye.accuracies(pixels, scenes_of(seeds)), arrays={"features": eye.features(pixels).numpy()})


def _picture(cache: Path, seed: int) -> np.ndarray:
    start = seed - seed % CHUNK
    try:
        return load_images(cache, start, CHUNK)[seed - start]
    except FileNotFoundError:
        return image_of(random_scene(seed))
