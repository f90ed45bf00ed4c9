"""Datasets as people send them: what is kept, what it is called, what was done to it, and that it stays."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from studio.datasets.importer import ASIDE, DOOMED
from studio.datasets.manifest import DatasetSummary, Manifest
from studio.datasets.store import DatasetStore
from studio.errors import InvalidRequest, NotFound, StorageError
from tests.datasets.making import Content, everything_in, folder_of, picture, pixels, turned_picture, zip_of


def test_a_zip_with_sidecars_becomes_a_dataset(store: DatasetStore, tmp_path: Path) -> None:
    members: dict[str, Content] = {f"cats/{n}.png": picture(n) for n in range(3)}
    members |= {f"cats/{n}.txt": f" cat\n number {n}" for n in range(2)}
    made = store.import_zip(zip_of(tmp_path / "a.zip", members), "Cats & Dogs")
    assert made.id == "cats-dogs"
    assert [entry.name for entry in made.manifest.entries] == ["cats/0.png", "cats/1.png", "cats/2.png"]
    assert [entry.caption for entry in made.manifest.kept] == ["cat number 0", "cat number 1", ""]
    for number, (path, entry) in enumerate(zip(made.image_paths, made.manifest.kept, strict=True)):
        assert path.read_bytes() == members[f"cats/{number}.png"]
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (entry.width, entry.height, entry.num_bytes) == (64, 64, path.stat().st_size)
    assert all(Image.open(path).format == "JPEG" for path in made.thumbnail_paths)
    assert store.get("cats-dogs") == made
    assert not list(store.path.glob(".*"))


def test_folders_and_uploads_give_the_same_dataset_as_the_zip(store: DatasetStore, tmp_path: Path) -> None:
    files = {"b.jpg": picture(1, kind="JPEG"), "a.webp": picture(2, kind="WEBP"), "a.txt": "first"}
    from_zip = store.import_zip(zip_of(tmp_path / "a.zip", files), "One")
    from_folder = store.import_folder(folder_of(tmp_path / "folder", files), "Two")
    uploads = [(name, tmp_path / "folder" / name) for name in files]
    from_uploads = store.import_uploads(uploads, "Three")
    assert from_zip.manifest.entries == from_folder.manifest.entries == from_uploads.manifest.entries
    assert from_zip.fingerprint == from_folder.fingerprint == from_uploads.fingerprint
    assert store.import_uploads([("x.zip", tmp_path / "a.zip")], "Four").fingerprint == from_zip.fingerprint


@pytest.mark.parametrize("column", ["text", "caption"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_in_the_imagefolder_form(store: DatasetStore, tmp_path: Path, kind: str, column: str) -> None:
    if kind == "jsonl":
        lines = [json.dumps({"file_name": f"{n}.png", column: f'nº {n}, a "cat"'}) for n in range(2)]
        text = "\n".join(lines)
    else:
        text = f"file_name,{column}\n" + "\n".join(f'{n}.png,"nº {n}, a ""cat"""' for n in range(2))
    files = {f"train/{n}.png": picture(n) for n in range(2)} | {f"train/metadata.{kind}": text}
    made = store.import_zip(zip_of(tmp_path / "a.zip", files), "M")
    assert [entry.caption for entry in made.manifest.kept] == ['nº 0, a "cat"', 'nº 1, a "cat"']
    assert len(made.manifest.entries) == 2
    assert made.manifest.warnings == ()


def test_the_nearest_caption_wins(store: DatasetStore, tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "c.png": picture(3), "a.txt": "from the sidecar",
             "metadata.csv": "file_name,text\na.png,from the table\nb.png,from the table\n"}  # fmt: skip
    made = store.import_zip(zip_of(tmp_path / "a.zip", files), "N", caption="for all")
    assert [entry.caption for entry in made.manifest.kept] == ["from the sidecar", "from the table", "for all"]


def test_bad_captions_are_named_and_the_pictures_stay(store: DatasetStore, tmp_path: Path) -> None:
    files = {
        "a.png": picture(1),
        "a.txt": b"\xff\xfa\xc3 nonsense",
        "b.png": picture(2),
        "b.txt": "x" * 3000,
        "c.png": picture(3),
        "c.txt": "\ufeffwith a mark".encode(),
        "d.png": picture(4),
        "d.txt": "sixteen".encode("utf-16"),
        "metadata.jsonl": '{"file_name": "nowhere.png", "text": "lost"}\n{broken\n{"file_name": 3, "text": "x"}\n',
    }
    made = store.import_zip(zip_of(tmp_path / "a.zip", files), "Bad words")
    assert [entry.caption for entry in made.manifest.kept] == ["", "x" * 2000, "with a mark", "sixteen"]
    told = "\n".join(made.manifest.warnings)
    for part in ("a.txt: expected text in UTF-8", "b.txt: its caption has 3000 characters",
                 "names 1 pictures that are not", "line 2: expected a JSON object",
                 "line 3: expected a file_name"):  # fmt: skip
        assert part in told


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_camera_position_is_turned_upright(store: DatasetStore, tmp_path: Path, orientation: int) -> None:
    content = turned_picture(orientation)
    made = store.import_zip(zip_of(tmp_path / "a.zip", {"a.jpg": content}), "Turned")
    (entry,), (path,) = made.manifest.kept, made.image_paths
    right = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(right))
    assert (entry.width, entry.height) == right.size
    assert entry.rotated == (orientation != 1)
    assert Image.open(path).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [("L", "PNG", "grey made RGB"), ("1", "PNG", "black and white made RGB"), ("P", "PNG", "palette made RGB"),
     ("RGBA", "PNG", "transparency laid on white"), ("LA", "PNG", "transparency laid on white"),
     ("CMYK", "JPEG", "CMYK made RGB"), ("I;16", "PNG", "16 bits made 8"),
     ("RGBA", "WEBP", "transparency laid on white")],
)  # fmt: skip
def test_odd_kinds_are_made_plain_and_say_so(
    store: DatasetStore, tmp_path: Path, mode: str, kind: str, words: str
) -> None:
    if mode == "I;16":
        file = io.BytesIO()
        Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)).save(file, format="PNG")
        content = file.getvalue()
    else:
        image = Image.fromarray(pixels(5)).convert(mode)
        if "A" in mode:
            image.putalpha(Image.fromarray(pixels(6)).convert("L"))
        file = io.BytesIO()
        image.save(file, format=kind)
        content = file.getvalue()
    made = store.import_zip(zip_of(tmp_path / "a.zip", {"a.x": content}), "Odd")
    assert made.manifest.kept[0].changes == (words,)
    stored = Image.open(made.image_paths[0])
    assert (stored.mode, stored.format) == ("RGB", "PNG")
    if mode == "I;16":
        assert np.asarray(stored)[:, :, 0].max() == 255
    elif "A" not in mode:
        lossy = 16 if kind == "JPEG" else 0
        assert np.abs(np.asarray(stored).astype(int) - np.asarray(image.convert("RGB"))).max() <= lossy


def test_one_bad_picture_of_many_is_named_and_skipped(store: DatasetStore, tmp_path: Path) -> None:
    files = {f"{n:04}.png": picture(n, 33, 33) for n in range(300)}
    files["0123.png"] = files["0123.png"][:200]
    made = store.import_zip(zip_of(tmp_path / "a.zip", files), "Many")
    dropped = [entry for entry in made.manifest.entries if not entry.kept]
    assert [(entry.name, entry.kind) for entry in dropped] == [("0123.png", "damaged")]
    assert "cut off" in dropped[0].reason
    assert len(made.image_paths) == 299


def test_duplicates_are_found_by_their_pixels(store: DatasetStore, tmp_path: Path) -> None:
    files: dict[str, Content] = {"a.png": picture(1), "b.png": picture(1, compress_level=1), "c.png": picture(2)}
    files["d.png"] = picture(1, 64, 65)
    assert files["a.png"] != files["b.png"]
    made = store.import_zip(zip_of(tmp_path / "a.zip", files), "Twice")
    assert [(e.name, e.kind, e.reason) for e in made.manifest.entries if not e.kept] == [
        ("b.png", "duplicate", "the same picture as a.png")
    ]


def test_kept_by_name_with_a_number_when_it_is_taken(store: DatasetStore, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"ä ü/猫.png": picture(1), "ä ü/猫.txt": "猫"})
    ids = [store.import_zip(path, "猫").id, store.import_zip(path, "Old").id, store.import_zip(path, "old!").id]
    assert ids == ["dataset", "old-2", "old-3"]
    assert store.get("dataset").manifest.title == "猫"
    assert store.get("dataset").manifest.kept[0].caption == "猫"
    assert {dataset.id for dataset in store.all()} == {"old", "dataset", "old-2", "old-3"}
    assert {dataset.id for dataset in DatasetStore(store.path).all()} == {"old", "dataset", "old-2", "old-3"}


def test_deleted_is_gone_and_its_name_free(store: DatasetStore, tmp_path: Path) -> None:
    store.get("old").cache_dir.mkdir()
    store.delete("old")
    assert everything_in(store.path) == {}
    with pytest.raises(NotFound, match="deleted, or never existed"):
        store.get("old")
    with pytest.raises(NotFound):
        store.delete("old")


@pytest.mark.parametrize("id", ["../old", "/etc", ".importing-x", "", "OLD", "a" * 80, None, 3])
def test_an_id_is_never_a_path(store: DatasetStore, id: object) -> None:
    with pytest.raises(NotFound):
        store.get(id)  # pyright: ignore[reportArgumentType]


def test_the_fingerprint_is_of_what_training_sees(store: DatasetStore, tmp_path: Path) -> None:
    def fingerprint(files: dict[str, bytes | str]) -> str:
        return store.import_zip(zip_of(tmp_path / "a.zip", files), "F").fingerprint

    plain = fingerprint({"a.png": picture(1), "a.txt": "one", "b.png": picture(2)})
    packed_otherwise = picture(1, compress_level=1)
    assert plain == fingerprint({"x.png": packed_otherwise, "x.txt": "one", "y.png": picture(2), "z": "junk"})
    assert plain != fingerprint({"a.png": picture(1), "a.txt": "other", "b.png": picture(2)})
    assert plain != fingerprint({"a.png": picture(1), "a.txt": "one", "b.png": picture(3)})


def test_the_summary_counts_and_travels_as_json(store: DatasetStore, tmp_path: Path) -> None:
    files: dict[str, Content] = {f"wide{n}.png": picture(n, 200, 100) for n in range(6)}
    files |= {f"sq{n}.png": picture(50 + n, 128, 128) for n in range(5)}
    files |= {"t.jpg": turned_picture(6), "bad.png": b"no", "bad2.gif": b"GIF89a", "sq0.txt": "a square"}
    made = store.import_zip(zip_of(tmp_path / "a.zip", files), "Sum")
    summary = made.summary(resolution=128, batch_size=4)
    assert (summary.num_files, summary.num_kept, summary.num_dropped, summary.num_rotated) == (14, 12, 2, 1)
    assert summary.num_without_caption == 11
    assert summary.captions == ("a square",)
    assert sum(bucket.count for bucket in summary.buckets) == 12
    assert {(side.low, side.count) for side in summary.sides if side.count} == {(0, 7), (128, 5)}
    assert [(reason.kind, reason.count) for reason in summary.reasons] == [("format", 2)]
    assert "bad.png: no picture" in summary.reasons[0].examples[0]
    assert DatasetSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    assert Manifest.from_json(json.loads(json.dumps(made.manifest.to_json()))) == made.manifest


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 2), ("fingerprint", "0" * 64), ("entries", "x"), ("title", 3), ("extra", 1), ("warnings", 5)],
)
def test_a_changed_manifest_is_refused(store: DatasetStore, key: str, value: object) -> None:
    path = store.path / "old" / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {key: value}))
    with pytest.raises(StorageError, match="manifest of dataset 'old' is damaged"):
        store.get("old")
    assert store.all() == ()


def test_a_manifest_cannot_name_files_elsewhere(store: DatasetStore) -> None:
    values = store.get("old").manifest.to_json()
    values["entries"][0]["file"] = "../../secret.png"
    with pytest.raises(InvalidRequest, match="kept files in images/"):
        Manifest.from_json(values)


def test_cancelling_leaves_nothing(store: DatasetStore, tmp_path: Path) -> None:
    before = everything_in(store.path)

    def cancel(fraction: float, words: str) -> None:
        if fraction >= 0.5:
            assert list(store.path.glob(f"{ASIDE}*/images/*"))
            raise KeyboardInterrupt

    path = zip_of(tmp_path / "a.zip", {f"{n}.png": picture(n) for n in range(4)})
    with pytest.raises(KeyboardInterrupt):
        store.import_zip(path, "Cancelled", report=cancel)
    assert everything_in(store.path) == before


def test_what_a_crash_left_is_swept_and_what_is_being_made_is_not(store: DatasetStore, tmp_path: Path) -> None:
    folder_of(store.path / f"{ASIDE}crashed" / "images", {"0.png": b"x"})
    folder_of(store.path / f"{DOOMED}old-1", {"manifest.json": b"{}"})

    def start_another(fraction: float, words: str) -> None:
        DatasetStore(store.path)

    made = store.import_zip(zip_of(tmp_path / "a.zip", {"a.png": picture(1)}), "Made", report=start_another)
    assert made.image_paths[0].exists()
    assert not list(store.path.glob(".*"))


def test_a_full_disk_is_said_and_leaves_nothing(
    store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_of(tmp_path / "a.zip", {f"{n}.png": picture(n) for n in range(4)})
    before = everything_in(store.path)
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name == "00002.png":
            raise OSError(28, os.strerror(28))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left"):
        store.import_zip(path, "Full")
    assert everything_in(store.path) == before


def test_no_space_is_said_before_anything_is_written(
    store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.png": picture(1)})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match="free some space"):
        store.import_zip(path, "No space")


def test_a_killed_import_leaves_nothing_that_a_start_does_not_sweep(store: DatasetStore, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {f"{n}.png": picture(n) for n in range(6)})
    code = (
        "import sys; from pathlib import Path; from studio.datasets.store import DatasetStore\n"
        "def report(fraction, words):\n"
        "    if fraction > 0.5: print(words, flush=True); sys.stdin.read()\n"
        "DatasetStore(Path(sys.argv[1])).import_zip(Path(sys.argv[2]), 'Killed', report=report)\n"
    )
    before = everything_in(store.path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.path), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"picture 5 of 6\n"
        assert len(list(store.path.glob(f"{ASIDE}*/images/*.png"))) == 4
        process.kill()
    assert [dataset.id for dataset in store.all()] == ["old"]
    assert everything_in(DatasetStore(store.path).path) == before
