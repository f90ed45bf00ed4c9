"""Features of rendered scenes: what the first two references of Table 1 are made of, and real against real.

Training scenes are those of the base's own training; held-out ones have seeds that neither a network nor a prompt has.
Both have as many scenes with one thing as with two, as the prompts do.
"""

from __future__ import annotations

from itertools import count, islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.paper.room import Room
from benchmarks.paper.shelf import Row
from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.data import CHUNK, TEST_SEEDS, TRAIN_SEEDS, WORLD_VERSION, image_of, load_images
from trainer.tabletop.scenes import Scene, random_scene

NAMES = ("train", "train_b", "held_out")


def seeds_of(first: int, wanted: int, skip: int = 0) -> list[int]:
    """`wanted` seeds from `first` on, half of scenes with one thing and half with two; `skip` leaves out as many."""
    found: list[list[int]] = []
    for things in (1, 2):
        matching = (seed for seed in count(first) if len(random_scene(seed).things) == things)
        found.append(list(islice(matching, skip // 2, (skip + wanted) // 2)))
    return [seed for pair in zip(*found, strict=True) for seed in pair]


def references(room: Room) -> dict[str, torch.Tensor]:
    """Features `[N, D]` by name: train, train_b (other training scenes) and held_out."""
    return {name: reference(room, name) for name in NAMES}


def reference(room: Room, name: str) -> torch.Tensor:
    """One of them, of as many scenes as there are pictures."""
    wanted, first = room.sizes.num_pictures, TEST_SEEDS if name == "held_out" else TRAIN_SEEDS
    seeds = seeds_of(first, wanted, skip=wanted if name == "train_b" else 0)
    decides = {"what": "scenes", "seeds": [seeds[0], seeds[-1], len(seeds)], "world": WORLD_VERSION,
               "judge": room.eye.sha256}  # fmt: skip
    row = room.shelf.row(decides, lambda: _look(room, seeds))
    return torch.from_numpy(row.arrays["features"])


def scenes_of(seeds: list[int]) -> list[Scene]:
    """The scenes behind them."""
    return [random_scene(seed) for seed in seeds]


def _look(room: Room, seeds: list[int]) -> Row:
    pixels = to_pixels(np.stack([_picture(room.cache, seed) for seed in seeds]))
    accuracies = room.eye.accuracies(pixels, scenes_of(seeds))
    return Row(numbers=accuracies, arrays={"features": room.eye.features(pixels).numpy()})


def _picture(cache: Path, seed: int) -> np.ndarray:
    """Out of the recipe's cache where its chunk is there, else rendered."""
    start = seed - seed % CHUNK
    try:
        return load_images(cache, start, CHUNK)[seed - start]
    except FileNotFoundError:
        return image_of(random_scene(seed))
