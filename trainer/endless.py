"""Samples without end: scenes of the built-in world, rendered as they are needed or from a pool that is rendered once.

`config.dataset.source` says which: "endless" draws every sample from ten million scenes and keeps nothing; "pool:N" (or
nothing: N = 512) renders N scenes once, 55 ms each and core, keeps their latents, and varies the captions. Held-out
scenes are of seeds that are never trained on. Scenes know their geometry, so depth and pose can be learnt as controls.
With `config.num_workers` scenes are rendered by that many processes, which end with their parent.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from studio.errors import InvalidRequest
from studio.runs.config import TrainingConfig
from trainer.cache import Encodings, Tensors
from trainer.controls import OF_SCENES, control_of_scene
from trainer.data import Row, check_control
from trainer.order import Order, drawn
from trainer.tabletop.captions import caption
from trainer.tabletop.data import JUDGE_SEEDS, TEST_SEEDS, TRAIN_SEEDS, WORLD_VERSION
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

DEFAULT_POOL = 512  # about 100 s on one core before the first step, scenes and their latents
MAX_POOL = 1_000_000
NUM_WORDINGS = 4
CHUNK = 8


@dataclass(kw_only=True, eq=False)
class TabletopSource:
    """See the module's text."""

    config: TrainingConfig
    encodings: Encodings
    num_samples: int
    pool_size: int | None
    warnings: tuple[str, ...] = field(default=(), init=False)

    @staticmethod
    def cache_dir(config: TrainingConfig, cache_dir: Path) -> Path:  # noqa: ARG004
        """The run's."""
        return cache_dir

    @classmethod
    def of(cls, config: TrainingConfig, encodings: Encodings, num_samples: int, cache_dir: Path) -> TabletopSource:  # noqa: ARG003
        """The scenes a configuration names. Raises `InvalidRequest`."""
        check_control(config, OF_SCENES)
        if config.random_flip:
            raise InvalidRequest("random_flip", "off for Tabletop, whose captions say left and right", True)
        source = config.dataset.source
        match = re.fullmatch(r"pool:(\d{1,7})", source)
        if source not in ("", "endless") and not (match and 1 <= int(match[1]) <= MAX_POOL):
            raise InvalidRequest("dataset", f"endless, or pool:N with N from 1 to {MAX_POOL}", source)
        size = None if source == "endless" else int(match[1]) if match else DEFAULT_POOL
        return cls(config=config, encodings=encodings, num_samples=num_samples, pool_size=size)

    def build(self, rank: int, world: int, report: Callable[[float], None]) -> None:
        """Render and encode this process's share of the pool."""
        seeds = [TRAIN_SEEDS + index for index in range(rank, self.pool_size or 0, world)]
        missing = [seed for seed in seeds if not self.encodings.shelf.has(self._key(seed))]
        done = len(seeds) - len(missing)
        with self._rendering() as rendered:
            for first in range(0, len(missing), CHUNK):
                chunk = missing[first : first + CHUNK]
                report((done + first) / len(seeds))
                for seed, tensors in zip(chunk, rendered(chunk), strict=True):
                    self._kept(seed, lambda tensors=tensors: tensors)

    def rows(self, draw: int, first: int, count: int, total: int) -> list[Row]:
        """Samples of a draw."""
        numbers = range(first, first + count)
        if self.pool_size is None:
            size, seed = JUDGE_SEEDS - TRAIN_SEEDS, self.config.seed
            seeds = [TRAIN_SEEDS + drawn(seed, "scene", draw, number) % size for number in numbers]
        else:
            if total != self.num_samples:
                raise ValueError(f"rows: expected draws of {self.num_samples} samples, got {total}.")
            seeds = [TRAIN_SEEDS + index for index in self._order.indices(draw)[first : first + count]]
        wordings = [drawn(self.config.seed, "wording", draw, number) % NUM_WORDINGS for number in numbers]
        found = self._fresh(seeds) if self.pool_size is None else [self._kept(seed) for seed in seeds]
        return [
            self._row(seed, NUM_WORDINGS * seed + wording, tensors)
            for seed, wording, tensors in zip(seeds, wordings, found, strict=True)
        ]

    def held_out(self, count: int) -> list[Row]:
        """Scenes of seeds that no run trains on."""
        seeds = range(TEST_SEEDS, TEST_SEEDS + min(count, self.config.num_held_out))
        return [
            self._row(seed, seed, self._kept(seed), rendered_pixels(seed, self.config.resolution, "none")["pixels"])
            for seed in seeds
        ]

    @cached_property
    def _order(self) -> Order:
        return Order(buckets=[range(self.pool_size or 1)], num_samples=self.num_samples, seed=self.config.seed)

    def _row(self, seed: int, wording: int, tensors: Tensors, pixels: torch.Tensor | None = None) -> Row:
        side = self.config.resolution
        return Row(
            name=f"scene {seed}",
            caption=caption(random_scene(seed), wording),
            frame=(side, side, 0, 0, side, side),
            parameters=tensors["parameters"],
            control=tensors.get("control"),
            pixels=pixels,
        )

    # --- rendering ---

    def _key(self, seed: int) -> str:
        side = self.config.resolution
        return self.encodings.posterior_key(f"tabletop {WORLD_VERSION} {seed}", (side, side), extra=self.config.control)

    def _kept(self, seed: int, rendered: Callable[[], Tensors] | None = None) -> Tensors:
        """What the pool holds of a scene, rendered if it is not there."""
        make = rendered or (lambda: rendered_pixels(seed, self.config.resolution, self.config.control))
        return self.encodings.posterior(self._key(seed), make)

    def _fresh(self, seeds: Sequence[int]) -> list[Tensors]:
        """Scenes rendered now and kept nowhere; as the pool's, they are rounded to fp16."""
        with self._rendering() as rendered:
            found = rendered(list(seeds))
        for tensors in found:
            tensors["parameters"] = self.encodings.encode(tensors.pop("pixels")).half()
        return found

    @contextmanager
    def _rendering(self) -> Iterator[Callable[[list[int]], list[Tensors]]]:
        """A function from seeds to rendered scenes, by the workers where there are any."""
        side, control = self.config.resolution, self.config.control
        if not self.config.num_workers:
            yield lambda seeds: [rendered_pixels(seed, side, control) for seed in seeds]
            return
        pool = self._workers

        def rendered(seeds: list[int]) -> list[Tensors]:
            arrays = pool.map(_rendered_arrays, seeds, [side] * len(seeds), [control] * len(seeds))
            return [{name: torch.from_numpy(value) for name, value in each.items()} for each in arrays]

        yield rendered

    @cached_property
    def _workers(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.config.num_workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
        )

    def close(self) -> None:
        """Let the workers go."""
        if "_workers" in self.__dict__:
            self._workers.shutdown(wait=True, cancel_futures=True)
            del self.__dict__["_workers"]


def rendered_pixels(seed: int, side: int, control: str) -> Tensors:
    """A scene's pixels, and its control picture where one is asked for, uint8 `[3, side, side]`."""
    seen = render(random_scene(seed), side)
    pixels = (seen.rgb * 255).round().to(torch.uint8).cpu()
    return {"pixels": pixels} if control == "none" else {
        "pixels": pixels, "control": control_of_scene(control, seen, pixels)
    }  # fmt: skip


def _rendered_arrays(seed: int, side: int, control: str) -> dict[str, np.ndarray]:
    """The same as arrays, which travel between processes by value."""
    return {name: value.numpy() for name, value in rendered_pixels(seed, side, control).items()}


def _start_worker(parent: int) -> None:
    """One thread, and no life after the parent: a killed trainer leaves nobody behind."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
