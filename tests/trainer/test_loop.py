"""The loop learns, resumes where it stopped, and does not save nonsense."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.checkpoint import load_latest, save_checkpoint
from trainer.loop import Progress, Schedule, train


class Fit:
    """y = 3x by one weight; stops the clock after a number of steps by raising what the test asks for."""

    def __init__(self, stop_at: int = 10**9, bad_from: int = 10**9) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.stop_at, self.bad_from, self.seen = stop_at, bad_from, []

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        if step >= self.stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 1, generator=generator)
        self.seen.append((step, float(x[0, 0])))
        return (self.module(x) - 3 * x).square().mean() * (float("nan") if step >= self.bad_from else 1.0)


def test_it_learns_within_its_minutes(tmp_path: Path) -> None:
    task = Fit()
    average = train(task, Schedule(minutes=0.02, learning_rate=0.1, warmup_steps=5, ema_decay=0.9), tmp_path)
    assert float(average["weight"]) == pytest.approx(3, abs=0.05)


def test_the_first_step_is_off_the_clock(tmp_path: Path) -> None:
    """Networks are compiled in it, which may take longer than the whole budget."""

    class Compiled(Fit):
        def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
            time.sleep(0.5 if step == 0 else 0)
            return super().loss(step, generator)

    reports: list[Progress] = []
    train(Compiled(), Schedule(minutes=0.005, learning_rate=0.1), tmp_path, reports.append)
    assert reports[-1].step > 1


def test_a_resumed_run_goes_on_with_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.loop.CHECKPOINT_EVERY_SECONDS", 0)
    schedule = Schedule(minutes=0.02, learning_rate=0.01)
    with pytest.raises(KeyboardInterrupt):
        train(Fit(stop_at=7), schedule, tmp_path)
    step, tensors, _ = load_latest(tmp_path)
    assert step == 7
    again = Fit(stop_at=9)
    with pytest.raises(KeyboardInterrupt):
        train(again, schedule, tmp_path)
    whole = Fit(stop_at=9)
    with pytest.raises(KeyboardInterrupt):
        train(whole, schedule, tmp_path / "whole")
    assert again.seen == whole.seen[7:]
    assert {name for name in tensors if name.startswith("optimizer.")} >= {"optimizer.exp_avg.weight"}


def test_not_a_number_is_skipped_three_times_and_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.loop.CHECKPOINT_EVERY_SECONDS", 0)
    with pytest.raises(FloatingPointError, match="not finite"):
        train(Fit(bad_from=5), Schedule(minutes=1, learning_rate=0.01), tmp_path)
    _, tensors, _ = load_latest(tmp_path)
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {})
    newest = save_checkpoint(tmp_path, 2, {"w": torch.zeros(2)}, {})
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "state.safetensors").write_bytes(data)
    step, tensors, _ = load_latest(tmp_path)
    assert step == 1
    assert tensors["w"].tolist() == [1, 1]


def test_only_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, step, {"w": torch.ones(1)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
