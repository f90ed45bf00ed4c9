"""Strangers' safetensors: what is refused, and that it is refused before it is used."""

import json
import time

import pytest
import torch
from safetensors.torch import save_file

from studio.errors import IncompatibleWeights, ModelUnavailable, UnsafeFile
from studio.perflow import read_header, read_sharded, read_tensors
from studio.perflow.safefile import MAX_HEADER_BYTES, MAX_TENSORS

GOOD = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2, dtype=torch.float16)}


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def raw_file(path, header, data=b"\0" * 4):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.fixture
def good(tmp_path):
    save_file(GOOD, tmp_path / "good.safetensors", metadata={"format": "pt"})
    return tmp_path / "good.safetensors"


def test_a_good_file_is_read_whole(good):
    shapes = {name: tuple(tensor.shape) for name, tensor in GOOD.items()}
    assert read_header(good).shapes == shapes
    assert read_header(good).metadata == {"format": "pt"}
    tensors = read_tensors(good, expected=shapes)
    assert tensors.keys() == GOOD.keys()
    assert all(torch.equal(tensors[name], GOOD[name]) for name in GOOD)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["weights.ckpt", "weights.safetensors"])
def test_pickles_are_told_by_content_not_by_name(tmp_path, name, zipped):
    torch.save(GOOD, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFile, match="pickle"):
        read_header(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "something else or only part"),
        (b"\x05\0\0", "something else or only part"),
        (b"\xff" * 64, "something else or only part"),
        (b"PK\x03\x04" + b"\0" * 60, "pickle"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "something else"),
        ((2).to_bytes(8, "little") + b"{", "only part"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content, sentence):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UnsafeFile, match=sentence):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("length", [0x280, 0x480, 0x4B50])
def test_a_header_length_that_looks_like_a_pickle_or_zip_is_not_one(tmp_path, length):
    header = json.dumps({"a": entry()}).encode().ljust(length)
    assert read_header(raw_file(tmp_path / "x.safetensors", header)).shapes == {"a": (1,)}


def test_a_huge_header_is_refused_without_being_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((52_000_000).to_bytes(8, "little"))
    with path.open("r+b") as file:
        file.truncate(53_000_000)
    start = time.monotonic()
    with pytest.raises(UnsafeFile, match=f"{MAX_HEADER_BYTES:,}"):
        read_tensors(path)
    assert time.monotonic() - start < 1


def test_too_many_tensors_are_refused(tmp_path):
    header = {f"t{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(MAX_TENSORS + 1)}
    with pytest.raises(UnsafeFile, match="4096"):
        read_header(raw_file(tmp_path / "x.safetensors", header, b""))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/root", "a..b", "", ".hidden", "a b", "a\n", "x" * 300, "C:\\x"])
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(UnsafeFile, match="plain tensor names"):
        read_header(raw_file(tmp_path / "x.safetensors", {name: entry()}))


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', "duplicate"),
        (b"[" * 100_000, "no readable JSON"),
        (b"not json", "no readable JSON"),
        (b"[1]", "JSON object"),
        (b"\xff\xfe{}", "no readable JSON"),
        ({"a": 3}, "number type"),
        ({"a": entry(dtype="OBJECT")}, "number type"),
        ({"a": entry(dtype=["F32"])}, "number type"),
        ({"a": entry(shape=(-1,))}, "whole numbers"),
        ({"a": entry(shape=(True,))}, "whole numbers"),
        ({"a": entry(shape=(2**40,))}, "whole numbers"),
        ({"__metadata__": {"a": 3}}, "metadata"),
        ({"__metadata__": "text"}, "metadata"),
    ],
)
def test_malformed_headers_are_refused(tmp_path, header, sentence):
    with pytest.raises(UnsafeFile, match=sentence):
        read_header(raw_file(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, value, dtype):
    save_file({"fine": torch.ones(2), "odd.weight": torch.tensor([1.0, value]).to(dtype)}, tmp_path / "x.safetensors")
    with pytest.raises(UnsafeFile, match=r"odd\.weight"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("cut", [1, 10])
def test_a_truncated_file_is_refused(good, cut):
    good.write_bytes(good.read_bytes()[:-cut])
    with pytest.raises(UnsafeFile, match="broken"):
        read_tensors(good)


def test_data_that_do_not_match_the_header_are_refused(tmp_path):
    with pytest.raises(UnsafeFile, match="broken"):
        read_tensors(raw_file(tmp_path / "x.safetensors", {"a": entry(shape=(9,))}))


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        ({"conv.weight": (2, 3)}, r"conv\.bias: expected no such tensor, got shape \[2\]"),
        ({"conv.weight": (2, 3), "conv.bias": (2,), "z": (1,)}, r"z: expected shape \[1\], got none"),
        ({"conv.weight": (3, 2), "conv.bias": (2,)}, r"conv\.weight: expected shape \[3, 2\], got shape \[2, 3\]"),
    ],
)
def test_the_first_mismatch_is_named(good, expected, sentence):
    with pytest.raises(IncompatibleWeights, match=sentence):
        read_tensors(good, expected=expected)


def test_a_missing_file_is_unavailable(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"nothing\.safetensors"):
        read_tensors(tmp_path / "nothing.safetensors")


def test_shards_must_hold_what_their_index_says(tmp_path):
    save_file({"a": torch.ones(1), "extra": torch.ones(1)}, tmp_path / "one.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(UnsafeFile, match="extra"):
        read_sharded(index)


@pytest.mark.parametrize("place", ["../one.safetensors", "/one.safetensors", "sub/one.safetensors", "one.bin", 3, ".."])
def test_an_index_names_only_its_neighbours(tmp_path, place):
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(UnsafeFile, match="file names beside"):
        read_sharded(index)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}', "[]", "x"])
def test_a_malformed_index_is_refused(tmp_path, content):
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(UnsafeFile, match=r"x\.safetensors\.index\.json"):
        read_sharded(index)
