"""A real trainer, killed: it goes on from at least its last acknowledged checkpoint and ends bit-identical.

Real networks (tiny and random), a stored dataset, accumulation and two workers that read ahead; killed at steps and,
by strace, at every mutating system call of a save and of the export, which are also refused by a full disk and by I/O
errors. The whole campaign is `slow` and prints its counts; every default run does a part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.perflow import DeltaWeights
from studio.runs.events import CheckpointSaved, Finished, Started, StepLogged, Validated, read_events
from studio.runs.folder import RunFolder
from tests.trainer.faults import FULL_DISK, IO_ERROR, KILL, MUTATING, ROOT, Call, environment, needs_strace
from tests.trainer.little import little_run
from tests.trainer.zygote import Zygote
from trainer.checkpoint import TENSORS
from trainer.checkpoint_folder import newest

CONFIG = {"gradient_accumulation": 2, "num_workers": 2, "num_checkpoints_kept": 1, "pair_reuse": 2, "student": "lora",
          "lora_rank": 2}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="module")
def whole(zygote: Zygote, folder: Path) -> RunFolder:
    """A run that nobody interrupted."""
    run = little_run(folder, "whole", **CONFIG)
    assert zygote.run(run.path) == 0, run.log_path.read_text()
    return run


def result_of(run: RunFolder) -> dict[str, str]:
    """The sha256 of all that a run leaves: its last checkpoint and its export."""
    last = newest(run.checkpoints_dir)
    assert last is not None
    files = [*last.iterdir(), *(path for path in run.export_dir.rglob("*") if path.is_file())]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def losses_of(run: RunFolder) -> dict[int, tuple[float, float]]:
    found = [event for event in read_events(run.events_path)[0] if isinstance(event, StepLogged)]
    return {event.step: (event.loss, event.gradient_norm) for event in found}


def acknowledged(run: RunFolder) -> int:
    found = [event for event in read_events(run.events_path)[0] if isinstance(event, CheckpointSaved)]
    return max((event.step for event in found), default=0)


def finish(zygote: Zygote, run: RunFolder, whole: RunFolder, at_least: int) -> None:
    """Take a cut run up again; it must end as the whole one did."""
    assert zygote.run(run.path) == 0, run.log_path.read_text()
    events = read_events(run.events_path)[0]
    assert isinstance(events[-1], Finished)
    started = [event for event in events if isinstance(event, Started)][-1]
    assert started.step >= at_least
    assert losses_of(run) == losses_of(whole)
    assert result_of(run) == result_of(whole)
    assert sorted(path.name for path in run.path.iterdir()) == sorted(path.name for path in whole.path.iterdir())


# --- killed at steps ---


def killed_at(zygote: Zygote, folder: Path, whole: RunFolder, mark: str) -> int:
    """How the process ended when it was killed at a mark in its events; the run is then finished and compared."""
    name = "cut-" + re.sub(r"\W+", "-", mark)
    run = little_run(folder, name, **CONFIG)
    status = zygote.run_killed_at(run.path, mark)
    finish(zygote, run, whole, acknowledged(run))
    shutil.rmtree(run.path)
    return status


@pytest.mark.parametrize("mark", ['"step": 3, "loss"', '"writing the result"'])
def test_killed_at_a_step_it_ends_bit_identical(zygote: Zygote, folder: Path, whole: RunFolder, mark: str) -> None:
    assert killed_at(zygote, folder, whole, mark) in (-9, 0)


@pytest.mark.slow
def test_killed_at_any_step_or_phase_it_ends_bit_identical(zygote: Zygote, folder: Path, whole: RunFolder) -> None:
    marks = [f'"step": {step}, "loss"' for step in range(1, 7)]
    marks += ['"loading the base"', '"encoding pictures', '"measuring the base', "00000000-0.png", '"started"',
              '"validated"', '"drawing samples"', "00000006-2.png"]  # fmt: skip
    random.Random(0).shuffle(marks)
    counts = Counter(killed_at(zygote, folder, whole, mark) for mark in marks)
    print("killed at marks:", len(marks), "ends:", dict(counts))
    assert counts[-9] >= len(marks) - 2


TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "trainer"]


def together(run: RunFolder) -> None:
    """Two processes train a run."""
    done = subprocess.run(
        [*TOGETHER, str(run.path)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]


def cut_at(run: RunFolder, mark: str) -> int:
    """Two processes train a run and are killed, with what started them, as soon as its events hold `mark`."""
    started = subprocess.Popen([*TOGETHER, str(run.path)], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    while started.poll() is None and not (run.events_path.exists() and mark in run.events_path.read_text()):
        time.sleep(0.005)
    listed = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text() if started.poll() is None else ""
    children = [int(pid) for pid in listed.split()]
    for pid in (*children, started.pid):  # torchrun gives each worker a session of its own
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return started.wait()


def validated(run: RunFolder) -> list[float]:
    """Every held-out error and loss of a run, in order."""
    found = [event for event in read_events(run.events_path)[0] if isinstance(event, Validated)]
    return [value for event in found for value in (*event.endpoint_errors, event.loss) if value is not None]


@pytest.mark.slow
def test_two_processes_train_the_same_run(folder: Path, whole: RunFolder) -> None:
    """One process with two accumulated forwards sees what two processes see: the same losses, within rounding."""
    run = little_run(folder, "both", **{**CONFIG, "gradient_accumulation": 1})
    together(run)
    for step, (loss, norm) in losses_of(run).items():
        assert (loss, norm) == pytest.approx(losses_of(whole)[step], rel=1e-3), step
    mine, others = (load_file(each.export_dir / "pytorch_lora_weights.safetensors") for each in (run, whole))
    for name, value in mine.items():
        torch.testing.assert_close(value, others[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_two_processes_that_split_the_weights_train_the_same_run(zygote: Zygote, folder: Path) -> None:
    """Split or not: the same losses and delta weights within rounding, whole tensors on disk, and an exact resume."""
    plain = {**CONFIG, "student": "full"}
    split_config = {**plain, "gradient_accumulation": 1, "sharding": "split", "checkpoint_every_steps": 2}
    alone, split = little_run(folder, "alone", **plain), little_run(folder, "split", **split_config)
    assert zygote.run(alone.path) == 0, alone.log_path.read_text()
    together(split)
    for step, found in losses_of(split).items():
        assert found == pytest.approx(losses_of(alone)[step], rel=1e-3), step
    assert validated(split) == pytest.approx(validated(alone), rel=1e-2)
    mine, others = (DeltaWeights.read(each.export_dir).tensors for each in (split, alone))
    assert set(mine) == set(others)
    for name, value in mine.items():
        torch.testing.assert_close(value, others[name], rtol=2e-2, atol=1e-3)
    last = newest(split.checkpoints_dir)
    assert last is not None
    cut = little_run(folder, "split-cut", **split_config)
    assert cut_at(cut, '"step": 5, "loss"') != 0
    together(cut)
    assert losses_of(cut) == losses_of(split)
    assert result_of(cut) == result_of(split)
    kept = load_file(last / TENSORS)
    shapes = {name: tuple(value.shape) for name, value in others.items()}
    assert all(tuple(kept[f"model.{name}"].shape) == shape for name, shape in shapes.items())


# --- every mutating system call of a save and of the export ---


def traced_calls(zygote: Zygote, folder: Path) -> list[Call]:
    """The calls below the run's folder that belong to its second save and to its export."""
    run = little_run(folder, "traced", **CONFIG)
    trace = folder / "trace"
    assert zygote.run_traced(run.path, "-yy", "-e", f"trace={MUTATING}", "-o", str(trace)) == 0
    seen: Counter[tuple[str, str]] = Counter()
    calls, saves = [], 0
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"(\d+)\s+(\w+)\(", line)
        if match is None:
            continue
        seen[match[1], match[2]] += 1
        saves += match[2] == "mkdir" and "checkpoints/.staged" in line
        wanted = ("/checkpoints" in line and saves == 2) or "export" in line
        reads = match[2] in ("open", "openat") and "O_CREAT" not in line
        if wanted and not reads and str(run.path) in line:
            calls.append(Call(match[2], seen[match[1], match[2]], line))
    shutil.rmtree(run.path)
    return calls


def failed_at(zygote: Zygote, folder: Path, whole: RunFolder, call: Call, fault: str) -> str:
    """What one fault did; the run is then taken up until it ends, and compared."""
    run = little_run(folder, f"{call}-{fault[-4:]}".lower(), **CONFIG)
    status = zygote.run_traced(run.path, "-e", f"trace={call.name}", "-o", "/dev/null", "-e",
                               f"inject={call.name}:{fault}:when={call.count}")  # fmt: skip
    assert (status == -9) == (fault == KILL), f"{call.line}: {status}"
    if status == 0:
        assert result_of(run) == result_of(whole), call.line
        assert losses_of(run) == losses_of(whole)
    else:
        finish(zygote, run, whole, acknowledged(run))
    shutil.rmtree(run.path)
    return {0: "went on", 1: "failed with a sentence", -9: "killed"}[status]


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_fault_at_any_call_of_a_save_or_an_export(zygote: Zygote, folder: Path, whole: RunFolder) -> None:
    calls = traced_calls(zygote, folder)
    counts: Counter[str] = Counter()
    for fault in (KILL, FULL_DISK, IO_ERROR):
        counts.update(f"{fault}: {failed_at(zygote, folder, whole, call, fault)}" for call in calls)
    print("kill campaign:", len(calls), "calls,", counts.total(), "faults:", dict(counts))
    assert len(calls) > 30


@needs_strace
def test_a_fault_at_some_calls_of_a_save_or_an_export(zygote: Zygote, folder: Path, whole: RunFolder) -> None:
    calls = traced_calls(zygote, folder)
    third = len(calls) // 3
    chosen = ((calls[third], KILL), (calls[2 * third], FULL_DISK))
    counts = Counter(f"{fault}: {failed_at(zygote, folder, whole, call, fault)}" for call, fault in chosen)
    print("part of the kill campaign:", len(calls), "calls,", dict(counts))
    assert counts[f"{KILL}: killed"] == 1
