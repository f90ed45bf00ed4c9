"""History: parameters inside the pictures, an index that heals, and nothing lost to a crash or a full disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from studio.catalog import Catalog
from studio.engine.fake import FakeEngine
from studio.errors import InvalidRequest, NotFound, StorageError, UnsafeFile
from studio.history import History
from studio.parameters import OWN_CHUNK, from_a1111, read_parameters, to_a1111
from studio.types import GenerationRequest, GenerationResult, Guidance
from tests.studio_process import ROOT


def drawn(**choices: object) -> GenerationResult:
    """A finished generation by the fake engine."""
    request = GenerationRequest(**{"prompt": "a red cube", "width": 64, "height": 64, **choices})  # type: ignore[arg-type]
    *_, result = FakeEngine(Catalog.load(ROOT / "presets"), step_seconds=0.0).generate(request)
    assert isinstance(result, GenerationResult)
    return result


def save(history: History, *, tab: str = "text-to-image", **choices: object) -> str:
    result = drawn(**choices)
    return history.add(result, result.images[0], tab=tab).id


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "data") as opened:
        yield opened


# --- inside the picture -----------------------------------------------------------------------------------------


def test_a_saved_picture_carries_what_draws_it_again(history: History) -> None:
    result = drawn(seed=7, num_images=2, guidance=Guidance(scales=(7.5, 4.0, 4.0, 4.0)), prompt="ein roter Würfel")
    second = history.add(result, result.images[1])
    assert second.path.name == "00001-8.png"
    own = replace(result.request, seed=8, num_images=1)
    assert history.read_parameters(second.path) == own == second.request
    with Image.open(second.path) as image:
        assert list(image.getdata()) == list(result.images[1].image.getdata())
        assert isinstance(image, PngImagePlugin.PngImageFile)
        text = image.text["parameters"]
    assert text.startswith(
        "ein roter Würfel\nSteps: 4, Sampler: perflow-tabletop, CFG scale: 7.5, Seed: 8, Size: 64x64"
    )
    assert second.receipt["base_sha256"] == result.receipt.base_sha256


requests = st.builds(
    GenerationRequest,
    prompt=st.text(max_size=200),
    negative_prompt=st.text(max_size=100),
    accelerator_strength=st.floats(0, 1.5),
    steps=st.integers(1, 32),
    guidance=st.builds(Guidance, scales=st.lists(st.floats(0, 30), min_size=1, max_size=8).map(tuple)),
    width=st.just(64),
    height=st.sampled_from((64, 128)),
    seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests)
def test_any_request_comes_back_whole_from_its_picture(tmp_path: Path, request: GenerationRequest) -> None:
    from studio.parameters import encode_png

    path = tmp_path / "picture.png"
    path.write_bytes(encode_png(Image.new("RGB", (8, 8)), {"request": request.to_json()}))
    assert read_parameters(path) == request


@settings(max_examples=50, deadline=None)
@given(
    prompt=st.from_regex(r"[a-zäöü ,:\"'-]{0,60}", fullmatch=True),
    scales=st.lists(st.floats(1, 30).map(lambda value: round(value, 2)), min_size=1, max_size=4).map(tuple),
)
def test_the_a1111_text_reads_back(prompt: str, scales: tuple[float, ...]) -> None:
    request = GenerationRequest(prompt=prompt.strip(), negative_prompt="dark, grey", guidance=Guidance(scales=scales))
    assert from_a1111(to_a1111(request)) == request


def test_a_strangers_a1111_text_becomes_a_request(tmp_path: Path) -> None:
    text = (
        "a house,\n(masterpiece:1.2)\nNegative prompt: blurry\n"
        'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 123, Size: 512x768, Model hash: abc, Model: "x, y", '
        'Lora hashes: "a: 1, b: 2", Version: 1.6'
    )
    path = tmp_path / "stranger.png"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    request = read_parameters(path)
    assert request.prompt == "a house,\n(masterpiece:1.2)"
    assert (request.negative_prompt, request.model, request.accelerator) == ("blurry", "x, y", "Euler a")
    assert (request.steps, request.guidance.scales, request.seed) == (20, (7.0,), 123)
    assert (request.width, request.height) == (512, 768)


def _png(path: Path, texts: dict[str, str], size: tuple[int, int] = (8, 8)) -> Path:
    chunks = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        chunks.add_itxt(name, text)
    Image.new("1", size).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"parameters": "no settings here"},
        {"parameters": "x\nSteps: many, Size: 512x512"},
        {"parameters": "x\nSteps: 4, Size: 512*512"},
        {"parameters": "x\nSteps: 99999999999999999, Size: 512x512"},
        {OWN_CHUNK: "{"},
        {OWN_CHUNK: "[]"},
        {OWN_CHUNK: '{"request": {"prompt": 3}}'},
        {OWN_CHUNK: '{"request": {"prompt": "x", "guidance": {"no": 1}}}'},
        {OWN_CHUNK: '{"request": {"prompt": "x", "__class__": "os.system"}}'},
        {OWN_CHUNK: "[" * 50_000},
        {OWN_CHUNK: '{"request": {"steps": 4}}'},
    ],
)
def test_pictures_without_sense_are_refused_in_a_sentence(tmp_path: Path, texts: dict[str, str]) -> None:
    with pytest.raises((InvalidRequest, UnsafeFile)):
        read_parameters(_png(tmp_path / "x.png", texts))


def test_files_that_are_no_pictures_or_too_large_are_refused_by_the_header(tmp_path: Path) -> None:
    other = tmp_path / "x.png"
    for content in (b"", b"PK\x03\x04", b"\x80\x04\x95", b"GIF89a" + bytes(40), b"%!PS-Adobe", b"\x89PNG\r\n\x1a\n"):
        other.write_bytes(content)
        with pytest.raises(UnsafeFile):
            read_parameters(other)
    with pytest.raises(UnsafeFile, match="67108864 pixels"):
        read_parameters(_png(tmp_path / "large.png", {}, size=(9000, 7500)))


# --- the gallery ------------------------------------------------------------------------------------------------


def test_newest_first_in_pages_and_searchable_across_a_restart(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        ids = [save(history, prompt=f"Würfel {i}", seed=i) for i in range(5)]
        ids.append(save(history, prompt="a cone", tab="control"))
    with History(tmp_path) as history:
        assert [entry.id for entry in history.search()] == ids[::-1]
        first = history.search(limit=2)
        assert [entry.id for entry in history.search(limit=2, before=first[-1].id)] == [ids[3], ids[2]]
        assert [entry.prompt for entry in history.search("3 WÜRFEL")] == ["Würfel 3"]
        assert [entry.id for entry in history.search(tab="control")] == [ids[-1]]
        assert history.search("' OR 1=1 --") == ()
        history.delete([first[-1].id])
        assert [entry.id for entry in history.search(limit=2, before=first[-1].id)] == [ids[3], ids[2]]
        with Image.open(history.get(ids[0]).thumbnail_path) as small:
            assert small.format == "JPEG"


def test_names_count_up_per_day_and_tab_and_never_overwrite(history: History) -> None:
    names = [history.get(save(history, seed=3)).path.name for _ in range(3)]
    assert names == ["00001-3.png", "00002-3.png", "00003-3.png"]


def test_delete_takes_file_thumbnail_and_row_and_nothing_else(history: History, tmp_path: Path) -> None:
    kept, gone = save(history), save(history)
    entry = history.get(gone)
    assert history.delete([gone, "unknown"]) == 1
    assert not entry.path.exists()
    assert not entry.thumbnail_path.exists()
    assert history.get(kept).path.exists()
    with pytest.raises(NotFound):
        history.get(gone)


def test_delete_never_leaves_its_own_folder(tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    with History(tmp_path / "data") as history:
        id = save(history)
    victim.write_bytes(b"precious")
    # An index someone has tampered with, and a picture replaced by a link.
    with History(tmp_path / "data") as history:
        path = history.get(id).path
        path.unlink()
        path.symlink_to(victim)
        with pytest.raises(StorageError):
            history.delete([id])
        database = sqlite3.connect(tmp_path / "data" / "history.sqlite3")
        database.execute("UPDATE pictures SET file = '../../victim.png'")
        database.commit()
        database.close()
        with pytest.raises(StorageError):
            history.delete([id])
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("tab", ["", "../up", "Tab", "a/b", "."])
def test_a_tab_is_a_plain_name(history: History, tab: str) -> None:
    with pytest.raises(InvalidRequest):
        save(history, tab=tab)


def test_what_leaves_are_copies_of_the_originals_in_the_served_folder(history: History, tmp_path: Path) -> None:
    ids = [save(history, seed=i) for i in range(3)]
    copy = history.export(ids[0])
    assert copy.is_relative_to(tmp_path / "data" / "served")
    assert copy.read_bytes() == history.get(ids[0]).path.read_bytes()
    with zipfile.ZipFile(history.zip(ids)) as archive:
        assert len(archive.namelist()) == 3
        assert archive.testzip() is None
        assert all(name.startswith("text-to-image/") for name in archive.namelist())
    with pytest.raises(InvalidRequest):
        history.zip([])
    with pytest.raises(NotFound):
        history.zip(["../../etc/passwd"])
    with pytest.raises(NotFound):
        history.export("../studio.lock")


def test_old_copies_are_swept_when_new_ones_are_made(history: History) -> None:
    id = save(history)
    old = history.export(id)
    os.utime(old.parent, (time.time() - 7200,) * 2)
    history.export(id)
    assert not old.exists()


# --- faults -----------------------------------------------------------------------------------------------------


def test_the_index_is_rebuilt_from_the_files(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        ids = {save(history, seed=i) for i in range(4)}
        before = {entry.id: entry for entry in history.search()}
    for name in ("history.sqlite3", "history.sqlite3-wal", "history.sqlite3-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    with History(tmp_path) as history:
        assert {entry.id: entry for entry in history.search()} == before
    (tmp_path / "history.sqlite3").write_bytes(b"not a database at all, " * 100)
    with History(tmp_path) as history:
        assert {entry.id for entry in history.search()} == ids
        save(history)


def test_files_removed_or_damaged_by_others_do_not_break_the_gallery(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        ids = [save(history, seed=i) for i in range(3)]
        paths = [history.get(id).path for id in ids]
    paths[0].unlink()
    (paths[1].parent / "stranger.png").write_bytes(b"not a picture")
    (paths[1].parent / "00009-1.png.part").write_bytes(b"half")
    with History(tmp_path) as history:
        assert [entry.id for entry in history.search()] == [ids[2], ids[1]]
        assert not (paths[1].parent / "00009-1.png.part").exists()
        assert (paths[1].parent / "stranger.png").exists()


WRITER = """
import sys
from pathlib import Path
from studio.history import History
from tests.test_history import drawn
result = drawn()
with History(Path(sys.argv[1])) as history:
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    while True:
        sys.stdout.write(history.add(result, result.images[0]).id + "\\n"); sys.stdout.flush()
"""


def test_a_killed_studio_leaves_whole_pictures_and_every_acknowledged_one(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    acknowledged = [writer.stdout.readline().strip() for _ in range(5)]
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    writer.wait(timeout=10)
    writer.stdout.close()
    with History(tmp_path) as history:
        entries = {entry.id: entry for entry in history.search(limit=500)}
        assert set(acknowledged) <= set(entries)
        for entry in entries.values():
            assert history.read_parameters(entry.path).prompt == "a red cube"
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert len(files) == len(entries)
    assert all(path.suffix == ".png" for path in files)


# A limit on file size is what a full disk looks like to a program: the write begins and then fails.
FULL = """
import resource, signal, sys
from pathlib import Path
from studio.errors import StorageError
from studio.history import History
from PIL import Image
from studio.types import GeneratedImage
from tests.test_history import drawn
small = drawn()
noise = GeneratedImage(image=Image.effect_noise((512, 512), 90), seed=1)  # does not compress
with History(Path(sys.argv[1])) as history:
    history.add(small, small.images[0])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        history.add(small, noise)
    except StorageError as error:
        sys.stdout.write(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    history.add(small, noise)
"""


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "cannot be written" in ended.stdout
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "outputs").rglob("*.*"))
    assert names == ["00001", "00002"]


def test_an_index_that_cannot_be_written_takes_the_picture_back(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = drawn()

    def full(_: object) -> None:
        raise StorageError("The history's index cannot be written: disk full.")

    monkeypatch.setattr(history._index, "add", full)
    with pytest.raises(StorageError):
        history.add(result, result.images[0])
    monkeypatch.undo()
    assert history.search() == ()
    assert not list(history._outputs_dir.rglob("*.png"))


def test_a_second_studio_on_the_same_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with History(tmp_path):
        code = "import sys; from pathlib import Path; from studio.history import History; History(Path(sys.argv[1]))"
        ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
        assert "Another studio is using the data folder" in ended.stderr
        with pytest.raises(StorageError, match="Another studio"):
            History(tmp_path)
    with History(tmp_path) as history:
        assert history.search() == ()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        History(tmp_path / "file" / "data")
