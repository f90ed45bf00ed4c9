"""Samples of an imported dataset: its kept pictures in aspect buckets, some of them held out for good.

Held out are the pictures whose pixels have the lowest hashes, so every run on a dataset is measured on the same ones
and none of them is ever trained on, whatever the seed. The files' hashes are taken anew at the start: a picture that
was edited under its old name is encoded again. Latents are cached in the dataset's own folder, for every run to come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from studio.datasets.buckets import BucketPlan, plan_buckets, size_multiple
from studio.datasets.manifest import ManifestEntry
from studio.datasets.pictures import upright_rgb
from studio.datasets.sources import Refused
from studio.datasets.store import StoredDataset, read_dataset
from studio.errors import InvalidRequest, StorageError
from studio.runs.config import TrainingConfig
from trainer.cache import Encodings, Tensors
from trainer.controls import OF_PIXELS, control_of_pixels
from trainer.data import Row, check_control, is_flipped
from trainer.framing import Size, frame_of, framed
from trainer.order import Order

MAX_HELD_OUT_SHARE = 0.2


@dataclass(kw_only=True, eq=False)
class StoredSource:
    """See the module's text. `num_samples` is how many one step needs over all processes."""

    config: TrainingConfig
    encodings: Encodings
    dataset: StoredDataset
    num_samples: int

    @staticmethod
    def cache_dir(config: TrainingConfig, cache_dir: Path) -> Path:  # noqa: ARG004
        """The dataset's own."""
        return read_dataset(Path(config.dataset.source)).cache_dir

    @classmethod
    def of(cls, config: TrainingConfig, encodings: Encodings, num_samples: int, cache_dir: Path) -> StoredSource:  # noqa: ARG003
        """The dataset a configuration names. Raises when it is gone, or no longer the one that was chosen."""
        dataset = read_dataset(Path(config.dataset.source))
        if config.dataset.fingerprint and config.dataset.fingerprint != dataset.fingerprint:
            raise InvalidRequest("dataset", f"{config.dataset.id} as it was when the run was made, of fingerprint "
                                 f"{config.dataset.fingerprint[:12]}", dataset.fingerprint[:12])  # fmt: skip
        check_control(config, OF_PIXELS)
        return cls(config=config, encodings=encodings, dataset=dataset, num_samples=num_samples)

    # --- what is where ---

    @cached_property
    def _entries(self) -> tuple[ManifestEntry, ...]:
        return self.dataset.manifest.kept

    @cached_property
    def _held_out(self) -> list[int]:
        """Indices of the pictures kept from training, at most a fifth; none of a single picture."""
        by_hash = sorted(range(len(self._entries)), key=lambda index: self._entries[index].pixels_sha256)
        most = max(1, int(MAX_HELD_OUT_SHARE * len(by_hash)))
        return by_hash[: min(self.config.num_held_out, most, len(by_hash) - 1)]

    @cached_property
    def _trained(self) -> list[int]:
        held_out = set(self._held_out)
        return [index for index in range(len(self._entries)) if index not in held_out]

    @cached_property
    def plan(self) -> BucketPlan:
        """The buckets of the pictures that are trained on."""
        sizes = [(self._entries[index].width, self._entries[index].height) for index in self._trained]
        multiple = size_multiple(self.config.resolution)
        return plan_buckets(sizes, self.config.resolution, multiple=multiple, batch_size=self.num_samples)

    @cached_property
    def _size_of(self) -> dict[int, Size]:
        """Every picture's training size; held-out pictures all have that of the fullest bucket."""
        common = max(self.plan.buckets, key=lambda bucket: bucket.count).size
        sizes = dict.fromkeys(self._held_out, common)
        for index, bucket in zip(self._trained, self.plan.assignment, strict=True):
            sizes[index] = self.plan.buckets[bucket].size
        return sizes

    @cached_property
    def _order(self) -> Order:
        groups: list[list[int]] = [[] for _ in self.plan.buckets]
        for index, bucket in zip(self._trained, self.plan.assignment, strict=True):
            groups[bucket].append(index)
        return Order(buckets=groups, num_samples=self.num_samples, seed=self.config.seed)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What became of small buckets, and of a dataset too small to hold anything out."""
        silent = sum(not self._entries[index].caption for index in self._trained)
        words = list(self.plan.words)
        if not self._held_out:
            words.append("The dataset holds one picture: it is trained on and measured on.")
        elif len(self._held_out) < self.config.num_held_out:
            words.append(f"{len(self._held_out)} pictures are held out rather than {self.config.num_held_out}: "
                         "a fifth of the dataset at most.")  # fmt: skip
        if silent:
            words.append(f"{silent} of {len(self._trained)} pictures have no caption: they teach without words.")
        return tuple(words)

    # --- samples ---

    def build(self, rank: int, world: int, report: Callable[[float], None]) -> None:
        """Encode this process's share of the pictures and captions that are not cached."""
        mine, held_out = range(rank, len(self._entries), world), set(self._held_out)
        for done, index in enumerate(mine):
            report(done / len(mine))
            self._tensors(index, False)
            if self.config.random_flip and index not in held_out:
                self._tensors(index, True)
            self.encodings.condition(self._entries[index].caption)

    def rows(self, draw: int, first: int, count: int, total: int) -> list[Row]:
        """Samples of a draw, all from one bucket."""
        if total != self.num_samples:
            raise ValueError(f"rows: expected draws of {self.num_samples} samples, got {total}.")
        indices = self._order.indices(draw)[first : first + count]
        flips = [is_flipped(self.config, draw, number) for number in range(first, first + count)]
        return [self._row(index, flipped) for index, flipped in zip(indices, flips, strict=True)]

    def held_out(self, count: int) -> list[Row]:
        """Held-out pictures with their pixels."""
        return [self._row(index, False, with_pixels=True) for index in (self._held_out or [0])[:count]]

    def close(self) -> None:
        """Nothing is held."""

    def _row(self, index: int, flipped: bool, with_pixels: bool = False) -> Row:
        entry, size = self._entries[index], self._size_of[index]
        found = self._tensors(index, flipped)
        pixels = self._pixels(index, flipped) if with_pixels or self.config.control != "none" else None
        control = None
        if pixels is not None and self.config.control != "none":
            control = control_of_pixels(self.config.control, pixels)
        return Row(
            name=entry.name,
            caption=entry.caption,
            frame=frame_of((entry.width, entry.height), size),
            parameters=found["parameters"],
            control=control,
            pixels=pixels if with_pixels else None,
        )

    def _tensors(self, index: int, flipped: bool) -> Tensors:
        key = self.encodings.posterior_key(self._contents[index], self._size_of[index], flipped=flipped)
        return self.encodings.posterior(key, lambda: {"pixels": self._pixels(index, flipped)})

    def _pixels(self, index: int, flipped: bool) -> torch.Tensor:
        entry = self._entries[index]
        content = self._content(index)
        where = f"{entry.name} of dataset {self.dataset.id}"
        if hashlib.sha256(content).hexdigest() != self._contents[index]:
            raise StorageError(f"{where} was changed while the run was reading it: resume the run, or start it again.")
        try:
            pixels = framed(upright_rgb(content), self._size_of[index])
        except Refused as refused:
            raise StorageError(f"{where} is {refused.reason}: import the pictures again.") from refused
        return pixels.flip(-1) if flipped else pixels

    def _content(self, index: int) -> bytes:
        path = self.dataset.image_paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path.name} of dataset {self.dataset.id} cannot be read ({error.strerror or error}): "
                               "import the pictures again.") from error  # fmt: skip

    @cached_property
    def _contents(self) -> list[str]:
        """The hash of every file as it is now."""
        return [hashlib.sha256(self._content(index)).hexdigest() for index in range(len(self._entries))]
