"""What encoders made of pictures and captions, kept on disk under a name that says what it was made from.

A name is the hash of the content, of the encoder's weights, of the size and of the version of the preprocessing: an
edited picture has another name, so nothing stale is ever read, and two runs on the same pictures share the work. Files
are safetensors in fp16 with a checksum inside, written aside and renamed; a missing or damaged one is made again.
Everything is encoded alone, one picture or caption at a time, so that its bytes do not depend on what else was missing.
Knows nothing of the order of training.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from studio.storage import storage_error, write_whole
from trainer.framing import PREPROCESSING, Size

MEMORY_BYTES = 2**30
FORMAT = 1

Tensors = dict[str, torch.Tensor]


class Encoder(Protocol):
    """What turns pictures and captions into what a UNet is trained on: `trainer.networks.Networks`, or a test's own."""

    device: str

    @property
    def vae_sha256(self) -> str: ...

    @property
    def text_sha256(self) -> str: ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Posterior parameters `[B, 2C, h, w]` of pixels `[B, 3, H, W]` in [-1, 1]."""
        ...

    def latents(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents `[B, C, h, w]` with this standard normal noise."""
        ...

    def embed(self, texts: list[str], sizes: Any = None) -> Tensors:
        """The condition, one row a text; with `time_ids` where the UNet wants sizes."""
        ...


@dataclass(kw_only=True, eq=False)
class Shelf:
    """Tensors by key in a folder, the latest read also in memory. May be shared by processes and threads."""

    folder: Path
    memory_bytes: int = MEMORY_BYTES
    _held: OrderedDict[str, Tensors] = field(default_factory=OrderedDict, init=False)
    _held_bytes: int = field(default=0, init=False)
    _lock: Any = field(default_factory=threading.Lock, init=False)

    def has(self, key: str) -> bool:
        """Whether it is there, whole or not."""
        return key in self._held or self._path(key).exists()

    def get_or_make(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """What lies under a key, made and kept if it is not there or is damaged."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        found = self._read(key)
        if found is None:
            found = {name: _small(value.detach().cpu()) for name, value in make().items()}
            self._write(key, found)
        self._hold(key, found)
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> Tensors | None:
        try:
            content = self._path(key).read_bytes()
            start = 8 + int.from_bytes(content[:8], "little")
            wanted = json.loads(content[8:start])["__metadata__"]["sha256"]
            if wanted != hashlib.sha256(content[start:]).hexdigest():
                return None
            return load(content)
        except (FileNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def _write(self, key: str, tensors: Tensors) -> None:
        bare = save(tensors)
        digest = hashlib.sha256(bare[8 + int.from_bytes(bare[:8], "little") :]).hexdigest()
        path = self._path(key)
        own = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            write_whole(own, save(tensors, {"sha256": digest}), sync=False)
        except OSError as error:
            raise storage_error(self.folder, error) from error
        own.replace(path)

    def _hold(self, key: str, tensors: Tensors) -> None:
        size = sum(value.nbytes for value in tensors.values())
        with self._lock:
            if key in self._held or size > self.memory_bytes:
                return
            self._held[key] = tensors
            self._held_bytes += size
            while self._held_bytes > self.memory_bytes:
                _, gone = self._held.popitem(last=False)
                self._held_bytes -= sum(value.nbytes for value in gone.values())


@dataclass(kw_only=True, eq=False)
class Encodings:
    """Posteriors and conditions of an encoder, by way of a shelf."""

    encoder: Encoder
    shelf: Shelf
    _encoding: Any = field(default_factory=threading.Lock, init=False)

    def posterior_key(self, content: str, size: Size, *, flipped: bool = False, extra: str = "") -> str:
        """The name of a picture's posterior; `content` is the hash of its file, or says how it is made."""
        return _name("posterior", PREPROCESSING, self.encoder.vae_sha256, content, size, flipped, extra)

    def posterior(self, key: str, pixels: Callable[[], Tensors]) -> Tensors:
        """Posterior parameters `[2C, h, w]` of `pixels()["pixels"]` `[3, H, W]` uint8, and whatever else that gives."""

        def make() -> Tensors:
            given = dict(pixels())
            return {"parameters": self.encode(given.pop("pixels")), **given}

        return self.shelf.get_or_make(key, make)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Posterior parameters `[2C, h, w]` of one picture `[3, H, W]` uint8."""
        with self._encoding:
            return self.encoder.encode(as_float(pixels)[None])[0].float().cpu()

    def condition(self, text: str) -> Tensors:
        """One caption's condition, a row without its batch dimension; `time_ids` are not in it."""
        return self.shelf.get_or_make(self.text_key(text), lambda: self._embedded(text))

    def text_key(self, text: str) -> str:
        """The name of a caption's condition."""
        return _name("text", self.encoder.text_sha256, text)

    def _embedded(self, text: str) -> Tensors:
        with self._encoding:
            return {key: value[0] for key, value in self.encoder.embed([text]).items() if key != "time_ids"}


def as_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as numbers in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def _name(*parts: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()


def _small(value: torch.Tensor) -> torch.Tensor:
    """Numbers in fp16 where that holds them."""
    if not value.is_floating_point():
        return value.contiguous()
    half = value.half()
    return (half if bool(half.isfinite().all()) else value.float()).contiguous()
