"""Arms differ in one thing, start where they should, and are trained once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.ablations import curve
from benchmarks.ablations.__main__ import is_done
from benchmarks.ablations.arms import FIXED_GUIDANCE, arms
from benchmarks.drawing import Bench, noise_of
from trainer.tabletop.diffusion import LatentSet

ASSETS = Path(__file__).resolve().parents[2] / "assets"
COUNT = 2


@pytest.fixture(scope="module")
def ground() -> curve.Ground:
    """Noise for latents, a few real prompts; the truth is 8 steps of the base."""
    bench, noise = Bench(ASSETS, COUNT), noise_of(COUNT)
    data = LatentSet(
        posteriors=torch.cat([noise, torch.full_like(noise, -20)], 1), prompts=bench.prompts[:, None],
        empty=bench.empty[0], scaling_factor=1.0,
    )  # fmt: skip
    references = {scale: bench.draw(curve.DDIM, 8, scale, noise) for scale in (1.0, FIXED_GUIDANCE)}
    return curve.Ground(assets=ASSETS, train=data, held_out=data, noise=noise, references=references,
                        base_sha256=bench.worn.base_sha256)  # fmt: skip


def test_arms_have_the_same_budget_and_differ_in_one_thing() -> None:
    known = arms(150, 32)
    twins = {"fixed-end-K4-seed0": "fixed-K4-seed0"}
    for name, arm in known.items():
        first = known[twins.get(name, "B-K4-seed0")].config
        assert (arm.config.num_steps, arm.config.batch_size) == (150, 32)
        assert arm.config.learning_rate == first.learning_rate
        fields = {each.name for each in dataclasses.fields(first)}
        changed = {key for key in fields if getattr(first, key) != getattr(arm.config, key)}
        changed -= {"name", "num_solver_steps", "trained_guidance"}
        changed -= {"caption_dropout"} if arm.config.guidance_mode == "fixed" else set()
        assert len(changed) == (0 if name == "B-K4-seed0" else 1), name
        assert arm.config.num_solver_steps * arm.config.num_time_windows >= 20
    assert len({arm.config.sha256 for arm in known.values()}) == len(known)


def test_an_arm_is_done_only_with_its_configuration_on_its_base() -> None:
    arm = arms(150, 32)["B-K4-seed0"]
    rows = [{"config_sha256": arm.config.sha256, "base_sha256": "abc"}]
    assert is_done(rows, arm, "abc")
    assert not is_done(rows, arm, "abd")
    assert not is_done(rows, arms(200, 32)["B-K4-seed0"], "abc")


def test_b_begins_as_ddim_and_a_begins_behind_it(ground, monkeypatch) -> None:
    monkeypatch.setattr(curve, "NUM_HELD_OUT", 8)
    known = arms(1, COUNT)
    runs = {name: curve.Run(known[name], ground) for name in ("B-K4-seed0", "A-K4-seed0")}
    start = {name: next(run.points()) for name, run in runs.items()}
    run = runs["B-K4-seed0"]
    assert start["B-K4-seed0"]["endpoint_errors"] == pytest.approx(run.measured.untrained, rel=0.05)
    assert sum(start["A-K4-seed0"]["endpoint_errors"]) > 1.2 * sum(start["B-K4-seed0"]["endpoint_errors"])


def test_training_moves_the_curve_and_the_same_seed_gives_the_same_one(ground, monkeypatch) -> None:
    monkeypatch.setattr(curve, "NUM_HELD_OUT", 8)
    arm = arms(1, COUNT)["B-K4-seed0"]
    first, second = (list(curve.Run(arm, ground).points()) for _ in range(2))
    assert [point["step"] for point in first] == [0, 1]
    assert first[0]["paired"] != first[-1]["paired"]
    assert set(first[0]["paired"]) == {"4", "8"}
    assert first[-1]["paired_guided"] != first[0]["paired_guided"] != {}
    assert [point["paired"] for point in first] == [point["paired"] for point in second]
