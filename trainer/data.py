"""What a run trains on: batches that are a pure function of (seed, step, micro, rank), so that a resume needs no state.

    data = TrainingData.of(config, networks, cache_dir=run.path / "cache")
    data.build(rank, world, report)          # encode what is not cached yet; may be stopped and taken up again
    batch = data.batch(step, rank, world, micro)
    measured = data.held_out(config.num_held_out)

The samples of a step are numbered over all its forwards: forward `micro * world + rank` has the numbers
[forward * B, forward * B + B). So one process with two accumulated forwards, or with twice the batch, sees what two
processes see. Noise of the posterior, caption dropout and mirroring belong to (seed, step, number). Methods that use
a solved window in several steps get the same batch in all of them (`config.steps_per_batch`).
Shapes: latents `[B, C, h, w]` scaled, conditions one row a sample, control `[B, 3, H, W]` in [0, 1]. All on the device.
`config.num_workers` reads ahead and changes no result. Where samples come from is a `Source`: `trainer.stored` (an
imported dataset), `trainer.endless` (Tabletop scenes), `trainer.streamed` (shards and the hub).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from studio.errors import InvalidRequest
from studio.runs.config import TrainingConfig
from trainer.cache import Encoder, Encodings, Shelf, Tensors, as_float
from trainer.framing import Frame
from trainer.order import drawn, share

Report = Callable[[float], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One sample before chance: `parameters` `[2C, h, w]`, `control` and `pixels` uint8 `[3, H, W]` where asked for."""

    name: str
    caption: str
    frame: Frame
    parameters: torch.Tensor
    control: torch.Tensor | None = None
    pixels: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One forward's samples. `captions` and `condition` have some left out, `full_condition` has them all (`None` if
    none are ever left out); `images` in [-1, 1] come with held-out samples; `names` say which pictures these are."""

    latents: torch.Tensor
    condition: Tensors
    captions: tuple[str, ...]
    full_captions: tuple[str, ...]
    full_condition: Tensors | None = None
    images: torch.Tensor | None = None
    sizes: tuple[Frame, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)


class Source(Protocol):
    """Where samples come from. `warnings` are sentences for the run's log."""

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def build(self, rank: int, world: int, report: Report) -> None:
        """Encode ahead what this process of `world` should; only ever saves time."""
        ...

    def rows(self, draw: int, first: int, count: int, total: int) -> list[Row]:
        """Samples `first` to `first + count` of the `total` of a draw: a pure function. All of one shape."""
        ...

    def held_out(self, count: int) -> list[Row]:
        """At most `count` samples that `rows` never gives, with pixels, all of one shape."""
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...


@dataclass(kw_only=True, eq=False)
class TrainingData:
    """Batches for a configuration; see the module's text."""

    config: TrainingConfig
    encodings: Encodings
    source: Source
    _ahead: dict[tuple[int, int, int, int], Future[list[Row]]] = field(default_factory=dict, init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    @classmethod
    def of(cls, config: TrainingConfig, networks: Encoder, *, cache_dir: Path, world: int = 1) -> TrainingData:
        """The data a configuration names. `cache_dir` is for what has no folder of its own (scenes, streams, text).

        Raises `InvalidRequest`, `NotFound`, `StorageError` with a sentence when they cannot be had.
        """
        from trainer.endless import TabletopSource
        from trainer.stored import StoredSource
        from trainer.streamed import StreamedSource

        kinds: dict[str, Any] = {
            "stored": StoredSource, "tabletop": TabletopSource, "webdataset": StreamedSource, "hub": StreamedSource
        }  # fmt: skip
        kind = kinds[config.dataset.kind]
        encodings = Encodings(encoder=networks, shelf=Shelf(folder=kind.cache_dir(config, cache_dir)))
        total = config.batch_size * config.gradient_accumulation * world
        source = kind.of(config, encodings, total, cache_dir)
        return cls(config=config, encodings=encodings, source=source)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of these data, in sentences; grows while streams are read."""
        return self.source.warnings

    def build(self, rank: int = 0, world: int = 1, report: Report = lambda _: None) -> None:
        """Encode this process's share of what is missing; `report` gets the fraction and may raise to stop.

        What another process has not finished is made when it is needed, so nobody has to wait for anybody.
        """
        self.encodings.condition("")
        self.source.build(rank, world, report)
        report(1.0)

    def batch(self, step: int, rank: int = 0, world: int = 1, micro: int = 0) -> Batch:
        """The samples of one forward."""
        draw, first, total = self._place(step, rank, world, micro)
        rows = self._rows(draw, first, total)
        for later in range(1, self.config.num_workers + 1):
            extra = micro + later
            accumulated = self.config.gradient_accumulation
            following = step + extra // accumulated * self._stride
            self._read_ahead(*self._place(following, rank, world, extra % accumulated))
        return self._batch(rows, draw, first, self.config.caption_dropout)

    def held_out(self, count: int) -> Batch:
        """Samples that are never trained on, with pixels and every caption: the same in every run on these data."""
        rows = self.source.held_out(count)
        return self._batch(rows, -1, 0, 0.0)

    def close(self) -> None:
        """Let the workers go."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self.source.close()

    # --- which samples ---

    @property
    def _stride(self) -> int:
        return self.config.steps_per_batch

    def _place(self, step: int, rank: int, world: int, micro: int) -> tuple[int, int, int]:
        """The draw, the first sample's number in it, and how many samples it has."""
        if not (step >= 0 and 0 <= rank < world and 0 <= micro < self.config.gradient_accumulation):
            raise ValueError(f"batch: expected a forward of the run, got {step=}, {rank=}, {world=}, {micro=}.")
        size = self.config.batch_size
        return step // self._stride, (micro * world + rank) * size, size * self.config.gradient_accumulation * world

    def _rows(self, draw: int, first: int, total: int) -> list[Row]:
        key = (draw, first, self.config.batch_size, total)
        self._ahead = {place: future for place, future in self._ahead.items() if place[0] >= draw}
        if key not in self._ahead:
            rows = self.source.rows(*key)
            self._ahead[key] = Future()
            self._ahead[key].set_result(rows)
        return self._ahead[key].result()

    def _read_ahead(self, draw: int, first: int, total: int) -> None:
        count = self.config.batch_size
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.config.num_workers, thread_name_prefix="data")
        if (draw, first, count, total) not in self._ahead:
            self._ahead[draw, first, count, total] = self._pool.submit(self.source.rows, draw, first, count, total)

    # --- chance ---

    def _batch(self, rows: Sequence[Row], draw: int, first: int, dropout: float) -> Batch:
        seed, numbers = self.config.seed, range(first, first + len(rows))
        full = tuple(row.caption for row in rows)
        kept = tuple(
            "" if share(seed, "dropout", draw, number) < dropout else text
            for number, text in zip(numbers, full, strict=True)
        )
        parameters = torch.stack([row.parameters.float() for row in rows])
        noise = torch.stack([_noise(parameters[0], seed, draw, number) for number in numbers])
        return Batch(
            latents=self.encodings.encoder.latents(parameters.to(self._device), noise.to(self._device)),
            condition=self._condition(kept, rows),
            captions=kept,
            full_captions=full,
            full_condition=self._condition(full, rows) if dropout else None,
            images=_stacked([row.pixels for row in rows], self._device, as_float),
            sizes=tuple(row.frame for row in rows),
            names=tuple(row.name for row in rows),
        )

    @property
    def _device(self) -> str:
        return self.encodings.encoder.device

    def _condition(self, captions: Sequence[str], rows: Sequence[Row]) -> Tensors:
        """The captions' conditions, SDXL's sizes, and the control pictures."""
        found = [self.encodings.condition(caption) for caption in captions]
        condition = {key: torch.stack([row[key] for row in found]).float().to(self._device) for key in found[0]}
        if "text_embeds" in condition:
            condition["time_ids"] = torch.tensor([row.frame for row in rows], dtype=torch.float32, device=self._device)
        control = _stacked([row.control for row in rows], self._device, lambda pixels: pixels.float() / 255)
        return condition if control is None else condition | {"control": control}


def is_flipped(config: TrainingConfig, draw: int, number: int) -> bool:
    """Whether this sample is mirrored: half of them, where the configuration wants it."""
    return config.random_flip and share(config.seed, "flip", draw, number) < 0.5


def check_control(config: TrainingConfig, possible: Sequence[str]) -> None:
    """Raises `InvalidRequest` where these data cannot give the control a ControlNet is to learn."""
    if config.control != "none" and config.control not in possible:
        words = f"{' or '.join(possible)} for these pictures; Tabletop's scenes have depth and pose too"
        raise InvalidRequest("control", words, config.control)


def _noise(like: torch.Tensor, seed: int, draw: int, number: int) -> torch.Tensor:
    channels, height, width = like.shape
    generator = torch.Generator().manual_seed(drawn(seed, "posterior", draw, number))
    return torch.randn(channels // 2, height, width, generator=generator)


def _stacked(
    pictures: Sequence[torch.Tensor | None], device: str, made: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor | None:
    present = [picture for picture in pictures if picture is not None]
    return made(torch.stack(present).to(device)) if present and len(present) == len(pictures) else None
