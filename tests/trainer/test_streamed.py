"""Streams: shards read safely, samples by position whoever asks, resumes that skip what was counted."""

from __future__ import annotations

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from studio.errors import InvalidRequest, ModelUnavailable, StorageError, StudioError, UnsafeFile
from studio.runs.config import DatasetRef
from tests.datasets.making import Content, picture
from tests.trainer.data_fakes import FakeEncoder, config_for
from trainer.data import TrainingData
from trainer.hub_stream import HubStream
from trainer.shards import Raw, opened, read_shard, shards_of
from trainer.streamed import Reader, ShardStream, StreamedSource


def shard(path: Path, members: dict[str, Content], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def three_shards(tmp_path: Path) -> str:
    """Shards of 9, 7 and 4 samples."""
    number = 0
    for index, count in enumerate((9, 7, 4)):
        members: dict[str, Content] = {}
        for _ in range(count):
            members[f"{number:03}.png"] = picture(number)
            members[f"{number:03}.txt"] = f"sample {number}"
            number += 1
        shard(tmp_path / f"set-{index}.tar", members)
    return str(tmp_path / "set-{0..2}.tar")


def data_of(folder: Path, source: str, world: int = 1, **changes: object) -> TrainingData:
    config = config_for(DatasetRef(id="s", kind="webdataset", source=source), **changes)
    return TrainingData.of(config, FakeEncoder(), cache_dir=folder, world=world)


# --- samples by position ----------------------------------------------------------------------------------------


def test_every_sample_once_an_epoch_and_held_out_ones_never(three_shards: str, tmp_path: Path) -> None:
    data = data_of(tmp_path / "run", three_shards, batch_size=1)
    names = [data.batch(step).names[0] for step in range(51)]  # 17 samples an epoch, 3 held out
    epochs = [names[first : first + 17] for first in (0, 17, 34)]
    assert all(len(set(epoch)) == 17 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert data.held_out(3).names == ("000", "001", "002")
    assert not {"000", "001", "002"} & set(names)
    assert data.batch(0).full_captions == (f"sample {int(names[0])}",)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_resume_finds_its_place(three_shards: str, tmp_path: Path, num_workers: int) -> None:
    straight = data_of(tmp_path / "a", three_shards)
    batches = [straight.batch(step) for step in range(14)]
    for start in (0, 3, 9, 13):
        for folder in ("a", f"fresh-{start}"):  # with what was counted, and without
            resumed = data_of(tmp_path / folder, three_shards, num_workers=num_workers)
            for step in range(start, 14):
                again = resumed.batch(step)
                assert again.names == batches[step].names
                assert torch.equal(again.latents, batches[step].latents)
            resumed.close()


def test_two_processes_see_what_one_sees(three_shards: str, tmp_path: Path) -> None:
    wide = data_of(tmp_path / "wide", three_shards, batch_size=8)
    two = [data_of(tmp_path / "two", three_shards, world=2) for _ in range(2)]
    for step in range(6):
        apart = [data.batch(step, rank, 2) for rank, data in enumerate(two)]
        assert sum((batch.names for batch in apart), ()) == wide.batch(step).names
        assert torch.equal(torch.cat([batch.latents for batch in apart]), wide.batch(step).latents)


def test_counted_shards_are_not_read_again(three_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of(tmp_path / "run", three_shards, batch_size=1)
    names = [data.batch(step).names for step in range(40)]
    state = json.loads((tmp_path / "run" / "stream.json").read_text())
    assert state["length"] == 17
    assert sorted(state["counts"].values()) == [4, 7, 9]
    resumed = data_of(tmp_path / "run", three_shards, batch_size=1)
    asked: list[str] = []
    monkeypatch.setattr("trainer.streamed.opened", lambda shard: asked.append(shard) or opened(shard))
    assert resumed.batch(33).names == names[33]  # the last of its epoch: two shards lie before it
    assert len(asked) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"source": 3}', '{"source": "S", "length": -1, "counts": {}}'])
def test_a_broken_count_is_counted_again(three_shards: str, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "stream.json").write_text(content.replace('"S"', json.dumps(three_shards)))
    assert data_of(run, three_shards).batch(9).names == data_of(tmp_path / "other", three_shards).batch(9).names


def test_a_broken_picture_is_replaced_and_named(tmp_path: Path) -> None:
    members: dict[str, Content] = {f"{n:02}.png": picture(n) for n in range(12)}
    members["05.png"] = b"\x80\x04 a pickle"
    path = shard(tmp_path / "a.tar", members)
    data = data_of(tmp_path / "run", str(path))
    names = [name for step in range(2) for name in data.batch(step).names]
    assert names == ["03", "04", "04", "06", "07", "08", "09", "10"]
    assert data.warnings == (
        "05 is a pickle, which can run code when opened: it was not; its neighbour took its place.",
    )


def test_a_stream_of_nothing_usable_is_said(tmp_path: Path) -> None:
    broken = shard(tmp_path / "a.tar", {f"{n:02}.png": b"no picture" for n in range(12)})
    with pytest.raises(StorageError, match="and the 3 pictures after it are broken"):
        data_of(tmp_path / "run", str(broken)).batch(0)
    words = shard(tmp_path / "b.tar", {"a.txt": "words"})
    with pytest.raises(StorageError, match="holds no pictures"):
        data_of(tmp_path / "run", str(words)).build()
    few = shard(tmp_path / "c.tar", {"a.png": picture(1)})
    with pytest.raises(StorageError, match="beside those that are held out"):
        data_of(tmp_path / "run", str(few)).batch(0)


# --- tar --------------------------------------------------------------------------------------------------------


def samples(content: bytes) -> list[Raw]:
    return list(read_shard(io.BytesIO(content), "x.tar"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_kinds_of_tar_are_read(tmp_path: Path, format: int) -> None:
    deep = "d" * 80 + "/" + "n" * 60 if format == tarfile.USTAR_FORMAT else "d" * 150 + "/" + "n" * 150
    members: dict[str, Content] = {
        f"{deep}.jpg": picture(1, kind="JPEG"), f"{deep}.json": '{"caption": "deep\\nand long"}',
        "plain.seg.png": b"not this", "plain.webp": picture(2, kind="WEBP"), "plain.caption": "plain",
        "wordless.png": picture(3), "only.txt": "no picture",
    }  # fmt: skip
    found = samples(shard(tmp_path / "a.tar", members, format).read_bytes())
    assert [(raw.name, raw.caption) for raw in found] == [(deep, "deep and long"), ("plain", "plain"), ("wordless", "")]
    assert found[0].content == members[f"{deep}.jpg"]


def test_links_devices_and_pickles_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("c.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, content in (("a.pyd", b"\x80\x04."), ("a.png", picture(1)), ("../../b.png", picture(2))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert [raw.name for raw in samples((tmp_path / "a.tar").read_bytes())] == ["a", "../../b"]


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x1f\x8b" + bytes(600), "not .tar.gz"),
        (b"<html>" + b"x" * 600, "expected a plain tar"),
        (header("a.png", 5000) + bytes(100), "cut off"),
        (header("a.png", 0)[:-10], "cut off"),
        (header("a.png", 0), "cut off"),
        (header("x", 2**40, b"L") + bytes(512), "made to harm"),
        (header("x", 2**40, b"x") + bytes(512), "made to harm"),
        (bytes([header("a.png", 0)[0] ^ 1]) + header("a.png", 0)[1:], "expected a plain tar"),
    ],
)
def test_what_is_no_tar_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(UnsafeFile, match=sentence):
        samples(content)


def test_a_giant_member_is_passed_over_unread() -> None:
    class Sparse(io.RawIOBase):
        """A tar whose first picture has 65 MB."""

        def __init__(self) -> None:
            size = 65 * 2**20
            self.parts = [
                header("big.png", size),
                *([bytes(2**20)] * 65),
                header("a.png", 3),
                b"abc" + bytes(509),
                bytes(1024),
            ]

        def read(self, count: int = -1) -> bytes:
            if not self.parts:
                return b""
            part, self.parts[0] = self.parts[0][:count], self.parts[0][count:]
            if not self.parts[0]:
                self.parts.pop(0)
            return part

    found = list(read_shard(Sparse(), "x.tar"))  # pyright: ignore[reportArgumentType]
    assert [raw.name for raw in found] == ["a"]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [("set.tar", "shards like"), ("file:///etc/x.tar", "shards like"), ("ftp://host/a.tar", "shards like"),
     ("https://user@host/a.tar", "shards like"), ("/a/b.tar.gz", "shards like"), ("/a/{0..9999999}.tar", "1 to 100000"),
     ("/a/{5..2}.tar", "1 to 100000")],
)  # fmt: skip
def test_patterns_that_mean_no_shards(pattern: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        shards_of(pattern)


def test_patterns_are_written_out() -> None:
    assert shards_of("/a/{008..011}.tar") == ("/a/008.tar", "/a/009.tar", "/a/010.tar", "/a/011.tar")
    assert shards_of("https://h/a.tar") == ("https://h/a.tar",)


# --- over the network -------------------------------------------------------------------------------------------


class Served(http.server.BaseHTTPRequestHandler):
    """Serves one shard; the first answer breaks off in the middle."""

    content = b""
    num_asked = 0

    def do_GET(self) -> None:
        Served.num_asked += 1
        broken = Served.num_asked == 1
        self.send_response(404 if "gone" in self.path else 200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2] if broken else self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    Served.content = shard(tmp_path / "a.tar", {f"{n:02}.png": picture(n) for n in range(8)}).read_bytes()
    Served.num_asked = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_broken_connection_is_made_again(address: str) -> None:
    stream = ShardStream(shards=(f"{address}/a.tar",), seed=0, num_held_out=0)
    assert [raw.name for raw in stream.epoch(0, 0)] == [f"{n:02}" for n in range(8)]
    assert Served.num_asked == 2


def test_a_missing_shard_is_said(address: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"gone\.tar cannot be read"):
        list(ShardStream(shards=(f"{address}/gone.tar",), seed=0, num_held_out=0).epoch(0, 0))
    with pytest.raises(ModelUnavailable, match="No such file"):
        data_of(tmp_path, str(tmp_path / "none.tar")).build()


# --- the hub ----------------------------------------------------------------------------------------------------


def hub_dataset(count: int = 20):
    datasets = pytest.importorskip("datasets")

    def rows() -> Iterator[dict[str, object]]:
        for number in range(count):
            yield {"image": {"bytes": picture(number), "path": None}, "text": f"row {number}"}

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.IterableDataset.from_generator(rows, features=features)


def test_a_hub_dataset_is_read_by_position(tmp_path: Path) -> None:
    config = config_for(DatasetRef(id="h", kind="hub", source="owner/name"))

    def data() -> TrainingData:
        stream = HubStream.reading(hub_dataset(), "owner/name", config.seed, 3)
        made = TrainingData.of(config_for(DatasetRef(id="s", kind="webdataset", source="/x.tar")), FakeEncoder(),
                               cache_dir=tmp_path)  # fmt: skip
        source = StreamedSource(config=config, encodings=made.encodings, reader=Reader(stream=stream),
                                state_path=tmp_path / "stream.json")  # fmt: skip
        return TrainingData(config=config, encodings=made.encodings, source=source)

    straight = data()
    texts = [straight.batch(step).full_captions for step in range(9)]
    flat = [text for batch in texts for text in batch]
    assert len(set(flat[:17])) == 17
    assert len(set(flat[17:34])) == 17
    assert flat[:17] != flat[17:34]
    assert straight.held_out(3).captions == ("row 0", "row 1", "row 2")
    assert not {"row 0", "row 1", "row 2"} & set(flat)
    assert data().batch(3).full_captions == texts[3]
    assert data().batch(8).full_captions == texts[8]


def test_a_hub_dataset_without_pictures_is_said() -> None:
    with pytest.raises(InvalidRequest, match="a picture column"):
        HubStream.reading(hub_dataset().remove_columns("image"), "owner/name", 0, 0)


def test_a_hub_out_of_reach_is_said_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    for endpoint, sentence in ((f"{address}/gone", "Not Found"), ("http://127.0.0.1:9", "Connection refused")):
        monkeypatch.setattr("trainer.hub_stream.ENDPOINT", endpoint)
        with pytest.raises(ModelUnavailable, match=rf"owner/name cannot be read \(.*{sentence}.*only public ones"):
            HubStream.of("owner/name", 0, 0)


def test_a_hub_dataset_that_breaks_in_the_middle_is_said() -> None:
    datasets = pytest.importorskip("datasets")

    def rows() -> Iterator[dict[str, object]]:
        yield {"image": {"bytes": picture(1), "path": None}}
        raise ConnectionResetError("reset by peer")

    features = datasets.Features({"image": datasets.Image()})
    stream = HubStream.reading(datasets.IterableDataset.from_generator(rows, features=features), "owner/name", 0, 5)
    with pytest.raises(ModelUnavailable, match="reset by peer"):
        stream.first(5)


@pytest.mark.parametrize("id", ["../x", "/etc", "a/b/c", "", "http://x"])
def test_an_id_of_the_hub_is_no_path(tmp_path: Path, id: str) -> None:
    with pytest.raises(StudioError, match="an id of the hub"):
        HubStream.of(id, 0, 0)
