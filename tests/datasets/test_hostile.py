"""Datasets that are broken or made to harm: each gives the sentence that helps, and leaves nothing behind.

Two tables. What is refused whole raises, and the datasets folder is byte for byte what it was. What is wrong with one
file alone is named in the manifest, and the good picture beside it is kept.
"""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from studio.datasets.sources import Limits
from studio.datasets.store import DatasetStore, StoredDataset
from studio.errors import InvalidRequest, NotFound, StudioError, UnsafeFile
from tests.datasets.making import Content, everything_in, folder_of, picture, pixels, zip_of

SMALL = Limits(max_files=200, max_file_bytes=2**20, max_total_bytes=3 * 2**20)
NOISE = np.random.default_rng(0).bytes(2**20)
GOOD = {"good.png": picture(1), "good.txt": "good"}


def zipped(path: Path, members: dict[str, Content]) -> bytes:
    return zip_of(path / "x.zip", members).read_bytes()


# --- refused whole ----------------------------------------------------------------------------------------------


def named(name: str) -> Callable[[Path], bytes]:
    return lambda path: zipped(path, {**GOOD, name: picture(2)})


def encrypted(path: Path) -> bytes:
    """A zip whose members say that they are encrypted."""
    content = bytearray(zipped(path, dict(GOOD)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(mark, place + 4)
    return bytes(content)


def lying_directory(path: Path) -> bytes:
    """A zip that announces a directory of 4 GB."""
    content = bytearray(zipped(path, dict(GOOD)))
    struct.pack_into("<I", content, content.rfind(b"PK\x05\x06") + 12, 0xFFFFFF00)
    return bytes(content)


def garbled_directory(path: Path) -> bytes:
    return zipped(path, dict(GOOD)).replace(b"PK\x01\x02", b"PK\x01\x03")


def archive_inside(path: Path) -> bytes:
    return zipped(path, {"in.zip": zipped(path, dict(GOOD))})


def overlapping(path: Path) -> bytes:
    """Many directory entries for one and the same data: the better zip bomb."""
    with zipfile.ZipFile(path / "o.zip", "w") as archive:
        archive.writestr("0.png", picture(1))
        for number in range(1, 20):
            copy = zipfile.ZipInfo(f"{number}.png")
            for key in ("compress_size", "file_size", "CRC", "header_offset"):
                setattr(copy, key, getattr(archive.filelist[0], key))
            archive.filelist.append(copy)
        archive._didModify = True
    return (path / "o.zip").read_bytes()


def declared_bomb(path: Path) -> bytes:
    return zipped(path, {**GOOD, "bomb.png": bytes(32 * 2**20)})


def lying_bomb(path: Path) -> bytes:
    """24 MB of zeros whose directory says 100 bytes."""
    content = bytearray(zipped(path, {"bomb.png": bytes(24 * 2**20)}))
    place = content.find(b"PK\x01\x02")
    struct.pack_into("<I", content, place + 24, 100)
    return bytes(content)


def too_much_in_all(path: Path) -> bytes:
    noise = np.random.default_rng(0).bytes(900_000)
    return zipped(path, {f"{n}.png": noise + bytes([n]) for n in range(4)})


def with_metadata(name: str, content: Content) -> Callable[[Path], bytes]:
    return lambda path: zipped(path, {"good.png": picture(1), name: content})


def tar(path: Path) -> bytes:
    with tarfile.open(path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(picture(1))
        archive.addfile(info, io.BytesIO(picture(1)))
    return (path / "x.tar").read_bytes()


REFUSED: list[tuple[str, Callable[[Path], bytes], type[StudioError], str]] = [
    ("zip slip", named("../../evil.png"), UnsafeFile, "would be written outside"),
    ("zip slip in the middle", named("a/../../evil.png"), UnsafeFile, "would be written outside"),
    ("absolute name", named("/etc/evil.png"), UnsafeFile, "would be written outside"),
    ("windows drive", named("C:\\evil.png"), UnsafeFile, "would be written outside"),
    ("windows slip", named("..\\..\\evil.png"), UnsafeFile, "would be written outside"),
    ("encrypted", encrypted, UnsafeFile, "expected a zip without a password"),
    ("bomb by its own word", declared_bomb, UnsafeFile, "a zip bomb"),
    ("bomb that lies, alone", lying_bomb, UnsafeFile, "None of the 1 files"),
    ("bomb of overlaps", overlapping, UnsafeFile, "overlap"),
    ("too much in all", too_much_in_all, UnsafeFile, "Import them in parts"),
    ("too many files", lambda path: zipped(path, {f"{n}": "" for n in range(201)}), UnsafeFile, "at most 200 files"),
    ("directory of 4 GB", lying_directory, UnsafeFile, "expected a whole zip"),
    ("empty file", lambda _: b"", UnsafeFile, "expected a whole zip"),
    ("no zip", lambda _: b"<html>Not found</html>", UnsafeFile, "no zip, or one that was cut off"),
    ("cut off", lambda path: zipped(path, dict(GOOD))[:-30], UnsafeFile, "cut off"),
    ("tar called zip", tar, UnsafeFile, "expected a whole zip"),
    ("directory garbled", garbled_directory, UnsafeFile, "broken"),
    ("empty zip", lambda path: zipped(path, {}), UnsafeFile, "got no files at all"),
    ("only captions", lambda path: zipped(path, {"a.txt": "a cat"}), UnsafeFile, "a picture that is not there"),
    ("only an inner zip", archive_inside, UnsafeFile, "unpack it first"),
    ("only broken pictures", lambda path: zipped(path, {"a.png": picture(1)[:99]}), UnsafeFile, "damaged or cut off"),
    ("csv without columns", with_metadata("metadata.csv", "id,words\n1,x\n"), InvalidRequest, "the columns file_name"),
    ("csv empty", with_metadata("metadata.csv", ""), InvalidRequest, "the columns file_name"),
    ("jsonl that is json", with_metadata("metadata.jsonl", "[1,\n2]"), InvalidRequest, '"file_name"'),
    ("jsonl of deep lists", with_metadata("metadata.jsonl", "[" * 100_000), InvalidRequest, '"file_name"'),
    ("metadata in latin-1", with_metadata("metadata.csv", b"file_name,text\na,\xe9\n"), UnsafeFile, "Save it as UTF-8"),
    ("metadata that slips", with_metadata("metadata.csv", "file_name,text\n../../x.png,x\n"), UnsafeFile, "outside"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "error", "sentence"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused_whole(
    store: DatasetStore, tmp_path: Path, make: Callable[[Path], bytes], error: type[StudioError], sentence: str
) -> None:
    small = DatasetStore(store.path, limits=SMALL)
    path = tmp_path / "upload.zip"
    path.write_bytes(make(tmp_path))
    before, around = everything_in(store.path), set(tmp_path.iterdir())
    with pytest.raises(error) as caught:
        small.import_zip(path, "Hostile")
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 600
    assert everything_in(store.path) == before
    assert set(tmp_path.iterdir()) == around


@pytest.mark.parametrize(
    ("order", "sentence"),
    [({"title": ""}, "title: expected 1 to 80"), ({"title": "x" * 81}, "title: expected 1 to 80"),
     ({"title": "a\nb"}, "printable"),
     ({"title": "ok", "caption": "x" * 2001}, "caption: expected text of at most 2000")],
)  # fmt: skip
def test_an_order_that_makes_no_sense(
    store: DatasetStore, tmp_path: Path, order: dict[str, str], sentence: str
) -> None:
    before = everything_in(store.path)
    with pytest.raises(InvalidRequest, match=sentence):
        store.import_zip(zip_of(tmp_path / "a.zip", dict(GOOD)), **order)
    assert everything_in(store.path) == before


def test_sources_that_are_not_there(store: DatasetStore, tmp_path: Path) -> None:
    before = everything_in(store.path)
    with pytest.raises(NotFound, match="upload it again"):
        store.import_zip(tmp_path / "gone.zip", "Gone")
    with pytest.raises(NotFound, match="is no folder"):
        store.import_folder(tmp_path / "gone", "Gone")
    with pytest.raises(InvalidRequest, match="at least one file"):
        store.import_uploads([], "Gone")
    with pytest.raises(UnsafeFile, match="cannot be read"):
        store.import_uploads([("a.png", tmp_path / "a.png"), ("b.png", tmp_path / "b.png")], "Gone")
    assert everything_in(store.path) == before


# --- one file refused alone -------------------------------------------------------------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises this size and whose pixels are few."""
    content = bytearray(picture(1))
    struct.pack_into(">II", content, 16, width, height)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    return bytes(content)


def animation(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    frames[0].save(file, format=kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def other_format(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(3)).save(file, format=kind)
    return file.getvalue()


def text_bomb() -> bytes:
    """A PNG with a comment that unpacks to 70 MB."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("Comment", "x" * 70_000_000, zip=True)
    return picture(2, pnginfo=chunk)


def flipped(content: bytes, place: float) -> bytes:
    broken = bytearray(content)
    for offset in range(24):
        broken[int(len(broken) * place) + offset] ^= 0xFF
    return bytes(broken)


ALONE: list[tuple[str, str, Callable[[], Content], str, str]] = [
    ("giant by its header", "a.png", lambda: png_of_size(9000, 9000), "too_large", "36 megapixels"),
    ("giant beyond Pillow's own limit", "a.png", lambda: png_of_size(60_000, 60_000), "too_large", "36 megapixels"),
    ("no pixels", "a.png", lambda: png_of_size(0, 64), "damaged", "damaged"),
    ("tiny", "a.png", lambda: picture(2, 16, 64), "too_small", "shorter side is under 32"),
    ("thin", "a.png", lambda: picture(2, 640, 40), "too_thin", "crop it"),
    ("file too large", "a.png", lambda: picture(2) + NOISE, "too_large", "larger than 1 MiB"),
    ("cut off png", "a.png", lambda: picture(2)[:2000], "damaged", "cut off"),
    ("cut off jpeg", "a.jpg", lambda: picture(2, kind="JPEG")[:900], "damaged", "cut off"),
    ("cut off webp", "a.webp", lambda: picture(2, kind="WEBP")[:300], "damaged", "damaged"),
    ("flipped bits", "a.png", lambda: flipped(picture(2), 0.5), "damaged", "cannot be read"),
    ("header only", "a.png", lambda: picture(2)[:33], "damaged", "damaged"),
    ("text bomb", "a.png", text_bomb, "damaged", "damaged"),
    ("empty", "a.png", lambda: b"", "empty", "an empty file"),
    ("text called png", "a.png", lambda: "I am no picture", "format", "expected PNG, JPEG or WebP"),
    ("html called jpg", "a.jpg", lambda: "<html>404</html>", "format", "expected PNG, JPEG or WebP"),
    ("pickle called png", "a.png", lambda: b"\x80\x04\x95\x1e\x00cposix\nsystem\n.", "pickle", "can run code"),
    ("animated gif", "a.gif", lambda: animation("GIF"), "format", "a GIF"),
    ("gif called png", "a.png", lambda: animation("GIF"), "format", "a GIF"),
    ("animated webp", "a.webp", lambda: animation("WEBP"), "animated", "3 frames"),
    ("animated png", "a.png", lambda: animation("PNG"), "animated", "3 frames"),
    ("tiff", "a.tif", lambda: other_format("TIFF"), "format", "a TIFF"),
    ("bmp", "a.bmp", lambda: other_format("BMP"), "format", "a BMP"),
    ("pdf", "a.pdf", lambda: other_format("PDF"), "format", "a PDF"),
    ("eps called png", "a.png", lambda: other_format("EPS"), "format", "expected PNG, JPEG or WebP"),
    ("avif", "a.avif", lambda: b"\x00\x00\x00\x1cftypavif" + bytes(40), "format", "HEIC, AVIF"),
    ("svg", "a.svg", lambda: "<svg xmlns='http://www.w3.org/2000/svg'/>", "format", "an SVG"),
    ("inner gzip", "a.tar.gz", lambda: b"\x1f\x8b\x08" + bytes(40), "nested", "unpack it first"),
    ("caption without picture", "lonely.txt", lambda: "a cat", "caption_alone", "not there"),
    ("mac's shadow", "__MACOSX/._good.png", lambda: b"\x00\x05\x16\x07", "system", "a system's own file"),
    ("thumbs.db", "Thumbs.db", lambda: b"\xd0\xcf\x11\xe0", "system", "a system's own file"),
    ("control characters in the name", "a\x1b[2J.png", lambda: picture(2), "odd_name", "rename it"),
    ("very long name", "x" * 600 + ".png", lambda: picture(2), "odd_name", "longer than"),
]  # fmt: skip


def the_one_dropped(made: StoredDataset, kind: str, sentence: str) -> None:
    dropped = [entry for entry in made.manifest.entries if not entry.kept]
    assert [entry.kind for entry in dropped] == [kind]
    assert sentence in dropped[0].reason
    assert dropped[0].name.isprintable()
    assert [(entry.name, entry.caption) for entry in made.manifest.kept] == [("good.png", "good")]
    assert sorted(path.name for path in (made.path / "images").iterdir()) == ["00000.png"]
    assert made.summary().reasons[0].kind == kind


@pytest.mark.parametrize(
    ("name", "make", "kind", "sentence"), [case[1:] for case in ALONE], ids=[case[0] for case in ALONE]
)
def test_one_file_refused_alone(
    store: DatasetStore, tmp_path: Path, name: str, make: Callable[[], Content], kind: str, sentence: str
) -> None:
    small = DatasetStore(store.path, limits=SMALL)
    made = small.import_zip(zip_of(tmp_path / "a.zip", {**GOOD, name: make()}), "Mostly good")
    the_one_dropped(made, kind, sentence)


def test_an_archive_inside_is_not_opened(store: DatasetStore, tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "in.zip", {"evil.png": picture(7)}).read_bytes()
    the_one_dropped(store.import_zip(zip_of(tmp_path / "a.zip", {**GOOD, "in.zip": inner}), "N"), "nested", "unpack it")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip(store: DatasetStore, tmp_path: Path, kind: int) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (kind | 0o777) << 16
    path = zip_of(tmp_path / "a.zip", [*GOOD.items(), (link, "/etc/passwd")])
    the_one_dropped(store.import_zip(path, "Links"), "link", "a link or a device")


def test_links_pipes_and_sockets_in_a_folder(store: DatasetStore, tmp_path: Path) -> None:
    outside = folder_of(tmp_path / "outside", {"secret.png": picture(8)})
    folder = folder_of(tmp_path / "folder", dict(GOOD))
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "below").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket.png"))
        made = store.import_folder(folder, "Links")
    assert {(e.name, e.kind) for e in made.manifest.entries if not e.kept} == {
        (name, "link") for name in ("link.png", "below", "loop", "pipe.png", "socket.png")
    }
    assert len(made.image_paths) == 1


def test_names_that_are_no_text_in_a_folder(store: DatasetStore, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", dict(GOOD))
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).write_bytes(picture(2))
    the_one_dropped(store.import_folder(folder, "Bytes"), "odd_name", "rename it")


def test_two_members_of_one_name(store: DatasetStore, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zip_of(tmp_path / "a.zip", [*GOOD.items(), ("good.png", picture(2))])
    made = store.import_zip(path, "Twins")
    the_one_dropped(made, "same_name", "a second file of the same name")


def test_a_flipped_bit_in_the_archive_is_found_by_its_checksum(store: DatasetStore, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"broken.png": picture(2), **GOOD}, compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.find(b"IDAT") + 40] ^= 1
    path.write_bytes(content)
    the_one_dropped(store.import_zip(path, "Flipped"), "damaged", "damaged in the archive")


def test_an_unusual_packing_is_refused(store: DatasetStore, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
        archive.writestr("odd.png", picture(2), compress_type=zipfile.ZIP_LZMA)
    the_one_dropped(store.import_zip(tmp_path / "a.zip", "Odd"), "packed_oddly", "pack it with plain zip")


def test_a_bomb_that_lies_is_stopped_while_it_streams(store: DatasetStore, tmp_path: Path) -> None:
    """A folder of zeros is no bomb; a member that unpacks to more than a hundred times its bytes is."""
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped(tmp_path, {"bomb.png": bytes(24 * 2**20)}))
    before = everything_in(store.path)
    patient = DatasetStore(store.path, limits=replace(Limits(), max_ratio=100))
    with pytest.raises(UnsafeFile, match="times its size"):
        patient.import_zip(path, "Bomb")
    assert everything_in(store.path) == before
