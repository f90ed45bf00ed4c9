"""Checked reading of safetensors from strangers: everything is looked at before anything is used.

safetensors cannot run code, but a valid file can still hold a 52 MB header, NaN, duplicate keys and path-like names, so
before loading: no pickle in disguise, a header of at most 1 MB, at most 4,096 tensors, plain names, known types, then
the names and shapes the caller expects, then finite values. Pickles are told by content, not by name.

This module knows no model: which names and shapes are right is the caller's to say. It reads local paths only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from studio.errors import IncompatibleWeights, ModelUnavailable, UnsafeFile

MAX_HEADER_BYTES = 1_000_000
MAX_TENSORS = 4096
_LENGTH_BYTES = 8
_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}\.safetensors")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself: the shape of each tensor, and free text metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header, checked, without touching the weights. Raises `UnsafeFile` or `ModelUnavailable`."""
    fields = _parse(_header_bytes(path), path.name)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _unsafe(path.name, "expected metadata made of text, got something else")
    if len(fields) > MAX_TENSORS:
        raise _unsafe(path.name, f"expected at most {MAX_TENSORS} tensors, got {len(fields)}")
    return Header(shapes={name: _shape(name, entry, path.name) for name, entry in fields.items()}, metadata=metadata)


def read_tensors(path: Path, *, expected: Shapes | None = None) -> dict[str, torch.Tensor]:
    """All tensors of one file, on the CPU, finite, and with exactly the expected names and shapes if any are given."""
    header = read_header(path)
    if expected is not None:
        check_shapes(header.shapes, expected, path.name)
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise _unsafe(path.name, f"expected a whole safetensors file, got a broken one ({error})") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _unsafe(path.name, f"expected finite numbers, got NaN or infinity in {name}")
    return tensors


def read_sharded(index_path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of an index's shards, and the metadata of the first; every shard must hold just what it should."""
    places = _weight_map(index_path)
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    for file_name in sorted(set(places.values())):
        shard = index_path.parent / file_name
        header = read_header(shard)
        wanted = {name for name, place in places.items() if place == file_name}
        if wanted != set(header.shapes):
            odd = min(wanted ^ set(header.shapes))
            raise _unsafe(file_name, f"expected just the tensors its index lists, differs in {odd}")
        metadata = metadata or header.metadata
        tensors.update(read_tensors(shard))
    return tensors, metadata


def check_shapes(shapes: Shapes, expected: Shapes, file_name: str) -> None:
    """Raises `IncompatibleWeights` naming the first tensor that is missing, unexpected or of another shape."""
    for name in sorted({*shapes, *expected}):
        if shapes.get(name) != expected.get(name):
            wanted = f"shape {list(expected[name])}" if name in expected else "no such tensor"
            found = f"shape {list(shapes[name])}" if name in shapes else "none"
            raise IncompatibleWeights(f"{file_name} does not fit the model: {name}: expected {wanted}, got {found}.")


def _header_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ModelUnavailable(f"{path.name}: expected a file, got none; check the path or download it again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        _refuse_pickles(start, path.name)
        length = int.from_bytes(start, "little")
        if len(start) < _LENGTH_BYTES or length + _LENGTH_BYTES > size:
            raise _unsafe(path.name, "expected a safetensors file, got something else or only part of one")
        if length > MAX_HEADER_BYTES:
            raise _unsafe(path.name, f"expected a header of at most {MAX_HEADER_BYTES:,} bytes, got {length:,}")
        return file.read(length)


def _refuse_pickles(start: bytes, file_name: str) -> None:
    """Zip archives (torch.save) and pickle opcodes; read as a length, either is far above 1 MB of header."""
    is_zip = start.startswith(b"PK\x03\x04")
    is_pickle = len(start) > 1 and start[0] == 0x80 and start[1] <= 5 and any(start[3:])
    if is_zip or is_pickle:
        raise _unsafe(
            file_name, "expected safetensors, got a pickle (.ckpt, .pt, .bin), which can run code; convert it first"
        )


def _parse(raw: bytes, file_name: str) -> dict[str, Any]:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise _unsafe(file_name, "expected each name once, got duplicate keys")
        return fields

    try:
        fields = json.loads(raw, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _unsafe(file_name, "expected a safetensors header, got no readable JSON") from error
    if not isinstance(fields, dict):
        raise _unsafe(file_name, "expected a JSON object, got something else")
    return fields


def _shape(name: str, entry: object, file_name: str) -> tuple[int, ...]:
    if not _NAME.fullmatch(name) or ".." in name:
        raise _unsafe(file_name, f"expected plain tensor names, got {name[:80]!r}")
    if not isinstance(entry, dict) or entry.get("dtype") not in _TYPES:
        raise _unsafe(file_name, f"expected a known number type for {name}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 2**32 for side in shape):
        raise _unsafe(file_name, f"expected a shape of whole numbers for {name}")
    return tuple(shape)


def _weight_map(index_path: Path) -> dict[str, str]:
    if not index_path.is_file():
        raise ModelUnavailable(f"{index_path.name}: expected a file, got none; check the path or download it again.")
    if index_path.stat().st_size > MAX_HEADER_BYTES:
        raise _unsafe(index_path.name, f"expected an index of at most {MAX_HEADER_BYTES:,} bytes")
    places = _parse(index_path.read_bytes(), index_path.name).get("weight_map")
    if not isinstance(places, dict) or not 0 < len(places) <= MAX_TENSORS:
        raise _unsafe(index_path.name, f"expected a weight_map of 1 to {MAX_TENSORS} tensors")
    for place in places.values():
        if not isinstance(place, str) or not _FILE_NAME.fullmatch(place):
            raise _unsafe(index_path.name, f"expected file names beside the index, got {str(place)[:80]!r}")
    return places


def _unsafe(file_name: str, what: str) -> UnsafeFile:
    return UnsafeFile(f"{file_name} was refused: {what}.")
