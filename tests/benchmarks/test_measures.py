"""Measures on what is known: Gaussians, lines, sets of equal and of orthogonal samples."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from benchmarks.measures import (
    Eye,
    bend,
    cost,
    coverage,
    frechet_distance,
    interval,
    kernel_distance,
    mean_pairwise_distance,
    milliseconds,
    paired_error,
    psnr_db,
    standardised,
    vendi_score,
    window_errors,
)

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def gaussian(count: int, size: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """The shift is along the first axis only."""
    values = scale * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    values[:, 0] += shift
    return values


def test_fd_of_two_gaussians_is_what_the_formula_says() -> None:
    a, b = gaussian(40_000, 3, 0), gaussian(40_000, 3, 1, scale=2.0, shift=1.0)
    assert frechet_distance(a, b) == pytest.approx(1 + 3 * (1 - 2) ** 2, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_fd_of_few_samples_is_too_high_and_kid_is_not() -> None:
    pairs = [(gaussian(60, 8, 2 * i), gaussian(60, 8, 2 * i + 1)) for i in range(20)]
    fd = torch.tensor([frechet_distance(a, b) for a, b in pairs])
    kid = torch.tensor([kernel_distance(a, b) for a, b in pairs])
    assert float(fd.mean()) > 0.3
    assert float(kid.mean().abs()) < 2.5 * float(kid.std()) / len(pairs) ** 0.5
    assert float(kid.min()) < 0 < float(kid.max())


def test_kid_grows_with_the_shift_and_leaves_the_random_state_alone() -> None:
    a, b = gaussian(300, 4, 0), gaussian(300, 4, 1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    found = kernel_distance(a, b + 1), kernel_distance(a, b + 0.5)
    assert torch.rand(1) == expected
    assert found[0] > found[1] > 0.05


def test_the_interval_holds_the_fd_that_repetitions_give() -> None:
    count = 100
    repeated = torch.tensor(
        [frechet_distance(gaussian(count, 3, 2 * i), gaussian(count, 3, 2 * i + 1, shift=1.0)) for i in range(60)]
    )
    hits = 0
    for seed in range(20):
        a, b = gaussian(count, 3, 1000 + 2 * seed), gaussian(count, 3, 1001 + 2 * seed, shift=1.0)
        found = interval(frechet_distance, a, b, num_resamples=60)
        assert found.low < frechet_distance(a, b) < found.high
        hits += found.low < float(repeated.mean()) < found.high
    assert hits >= 16


def test_more_samples_make_the_interval_narrower() -> None:
    widths = []
    for count in (60, 600):
        found = interval(frechet_distance, gaussian(count, 4, 0), gaussian(count, 4, 1, shift=1.0), num_resamples=50)
        widths.append(found.high - found.low)
    assert widths[1] < 0.6 * widths[0]


def test_precision_and_recall_of_the_same_of_others_and_of_a_part() -> None:
    real = gaussian(200, 4, 0)
    same = coverage(real, real)
    assert (same.precision, same.recall) == (1.0, 1.0)
    apart = coverage(gaussian(200, 4, 1, shift=50.0), real)
    assert (apart.precision, apart.recall) == (0.0, 0.0)
    collapsed = coverage(gaussian(200, 4, 2, scale=0.05), real)
    assert collapsed.precision > 0.9
    assert collapsed.recall < 0.1
    fresh = coverage(gaussian(200, 4, 3), real)
    assert min(fresh.precision, fresh.recall) > 0.6


def test_vendi_counts_different_samples() -> None:
    assert vendi_score(torch.ones(7, 5)) == pytest.approx(1)
    assert vendi_score(torch.eye(6)) == pytest.approx(6)
    assert vendi_score(torch.eye(3).repeat(4, 1)) == pytest.approx(3)


def test_mean_pairwise_distance_and_standardised_features() -> None:
    assert mean_pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]])) == pytest.approx(5)
    reference = gaussian(500, 3, 0, scale=2.0, shift=7.0)
    ready = standardised(reference, reference)
    assert ready.mean(0).abs().max() < 1e-6
    assert (ready.std(0) - 1).abs().max() < 1e-6


def test_paired_errors_and_psnr_of_a_known_difference() -> None:
    reference = torch.ones(3, 4, 2, 2)
    latents = reference.clone()
    latents[0] += 0.3
    found = paired_error(latents, reference)
    assert found.all == pytest.approx((0.09 / 3) ** 0.5)
    assert found.median == 0
    assert psnr_db(reference * 0.8, reference) == pytest.approx(20)


def test_window_errors_are_relative_to_the_way() -> None:
    edges = [torch.full((2, 1), value) for value in (0.0, 1.0, 3.0)]
    assert window_errors(lambda z, k: edges[k + 1], edges) == [0, 0]
    assert window_errors(lambda z, k: z, edges) == pytest.approx([1, 1])
    assert window_errors(lambda z, k: edges[k + 1] + 0.1, edges) == pytest.approx([0.1, 0.05])


def test_a_straight_line_is_not_bent_and_a_parabola_by_a_third() -> None:
    times = torch.linspace(1, 0, 2001, dtype=torch.float64)
    line = (2 + 3 * times)[:, None].repeat(1, 4)
    assert bend(line, times.tolist()) == pytest.approx(0, abs=1e-9)
    assert bend((times**2)[:, None].repeat(1, 4), times.tolist()) == pytest.approx(1 / 3, rel=1e-3)


def test_times_are_medians_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only drawing moves: the first, uncounted pass is slow, and one round is an outlier."""
    order, now = list[str](), [0.0]
    spent = {"a": iter([9.0, 0.01, 5.0, 0.01]), "b": iter([9.0, 0.03, 0.03, 0.04])}

    def draw(name: str) -> None:
        order.append(name)
        now[0] += next(spent[name])

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    found = milliseconds({"a": lambda: draw("a"), "b": lambda: draw("b")}, num_rounds=3)
    assert order == ["a", "b", *"ab", *"ba", *"ab"]
    assert found == pytest.approx({"a": 10, "b": 30})


def test_the_judges_hash_is_its_files() -> None:
    eye = Eye.load(ASSETS)
    assert eye.sha256 == hashlib.sha256((ASSETS / "judge" / "judge.safetensors").read_bytes()).hexdigest()
    assert eye.features(torch.zeros(2, 3, 128, 128)).shape == (2, 160)
