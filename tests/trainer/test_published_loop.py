"""The re-stated published loop does what the paper says: its windows and targets are those of our own pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.published_loop import PublishedLoop
from studio.perflow import TimeWindows
from studio.runs.config import BaseModel
from tests.tiny import tiny_pipeline_folder
from trainer.networks import Networks
from trainer.teacher import solve, window_indices


@pytest.fixture
def loop_and_networks(tmp_path: Path) -> tuple[PublishedLoop, Networks]:
    base = BaseModel(id="t", family="sd15", source=str(tiny_pipeline_folder(tmp_path / "base")), kind="folder")
    peer, networks = Networks.load(base, "cpu", "fp32"), Networks.load(base, "cpu", "fp32")
    return PublishedLoop(peer.pipe, device="cpu", precision="fp32", learning_rate=1e-4, warmup_steps=0, ema_decay=0.9,
                         seed=0), networks  # fmt: skip


def test_its_teacher_ends_where_ours_does(loop_and_networks) -> None:
    loop, networks = loop_and_networks
    z_s = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    condition, start = networks.embed(["a cube"] * 4), torch.tensor([1.0, 0.75, 0.5, 0.25])
    theirs = loop._walk(z_s, start, start - 0.25, condition["prompt_embeds"])
    windows = TimeWindows(num_time_windows=4)
    indices = window_indices(windows, torch.arange(4), 8)
    ours = solve(networks.network(), networks.schedule, z_s, indices, condition)
    assert torch.allclose(theirs, ours, atol=0.02)  # a point may round to the neighbouring index


def test_a_step_moves_the_student_and_its_average_and_not_the_teacher(loop_and_networks) -> None:
    loop, _ = loop_and_networks
    before = loop.teacher.conv_out.weight.clone()
    losses = [loop.step(torch.zeros(2, 3, 64, 64), ["a cube", "a ball"]) for _ in range(2)]
    assert all(0 < loss < 10 for loss in losses)
    assert torch.equal(loop.teacher.conv_out.weight, before)
    assert not torch.equal(loop.unet.conv_out.weight, before)
    assert not torch.equal(loop.average["conv_out.weight"], before)
