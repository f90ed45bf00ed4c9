"""The step loop: exact resume, accumulation, processes, what is skipped, what a full disk does, what is asked of it."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from studio.runs.events import CheckpointSaved, Paused, StepLogged, Warned, from_line, read_events
from studio.runs.folder import RunFolder, RunsFolder
from tests.trainer.faults import ROOT, environment
from tests.trainer.toy import toy_config, toy_loop
from trainer import checkpoint, steps
from trainer.checkpoint import load_latest
from trainer.checkpoint_folder import newest
from trainer.steps import ConfigChanged, Diverged, NotSaved, rate_at


def new_run(folder: Path, **changes: object) -> RunFolder:
    return RunsFolder(folder).create(toy_config(**changes))


def events_of(run: RunFolder, kind: type) -> list:
    return [event for event in read_events(run.events_path)[0] if isinstance(event, kind)]


def losses_of(run: RunFolder) -> dict[int, float]:
    """The last loss logged for each step."""
    return {event.step: event.loss for event in events_of(run, StepLogged)}


def final_bytes(run: RunFolder) -> bytes:
    """All that the newest checkpoint holds."""
    path = newest(run.checkpoints_dir)
    assert path is not None
    return (path / "state.safetensors").read_bytes() + (path / "state.json").read_bytes()


def trained(run: RunFolder) -> RunFolder:
    loop = toy_loop(run)
    loop.resume()
    assert loop.train()
    return run


# --- the schedule ---


def test_the_rate_is_a_function_of_the_step() -> None:
    config = toy_config(num_steps=100, warmup_steps=10, learning_rate=1e-3, final_rate_share=0.1)
    rates = [rate_at(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == max(rates) == 1e-3
    assert rates[55] == pytest.approx(1e-3 * (0.1 + 0.9 / 2))
    assert rates[100] == pytest.approx(1e-4)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_it_learns(tmp_path: Path) -> None:
    run = trained(new_run(tmp_path, num_steps=60, learning_rate=1e-2))
    losses = losses_of(run)
    assert losses[60] < 0.3 * losses[1]


# --- exact resume ---


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("stop_at", [1, 6, 11])
def test_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path: Path, accumulation: int, stop_at: int) -> None:
    whole = trained(new_run(tmp_path / "whole", gradient_accumulation=accumulation))
    run = new_run(tmp_path / "cut", gradient_accumulation=accumulation)
    first = toy_loop(run)
    first.task.wish_at = {stop_at: "stop"}
    assert not first.train()
    assert first.saved_step == stop_at
    trained(run)
    assert losses_of(run) == losses_of(whole)
    assert final_bytes(run) == final_bytes(whole)


def start(run: RunFolder, *more: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), "-m", "tests.trainer.toy", str(run.path), *more]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240)


def test_a_killed_process_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = trained(new_run(tmp_path / "whole", gradient_accumulation=2))
    run = new_run(tmp_path / "cut", gradient_accumulation=2)
    assert start(run, "6").returncode == -signal.SIGKILL
    assert load_latest(run.checkpoints_dir)[0] == 4
    done = start(run)
    assert done.returncode == 0, done.stderr
    assert losses_of(run) == losses_of(whole)
    assert final_bytes(run) == final_bytes(whole)


def test_two_processes_match_one_with_twice_the_forwards(tmp_path: Path) -> None:
    """And are killed and taken up again as exactly as one."""
    alone = trained(new_run(tmp_path / "alone", gradient_accumulation=2))
    run = new_run(tmp_path / "both")
    assert start(run, "6", processes=2).returncode != 0
    assert load_latest(run.checkpoints_dir)[0] == 4
    done = start(run, processes=2)
    assert done.returncode == 0, done.stderr
    whole = new_run(tmp_path / "whole")
    assert start(whole, processes=2).returncode == 0
    assert final_bytes(run) == final_bytes(whole)
    assert list(losses_of(run).values()) == pytest.approx(list(losses_of(alone).values()), rel=1e-4)
    mine, others = (load_latest(each.checkpoints_dir)[1] for each in (run, alone))
    for name, value in mine.items():
        torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-5)


def test_a_changed_configuration_is_refused_until_confirmed(tmp_path: Path) -> None:
    run = trained(new_run(tmp_path))
    changed = toy_config(learning_rate=1e-3, num_steps=14)
    run.write_config(changed)
    with pytest.raises(ConfigChanged, match=r"step 12 was made otherwise \(num_steps: 12 -> 14; learning_rate: 0.01"):
        toy_loop(run).resume()
    run.confirm(toy_config(num_steps=15))
    with pytest.raises(ConfigChanged):
        toy_loop(run).resume()
    run.confirm(changed)
    loop = toy_loop(run)
    assert loop.resume() == 12
    assert loop.train()
    assert max(losses_of(run)) == 14


def test_a_changed_base_is_refused(tmp_path: Path) -> None:
    loop = toy_loop(trained(new_run(tmp_path)))
    loop.task.facts = {"the base": "another"}
    with pytest.raises(ConfigChanged, match=r"The base is not what it was .* step 12"):
        loop.resume()


def test_how_often_things_are_kept_may_change(tmp_path: Path) -> None:
    run = trained(new_run(tmp_path))
    run.write_config(toy_config(checkpoint_every_steps=5))
    assert toy_loop(run).resume() == 12


# --- what is skipped ---


def test_bad_steps_are_skipped_and_told(tmp_path: Path) -> None:
    loop = toy_loop(run := new_run(tmp_path))
    loop.task.forwards.bad = {5: math.nan, 6: math.inf, 7: math.nan}
    assert loop.train()
    assert [(event.kind, event.step) for event in events_of(run, Warned)] == [("nan", 6), ("nan", 7), ("nan", 8)]
    assert math.isnan(losses_of(run)[6])
    assert all(value.isfinite().all() for value in load_latest(run.checkpoints_dir)[1].values())


def test_the_fourth_in_a_row_stops_on_the_last_good_checkpoint(tmp_path: Path) -> None:
    loop = toy_loop(run := new_run(tmp_path))
    loop.task.forwards.bad = dict.fromkeys(range(5, 12), math.nan)
    with pytest.raises(Diverged, match=r"4 times in a row .* last good checkpoint, step 4\. .*lower learning rate"):
        loop.train()
    step, tensors, _ = load_latest(run.checkpoints_dir)
    assert step == 4
    assert all(value.isfinite().all() for value in tensors.values())


def test_an_exploding_loss_is_a_bad_step(tmp_path: Path) -> None:
    loop = toy_loop(run := new_run(tmp_path, num_steps=60))
    loop.task.forwards.bad = {55: 1e4}
    assert loop.train()
    assert [event.step for event in events_of(run, Warned)] == [56]


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    loop = toy_loop(run := new_run(tmp_path))
    loop.task.wish_at = {6: "stop"}
    assert not loop.train()
    with torch.no_grad():
        next(iter(loop.optimization.average.values())).fill_(math.nan)
    with pytest.raises(Diverged, match="no numbers any more at step 8"):
        loop.train()
    assert load_latest(run.checkpoints_dir)[0] == 6


# --- the disk ---


def refuse_to_save(monkeypatch: pytest.MonkeyPatch, at: set[int]) -> None:
    real = checkpoint.save_checkpoint

    def save(folder: Path, step: int, *rest: object, **more: object) -> Path:
        if step in at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(folder, step, *rest, **more)

    monkeypatch.setattr(steps, "save_checkpoint", save)


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_save(monkeypatch, {8})
    run = trained(new_run(tmp_path))
    warned = events_of(run, Warned)
    assert [(event.kind, event.step) for event in warned] == [("disk", 8)]
    assert "No space left on device" in warned[0].words
    assert "last good checkpoint is step 4" in warned[0].words
    assert [event.step for event in events_of(run, CheckpointSaved)] == [4, 12]


def test_a_disk_that_stays_full_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_save(monkeypatch, set(range(3, 100)))
    loop = toy_loop(run := new_run(tmp_path, checkpoint_every_steps=2))
    with pytest.raises(NotSaved, match=r"step 8 could not be written .*last good checkpoint is step 2"):
        loop.train()
    assert load_latest(run.checkpoints_dir)[0] == 2


def test_stopping_without_a_checkpoint_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_save(monkeypatch, set(range(100)))
    loop = toy_loop(new_run(tmp_path))
    loop.task.wish_at = {3: "stop"}
    with pytest.raises(NotSaved, match=r"step 3 .* there is no checkpoint yet"):
        loop.train()


# --- what is asked of it ---


def test_requests_are_heeded_between_steps(tmp_path: Path) -> None:
    loop = toy_loop(run := new_run(tmp_path, checkpoint_every_steps=100, validate_every_steps=5, sample_every_steps=6))
    loop.task.wish_at = {3: "save", 7: "sample"}
    assert loop.train()
    assert [event.step for event in events_of(run, CheckpointSaved)] == [3, 12]
    assert loop.task.looked == [
        ("validate", 0), ("sample", 0), ("validate", 5), ("sample", 6), ("sample", 7), ("validate", 10),
        ("validate", 12), ("sample", 12),
    ]  # fmt: skip


def test_a_pause_lasts_until_it_is_taken_back_and_changes_nothing(tmp_path: Path) -> None:
    whole = trained(new_run(tmp_path / "whole"))
    loop = toy_loop(run := new_run(tmp_path / "paused"))
    loop.task.wish_at = {5: "pause", 6: "pause", 7: "pause"}
    assert loop.train()
    assert [(event.paused, event.step) for event in events_of(run, Paused)] == [(True, 5), (False, 5)]
    assert losses_of(run) == losses_of(whole)
    assert final_bytes(run) == final_bytes(whole)


def test_a_stop_in_a_pause_stops(tmp_path: Path) -> None:
    loop = toy_loop(new_run(tmp_path))
    loop.task.wish_at = {5: "pause", 6: "stop"}
    assert not loop.train()
    assert loop.saved_step == 5


# --- the log ---


def test_a_torn_line_is_closed_and_a_full_disk_costs_only_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run(tmp_path)
    run.events_path.write_text('{"event": "step", "st')
    loop = toy_loop(run)
    loop.tell(Paused(paused=True, step=1))
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:10]))
    loop.tell(Paused(paused=True, step=2))
    monkeypatch.setattr(os, "write", real)
    loop.tell(Paused(paused=False, step=3))
    lines = run.events_path.read_text().splitlines()
    assert [getattr(from_line(line), "step", None) for line in lines] == [None, 1, None, 3]
    assert "could not be written" in caplog.text
    assert json.loads(lines[3])["paused"] is False
