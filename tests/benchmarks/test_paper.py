"""`make paper ARGS=--quick` by two workers: all of it works, as in one process, and a second run measures nothing."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.drawing import PRESETS
from benchmarks.paper.__main__ import house_guidance
from benchmarks.paper.parts import all_parts
from benchmarks.paper.room import Room
from benchmarks.paper.shelf import Shelf
from benchmarks.paper.sizes import QUICK
from benchmarks.paper.workers import Part, Tally, in_turn

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = (
    "Verdicts", "Table 1: three references", "The race at equal calls", "Steps, calls, time, FD, adherence",
    "CFG, swept before anything was compared", "Against the teacher's own paths",
    "Diversity, negative prompts, the fifth step, dynamic CFG", "On a separately fine-tuned base",
    "Trained for this: [A] and [B], K, CFG-sync and CFG-fixed", "How this was made",
)  # fmt: skip
FLOORS = ("train scenes against other train scenes", "teacher samples against others of its samples")
WORDS = {"reproduced", "partly", "not reproduced", "not measured"}


ALONE = ("teacher", "scenes", "sweep", "truth", "paired", "raced", "race", "fifth step", "dynamic")


def quick(folder: Path, workers: int) -> str:
    """Run it, one thread a process; the last line of what it says."""
    command = [sys.executable, "-m", "benchmarks.paper", "--quick", "--out", str(folder / "report"),
               "--work", str(folder / "work"), "--cache", str(folder / "cache"), "--workers", str(workers)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "100%" in done.stderr  # of one bar for all
    return done.stdout.strip().splitlines()[-1]


def room_on(folder: Path, work: Path) -> Room:
    """The room of a quick run, here, with a shelf of one's own."""
    return Room(assets=ROOT / "assets", shelf=Shelf(folder=work), sizes=QUICK, guidance=house_guidance(PRESETS),
                cache=folder / "cache", style_cache=folder / "work")  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Its folder, and what the run by two workers said; docs stay as they were."""
    folder = tmp_path_factory.mktemp("paper")
    before = {path: path.stat().st_mtime for path in (ROOT / "docs").rglob("*")}
    words = quick(folder, 2)
    assert {path: path.stat().st_mtime for path in (ROOT / "docs").rglob("*")} == before
    return folder, words


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.timeout(1800)
def test_quick_makes_the_whole_report_and_a_second_run_draws_nothing(ran) -> None:
    folder, words = ran
    made, taken = map(int, re.findall(r"(\d+) (?:rows measured|taken)", words))
    assert made > 50
    assert taken == 0
    assert "seed 20240507" in words
    report = (folder / "report" / "report.md").read_text()
    evidence = json.loads((folder / "report" / "evidence.json").read_text())
    _check_report(report, evidence)
    assert "2 processes x 1 thread" in evidence["setting"]["machine"]
    _check_page((folder / "report" / "report.html").read_text())

    made_again, taken_again = map(int, re.findall(r"(\d+) (?:rows measured|taken)", quick(folder, 1)))
    assert made_again == 0
    assert taken_again > 0.8 * made  # rows within rows are not asked for again
    again = (folder / "report" / "report.md").read_text()
    assert _without_machine(again) == _without_machine(report)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_workers_and_one_process_make_the_same_rows(ran, one_thread, tmp_path) -> None:
    shared = ran[0] / "work"
    parts = [part for part in all_parts(room_on(ran[0], tmp_path)) if part.kind in ALONE]
    in_turn(parts, Tally(lambda _rows, _words: None))
    names = [path.stem for path in tmp_path.glob("*.json")]
    assert len(names) > 50
    for name in names:
        own, other = (json.loads((folder / f"{name}.json").read_text()) for folder in (tmp_path, shared))
        for each in (own, other):
            each["numbers"].pop("seconds", None)
        assert own == other
        if own["has arrays"]:
            with np.load(tmp_path / f"{name}.npz") as here, np.load(shared / f"{name}.npz") as there:
                assert here.files == there.files
                assert all(np.array_equal(here[key], there[key]) for key in here.files), own["decided by"]


@pytest.mark.timeout(1800)
def test_no_row_is_made_by_two_parts_unless_one_waits_for_the_other(ran, one_thread) -> None:
    room = room_on(ran[0], ran[0] / "work")
    parts = list(all_parts(room))
    who_asks: dict[str, list[Part]] = {}
    for part in parts:
        room.shelf.asked.clear()
        part.fill()
        for key in room.shelf.asked:
            who_asks.setdefault(key, []).append(part)
    assert room.shelf.num_made == 0
    for askers in who_asks.values():
        assert any(all(_waits(parts, other, first) for other in askers if other is not first) for first in askers), [
            each.name for each in askers
        ]


def _waits(parts: list[Part], later: Part, earlier: Part) -> bool:
    """Whether the one needs the other, or something that does."""
    between = [part for part in parts if part.kind in later.needs]
    return earlier in between or any(_waits(parts, each, earlier) for each in between)


def _check_report(report: str, evidence: dict) -> None:
    positions = [report.index(f"\n## {section}\n") for section in SECTIONS]
    assert positions == sorted(positions)
    assert all(f"| {floor} |" in report for floor in FLOORS)
    verdicts = re.findall(r"\| \*\*([a-z ]+)\*\* \|", report)
    assert len(verdicts) >= 12
    assert set(verdicts) <= WORDS
    judge = hashlib.sha256((ROOT / "assets" / "judge" / "judge.safetensors").read_bytes()).hexdigest()
    assert f"`{judge}`" in report
    hashes = evidence["setting"]["hashes"]
    assert all(f"`{value}`" in report for value in hashes.values())
    assert {"unet", "judge", evidence["setting"]["perflow"]} <= set(hashes)
    roles = {role: evidence["setting"][role] for role in ("sync", "fixed", "racer")}
    assert roles == {"sync": "perflow-tabletop", "fixed": "perflow-fixed-tabletop", "racer": "perflow-lora-tabletop"}
    last = evidence["table"][-1]
    assert (last["id"], last["steps"]) == (evidence["setting"]["teacher"], 25)
    assert all(row["fd"][name]["low"] < row["fd"][name]["high"] for row in evidence["table"] for name in row["fd"])
    assert "(9.46)" in report
    racer, *rivals = evidence["race"]
    assert (racer["id"], racer["perflow less it"]) == ("perflow-lora-tabletop", None)
    assert [row["id"] for row in rivals] == evidence["setting"]["rivals"]
    assert all(row["perflow less it"]["low"] < row["perflow less it"]["high"] for row in rivals)


def _check_page(page: str) -> None:
    assert page.count('src="data:image/png;base64,') >= 6
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def _without_machine(report: str) -> str:
    return re.sub(r"\| machine \| [^|]*\|", "", report)
