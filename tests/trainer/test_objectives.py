"""Teacher, path and target against an exact teacher whose ODE has a closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from studio.perflow.prediction import window_map
from studio.perflow.schedule import NoiseSchedule, broadcast, make_alphas_cumprod, make_betas
from studio.perflow.windows import TimeWindows
from trainer.objectives import PeRFlow, Solved, TimeDraw, diffusion_loss
from trainer.teacher import guided, solve, window_indices

SPREAD = 0.5  # the data are N(0, SPREAD^2)
SCHEDULE = NoiseSchedule.of_diffusion(make_alphas_cumprod(make_betas()))


def exact_teacher(z: torch.Tensor, index: torch.Tensor, condition: object) -> torch.Tensor:
    """E[eps | z] for Gaussian data, at diffusion indices."""
    alpha, sigma = SCHEDULE.alphas[index + 1], SCHEDULE.sigmas[index + 1]
    gain = sigma / (alpha**2 * SPREAD**2 + sigma**2)
    return (gain.view(-1, 1, 1, 1) * z).float()


def exact_end(z_s: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """The probability-flow ODE scales z by the ratio of its standard deviations."""

    def deviation(timestep: int) -> float:
        return math.sqrt(float(SCHEDULE.alphas[timestep] ** 2) * SPREAD**2 + float(SCHEDULE.sigmas[timestep] ** 2))

    return z_s * deviation(end) / deviation(start)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
@pytest.mark.parametrize("num_windows", [1, 2, 4, 5])
def test_solvers_converge_to_the_exact_window_map(solver, num_windows: int) -> None:
    windows = TimeWindows(num_time_windows=num_windows)
    z_s = torch.randn(num_windows, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    window = torch.arange(num_windows)
    errors = []
    for steps in (8, 64):
        z_e = solve(exact_teacher, SCHEDULE, z_s, window_indices(windows, window, steps), None, solver)
        truth = torch.stack([exact_end(z, *(max(t, 1) for t in windows.bounds(k))) for k, z in enumerate(z_s)])
        errors.append(float((z_e - truth).abs().max()))
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.1


def test_second_order_beats_first_at_equal_calls_but_not_in_the_last_window() -> None:
    """Why DPM-Solver++ must be probed: steps that are even in t are very uneven in log-SNR near clean data."""
    windows, window = TimeWindows(num_time_windows=4), torch.arange(4)
    z_s = torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    truth = torch.stack([exact_end(z, *(max(t, 1) for t in windows.bounds(k))) for k, z in enumerate(z_s)])

    def errors(solver) -> torch.Tensor:
        z_e = solve(exact_teacher, SCHEDULE, z_s, window_indices(windows, window, 8), None, solver)
        return (z_e - truth).abs().flatten(1).amax(1)

    assert (errors("dpmpp") < errors("ddim"))[:3].all()


def solved_by_hand(objective: PeRFlow) -> Solved:
    generator = torch.Generator().manual_seed(3)
    clean, noise = SPREAD * torch.randn(8, 4, 2, 2, generator=generator), torch.randn(8, 4, 2, 2, generator=generator)
    return objective.solve(exact_teacher, clean, noise, torch.arange(8) % 4, None)


@pytest.mark.parametrize("head", ["ddim_eps", "diff_eps", "velocity", "v_prediction"])
def test_a_perfect_student_has_no_loss_and_lands_on_the_end(head) -> None:
    """The answer that the target asks for, handed back by an oracle, crosses the window exactly."""
    objective = PeRFlow(schedule=SCHEDULE, windows=TimeWindows(num_time_windows=4), head=head)
    pairs = solved_by_hand(objective)
    edges = torch.tensor(objective.windows.edges)
    across = window_map(head, SCHEDULE.segment(edges[pairs.window], edges[pairs.window + 1]))
    answer = across.target(pairs.z_s, pairs.z_e).float()

    def oracle(z: torch.Tensor, timesteps: torch.Tensor, condition: object) -> torch.Tensor:
        return answer

    assert float(objective.loss(oracle, pairs, torch.Generator().manual_seed(0))) < 1e-8
    assert float(objective.endpoint_errors(oracle, pairs).max()) < 1e-4


def test_an_error_counts_where_it_leads_or_in_the_answer_itself() -> None:
    """At the windows' starts, "end" is the squared distance of the ends, and "answer" that over eta squared."""
    starts, silence = TimeDraw(at_start=1.0, at_grid=0.0), torch.zeros(8, 4, 2, 2)
    objective = PeRFlow(schedule=SCHEDULE, windows=TimeWindows(num_time_windows=4), times=starts, error_at="end")
    pairs, draw = solved_by_hand(objective), torch.Generator()
    edges = torch.tensor(objective.windows.edges)
    across = window_map("ddim_eps", SCHEDULE.segment(edges[pairs.window], edges[pairs.window + 1]))
    missed = (across.end(pairs.z_s, silence) - pairs.z_e).square()

    def silent(z: torch.Tensor, timesteps: torch.Tensor, condition: object) -> torch.Tensor:
        return silence

    assert float(objective.loss(silent, pairs, draw)) == pytest.approx(float(missed.mean()), rel=1e-5)
    in_the_answer = replace(objective, error_at="answer").loss(silent, pairs, draw)
    assert float(in_the_answer) == pytest.approx(float((missed / broadcast(across.eta, missed) ** 2).mean()), rel=1e-5)


def test_the_untrained_student_is_ddim_over_the_window() -> None:
    """Under ddim_eps the teacher itself, asked at the window's start, makes one DDIM step (METHOD section 9)."""
    objective = PeRFlow(schedule=SCHEDULE, windows=TimeWindows(num_time_windows=4))
    pairs = solved_by_hand(objective)
    one_step = solve(exact_teacher, SCHEDULE, pairs.z_s, window_indices(objective.windows, pairs.window, 1), None)
    error = (one_step - pairs.z_e).square().flatten(1).mean(1)
    moved = (pairs.z_e - pairs.z_s).square().flatten(1).mean(1)
    expected = torch.stack([(error[pairs.window == k].sum() / moved[pairs.window == k].sum()).sqrt() for k in range(4)])

    def as_student(z: torch.Tensor, timesteps: torch.Tensor, condition: object) -> torch.Tensor:
        return exact_teacher(z, timesteps - 1, condition)  # the student is asked one above the teacher's index

    assert torch.allclose(objective.endpoint_errors(as_student, pairs), expected.float(), atol=1e-5)


def test_times_are_drawn_where_they_should_be() -> None:
    windows = TimeWindows(num_time_windows=4)
    window = torch.arange(4).repeat(500)
    generator = torch.Generator().manual_seed(0)
    starts = TimeDraw(at_start=1.0, at_grid=0.0).timesteps(windows, window, generator)
    assert starts.tolist() == [1000, 750, 500, 250] * 500
    grid = TimeDraw(at_start=0.0, at_grid=1.0, grid_steps=(8,)).timesteps(windows, window, generator)
    assert set(grid.tolist()) == {1000, 875, 750, 625, 500, 375, 250, 125}
    uniform = TimeDraw(at_start=0.0, at_grid=0.0).timesteps(windows, window, generator)
    assert all(windows.window_of(int(t)) == k for t, k in zip(uniform, window, strict=True))
    assert 480 < float(uniform.double().mean()) < 520
    with pytest.raises(ValueError, match="at most 1"):
        TimeDraw(at_start=0.7, at_grid=0.4)


def test_the_diffusion_loss_of_an_exact_teacher_is_the_irreducible_one() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = SPREAD * torch.randn(4000, 1, 2, 2, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = torch.full((4000,), 500)
    loss = float(diffusion_loss(exact_teacher, SCHEDULE, clean, noise, timesteps, None, min_snr=None))
    alpha, sigma = float(SCHEDULE.alphas[500]), float(SCHEDULE.sigmas[500])
    expected = alpha**2 * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    assert loss == pytest.approx(expected, rel=0.05)


def test_guidance_extrapolates_from_the_unconditional_answer() -> None:
    def network(z: torch.Tensor, timesteps: torch.Tensor, condition: float) -> torch.Tensor:
        return z * condition

    z = torch.ones(1, 1, 1, 1)
    assert guided(network, lambda _: 1.0, 1.0) is network
    assert float(guided(network, lambda _: 1.0, 3.0)(z, torch.zeros(1), 2.0)) == 4.0
