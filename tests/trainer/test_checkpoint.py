"""A checkpoint is whole or absent, whatever fails while it is written; a run goes on from the newest whole one."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.trainer.faults import FULL_DISK, IO_ERROR, KILL, Call, calls_on, needs_strace, run_with
from tests.trainer.saving import KEEP, content, save
from trainer import checkpoint_folder
from trainer.checkpoint import load_latest, save_checkpoint
from trainer.checkpoint_folder import COMPLETE, newest, record_of

FILE = "state.safetensors"


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "kept", step, {"w": torch.full((64,), float(step))}, {"loss": 0.5}, keep=3)
    return tmp_path / "kept"


def latest(folder: Path) -> tuple[int, list[str]]:
    """The step a run would go on from, and what it is told of newer ones."""
    said: list[str] = []
    found = load_latest(folder, said.append)
    assert found is not None
    step, tensors, counters = found
    assert tensors["w"].tolist() == [step] * 64
    assert counters == {"loss": 0.5}
    return step, said


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": (FILE, lambda path: path.write_bytes(path.read_bytes()[:-8]), "bytes instead of"),
    "empty": (FILE, lambda path: path.write_bytes(b""), "0 bytes instead of"),
    "bit flipped": (FILE, flip, "sha256 differs"),
    "missing tensors": (FILE, Path.unlink, "state.safetensors is missing"),
    "missing record": ("state.json", Path.unlink, "state.json is missing"),
    "record flipped": ("state.json", flip, "state.json is not what was written"),
    "record empty": ("state.json", lambda path: path.write_bytes(b""), "state.json is not what was written"),
    "record a list": ("state.json", lambda path: path.write_text("[]"), "state.json is not what was written"),
    "never finished": (COMPLETE, Path.unlink, "was not finished"),
    "torn end": (COMPLETE, lambda path: path.write_bytes(b""), "state.json is not what was written"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_is_passed_over_and_named(three: Path, kind: str) -> None:
    name, harm, words = DAMAGES[kind]
    harm(three / "step-00000003" / name)
    step, said = latest(three)
    assert step == 2
    assert len(said) == 1
    assert "step-00000003" in said[0]
    assert words in said[0]


def test_two_damaged_ones_leave_the_third(three: Path) -> None:
    for step in (2, 3):
        flip(three / f"step-0000000{step}" / FILE)
    step, said = latest(three)
    assert (step, len(said)) == (1, 2)


def test_a_damaged_one_is_replaced_when_its_step_comes_again(three: Path) -> None:
    flip(three / "step-00000003" / FILE)
    save_checkpoint(three, 3, {"w": torch.full((64,), 3.0)}, {"loss": 0.5})
    assert latest(three) == (3, [])


def test_a_whole_one_of_the_same_step_stays(three: Path) -> None:
    before = (three / "step-00000003" / FILE).stat().st_ino
    save_checkpoint(three, 3, {"w": torch.zeros(64)}, {})
    assert (three / "step-00000003" / FILE).stat().st_ino == before


def test_one_from_before_the_marker_is_still_read(three: Path) -> None:
    """Runs that began under the older format go on."""
    import hashlib
    import json

    old = three / "step-00000003"
    digest = hashlib.sha256((old / FILE).read_bytes()).hexdigest()
    (old / COMPLETE).unlink()
    (old / "state.json").write_text(json.dumps({"step": 3, "sha256": digest, "counters": {"loss": 0.5}}))
    assert latest(three) == (3, [])
    flip(old / FILE)
    assert latest(three)[0] == 2


def test_a_full_disk_raises_what_the_system_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {"w": torch.ones(64)}, {"loss": 0.5})

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_folder, "_write_synced", refuse)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, {"w": torch.ones(64)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


# --- the kill campaign: every mutating system call of a save ----------------------------------------------------


def _prepared(folder: Path) -> Path:
    """Two checkpoints, the older of which the next save prunes."""
    for step in (1, 2):
        save(folder, step)
    return folder


def _campaign(tmp_path: Path, faults: tuple[str, ...], each: int = 1) -> dict[str, int]:
    """Fail every `each`-th call of saving step 3; returns how many calls there were and how the runs ended."""
    folder = tmp_path / "kept"
    arguments = ("-m", "tests.trainer.saving", str(folder), "3")
    calls = calls_on(_prepared(folder), *arguments)
    counts = {"calls": len(calls), "runs": 0, "killed": 0, "refused": 0, "saved": 0}
    for fault in faults:
        for call in calls[::each]:
            shutil.rmtree(folder)
            outcome = _one(_prepared(folder), call, fault, arguments)
            counts["runs"] += 1
            counts[outcome] += 1
    return counts


def _one(folder: Path, call: Call, fault: str, arguments: tuple[str, ...]) -> str:
    done = run_with(call, fault, *arguments)
    outcome = {-9: "killed", 137: "killed", 3: "refused", 0: "saved"}[done.returncode]
    assert (outcome == "killed") == (fault == KILL), f"{call.line}: ended {done.returncode}, {done.stderr}"
    acknowledged = 3 if "saved 3" in done.stdout else 2
    said: list[str] = []
    found = newest(folder, said.append)
    assert found is not None, call.line
    step = record_of(found)["step"]
    assert step in (acknowledged, 3), f"{call.line}: {step} after {acknowledged} was acknowledged"
    for name, value in content(step).items():
        np.testing.assert_array_equal(load_file(found / FILE)[name], value)
    save(folder, 4)
    names = {path.name for path in folder.iterdir()}
    assert len(names) == KEEP, f"{call.line}: {names}"
    assert "step-00000004" in names
    return outcome


@needs_strace
@pytest.mark.slow
def test_every_mutating_call_of_a_save_may_fail_in_every_way(tmp_path: Path) -> None:
    counts = _campaign(tmp_path, (KILL, FULL_DISK, IO_ERROR))
    print("kill campaign of a save:", counts)
    assert counts["calls"] > 20
    assert counts["killed"] == counts["calls"]


@needs_strace
@pytest.mark.parametrize("fault", [KILL, FULL_DISK, IO_ERROR])
def test_every_fourth_mutating_call_of_a_save_may_fail(tmp_path: Path, fault: str) -> None:
    counts = _campaign(tmp_path, (fault,), each=4)
    print("part of the kill campaign:", fault, counts)
    assert counts["runs"] >= 6
