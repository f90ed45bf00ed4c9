"""`make paper ARGS=--quick` as anyone runs it: all of it works, and a second run measures nothing anew."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = (
    "Verdicts", "Table 1: three references", "Steps, calls, time, FD, adherence",
    "CFG, swept before anything was compared", "Against the teacher's own paths",
    "Diversity, negative prompts, the fifth step, dynamic CFG", "On a separately fine-tuned base",
    "Trained for this: [A] and [B], K, CFG-sync and CFG-fixed", "How this was made",
)  # fmt: skip
FLOORS = ("train scenes against other train scenes", "teacher samples against others of its samples")
WORDS = {"reproduced", "partly", "not reproduced", "not measured"}


def quick(folder: Path) -> str:
    """Run it on one thread; the last line of what it says."""
    command = [sys.executable, "-m", "benchmarks.paper", "--quick", "--out", str(folder / "report"),
               "--work", str(folder / "work"), "--cache", str(folder / "cache"), "--workers", "1"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.timeout(900)
def test_quick_makes_the_whole_report_and_a_second_run_draws_nothing(tmp_path) -> None:
    before = {path: path.stat().st_mtime for path in (ROOT / "docs").rglob("*")}
    words = quick(tmp_path)
    made, taken = map(int, re.findall(r"(\d+) (?:rows measured|taken)", words))
    assert made > 50
    assert "seed 20240507" in words
    report = (tmp_path / "report" / "report.md").read_text()
    _check_report(report, json.loads((tmp_path / "report" / "evidence.json").read_text()))
    _check_page((tmp_path / "report" / "report.html").read_text())
    assert {path: path.stat().st_mtime for path in (ROOT / "docs").rglob("*")} == before

    made_again, taken_again = map(int, re.findall(r"(\d+) (?:rows measured|taken)", quick(tmp_path)))
    assert made_again == 0
    assert taken_again > 0.8 * made + taken  # rows within rows are not asked for again
    again = (tmp_path / "report" / "report.md").read_text()
    assert _without_time(again) == _without_time(report)


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


def _check_page(page: str) -> None:
    assert page.count('src="data:image/png;base64,') >= 6
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def _without_time(report: str) -> str:
    return re.sub(r"\| time \| [^|]*\|", "", report)
