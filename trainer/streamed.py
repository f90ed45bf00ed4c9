"""Samples of what does not fit a disk: WebDataset shards, or a dataset of the hub through `datasets`, streamed.

A sample has a position: epoch after epoch, the stream in its order for that epoch, without the first `num_held_out`
samples, which are measured on and never trained on. A step asks for positions, so a resume needs the step alone.
Reading on is free, going back begins an epoch again, and what was once counted (how many samples a shard has) is kept
in `stream.json`, so that a resume skips whole shards. Shards come in another order each epoch; within a shard the order
is the shard's own, as WebDataset's makers shuffle before packing. Every process reads the whole stream and decodes its
own part. Pictures are cut to a square, nothing is cached. One that cannot be decoded is replaced by its neighbour and
named.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from studio.datasets.pictures import upright_rgb
from studio.datasets.sources import Refused
from studio.errors import ModelUnavailable, StorageError
from studio.runs.config import TrainingConfig
from studio.storage import write_whole
from trainer.cache import Encodings
from trainer.controls import OF_PIXELS, control_of_pixels
from trainer.data import Row, check_control, is_flipped
from trainer.framing import frame_of, framed
from trainer.hub_stream import HubStream
from trainer.order import drawn, permutation
from trainer.shards import CutOff, Raw, opened, read_shard, shards_of

MAX_WARNINGS = 20
REMEMBERED = 256
ATTEMPTS = 3


class Stream(Protocol):
    """Samples in an order of its own for each epoch."""

    def epoch(self, number: int, skip: int) -> Iterator[Raw]:
        """The training samples of an epoch from the one at `skip` on."""
        ...

    def first(self, count: int) -> list[Raw]:
        """The samples that are held out."""
        ...


@dataclass(kw_only=True, eq=False)
class ShardStream:
    """WebDataset. `counts` is how many samples each shard has, as far as is known."""

    shards: tuple[str, ...]
    seed: int
    num_held_out: int
    counts: dict[str, int] = field(default_factory=dict)

    def epoch(self, number: int, skip: int) -> Iterator[Raw]:
        """Shard after shard, shuffled by (seed, epoch)."""
        for index in permutation(len(self.shards), drawn(self.seed, "shards", number)):
            shard, withheld = self.shards[index], self.num_held_out if index == 0 else 0
            known = self.counts.get(shard)
            if known is not None and skip >= max(0, known - withheld):
                skip -= max(0, known - withheld)
                continue
            for ordinal, raw in enumerate(self._read(shard)):
                if ordinal < withheld:
                    continue
                if skip:
                    skip -= 1
                    continue
                yield raw

    def first(self, count: int) -> list[Raw]:
        """The first samples of the first shard."""
        return list(islice(self._read(self.shards[0]), min(count, self.num_held_out)))

    def _read(self, shard: str) -> Iterator[Raw]:
        """A shard from its beginning; a broken connection is made again, and goes on where it broke."""
        count = 0
        for attempt in range(ATTEMPTS):
            try:
                with opened(shard) as file:
                    for raw in islice(read_shard(file, shard.rsplit("/", 1)[-1]), count, None):
                        count += 1
                        yield raw
                self.counts[shard] = count
                return
            except (ModelUnavailable, CutOff):
                if attempt + 1 == ATTEMPTS or shard.startswith("/"):
                    raise


@dataclass(kw_only=True, eq=False)
class Reader:
    """Samples by position, over all epochs, from a stream that only goes forward. `length` is an epoch's, if known.

    The samples passed last are remembered, so that readers ahead of each other do not send it back.
    """

    stream: Stream
    length: int | None = None
    _samples: Iterator[Raw] | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)
    _epoch: int = field(default=0, init=False)
    _offset: int = field(default=0, init=False)
    _passed: OrderedDict[int, Raw] = field(default_factory=OrderedDict, init=False)

    def read(self, position: int, count: int) -> list[Raw]:
        """The samples at [position, position + count)."""
        return [self._at(place) for place in range(position, position + count)]

    def _at(self, position: int) -> Raw:
        if position in self._passed:
            return self._passed[position]
        if self._samples is None or position < self._next:
            self._go_to(position)
        while self._next <= position:
            self._passed[self._next] = self._one()
            self._next += 1
            if len(self._passed) > REMEMBERED:
                self._passed.popitem(last=False)
        return self._passed[position]

    def _go_to(self, position: int) -> None:
        """Straight there: by an epoch's length, else in the first epoch, which nobody has finished yet."""
        self._passed.clear()
        self._open(*(divmod(position, self.length) if self.length else (0, position)))
        self._next = position
        if not self.length and self._samples is not None:
            first = next(self._samples, None)
            if first is not None:
                self._samples = chain([first], self._samples)
                return
            self._open(0, 0)
            self._next = 0

    def _open(self, epoch: int, offset: int) -> None:
        self._epoch, self._offset = epoch, offset
        self._samples = self.stream.epoch(epoch, offset)

    def _one(self) -> Raw:
        for _ in range(2):
            if self._samples is not None and (raw := next(self._samples, None)) is not None:
                self._offset += 1
                return raw
            if self._offset:
                self.length = self._offset
            self._open(self._epoch + 1, 0)
        raise StorageError("The stream holds no pictures beside those that are held out: check its shards.")


@dataclass(kw_only=True, eq=False)
class StreamedSource:
    """See the module's text."""

    config: TrainingConfig
    encodings: Encodings
    reader: Reader
    state_path: Path
    _warnings: list[str] = field(default_factory=list, init=False)
    _remembered: tuple[int | None, int] = field(default=(None, 0), init=False)
    _lock: Any = field(default_factory=threading.Lock, init=False)

    @staticmethod
    def cache_dir(config: TrainingConfig, cache_dir: Path) -> Path:  # noqa: ARG004
        """The run's, for captions."""
        return cache_dir

    @classmethod
    def of(cls, config: TrainingConfig, encodings: Encodings, num_samples: int, cache_dir: Path) -> StreamedSource:  # noqa: ARG003
        """The stream a configuration names. Raises `InvalidRequest`, `ModelUnavailable`."""
        check_control(config, OF_PIXELS)
        path, source = cache_dir / "stream.json", config.dataset.source
        known = _known(path, source)
        if config.dataset.kind == "hub":
            stream: Stream = HubStream.of(source, config.seed, config.num_held_out)
        else:
            stream = ShardStream(shards=shards_of(source), seed=config.seed, num_held_out=config.num_held_out,
                                 counts=known["counts"])  # fmt: skip
        return cls(config=config, encodings=encodings, reader=Reader(stream=stream, length=known["length"]),
                   state_path=path)  # fmt: skip

    @property
    def warnings(self) -> tuple[str, ...]:
        """The pictures that could not be read so far."""
        return tuple(self._warnings)

    def build(self, rank: int, world: int, report: Callable[[float], None]) -> None:  # noqa: ARG002
        """Nothing is made ahead; that the stream can be read is found out before the first step."""
        if not self.reader.stream.first(1):
            raise StorageError("The stream holds no pictures: check its shards.")

    def rows(self, draw: int, first: int, count: int, total: int) -> list[Row]:
        """The samples at these positions."""
        with self._lock:
            samples = self.reader.read(draw * total + first, count)
            self._remember()
        flips = [is_flipped(self.config, draw, number) for number in range(first, first + count)]
        rows = [self._row(raw, flipped) for raw, flipped in zip(samples, flips, strict=True)]
        return self._filled(rows, samples)

    def held_out(self, count: int) -> list[Row]:
        """The first samples of the stream."""
        with self._lock:
            samples = self.reader.stream.first(count)
        rows = [self._row(raw, False, with_pixels=True) for raw in samples]
        return [row for row in rows if row is not None]

    def close(self) -> None:
        """Nothing is held."""

    def _row(self, raw: Raw, flipped: bool, with_pixels: bool = False) -> Row | None:
        """A sample decoded and encoded; `None`, and a warning, where it cannot be."""
        size = (self.config.resolution, self.config.resolution)
        try:
            image = upright_rgb(raw.content)
        except Refused as refused:
            if len(self._warnings) < MAX_WARNINGS:
                self._warnings.append(f"{raw.name} is {refused.reason}; its neighbour took its place.")
            return None
        pixels = framed(image, size)
        pixels = pixels.flip(-1) if flipped else pixels
        control = None if self.config.control == "none" else control_of_pixels(self.config.control, pixels)
        return Row(
            name=raw.name,
            caption=raw.caption,
            frame=frame_of(image.size, size),
            parameters=self.encodings.encode(pixels).half(),
            control=control,
            pixels=pixels if with_pixels else None,
        )

    def _filled(self, rows: list[Row | None], samples: list[Raw]) -> list[Row]:
        good = [index for index, row in enumerate(rows) if row is not None]
        if not good:
            which = f"{samples[0].name} and the {len(samples) - 1} pictures after it"
            raise StorageError(f"The stream cannot be trained on, {which} are broken: check its source.")
        nearest = [min(good, key=lambda place: (abs(place - index), place)) for index in range(len(rows))]
        return [row for place in nearest if (row := rows[place]) is not None]

    def _remember(self) -> None:
        """Write down what was counted, when there is news."""
        counts = getattr(self.reader.stream, "counts", {})
        if (self.reader.length, len(counts)) == self._remembered:
            return
        self._remembered = self.reader.length, len(counts)
        state = {"source": self.config.dataset.source, "length": self.reader.length, "counts": counts}
        own = self.state_path.with_name(f"{self.state_path.name}.{os.getpid()}")
        write_whole(own, json.dumps(state).encode(), sync=False)
        own.replace(self.state_path)


def _known(path: Path, source: str) -> dict[str, Any]:
    """What earlier sessions counted of this source."""
    try:
        state = json.loads(path.read_text())
        if state["source"] == source and (state["length"] is None or int(state["length"]) > 0):
            counts = {str(shard): int(count) for shard, count in state["counts"].items()}
            return {"length": state["length"], "counts": counts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {"length": None, "counts": {}}
