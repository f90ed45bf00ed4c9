"""One converter for every head: the numbers of METHOD section 3, inverses, and an exact teacher."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.errors import IncompatibleWeights
from studio.perflow import HEADS, NoiseSchedule, TimeWindows, head_of, make_alphas_cumprod, make_betas, window_map
from tests.perflow.gauss import GaussTeacher

FOUR = TimeWindows(num_time_windows=4)
CUMPROD = make_alphas_cumprod(make_betas())
DIFFUSION = NoiseSchedule.of_diffusion(CUMPROD)
FLOW = NoiseSchedule.of_flow()


def schedule_of(head):
    return FLOW if head == "flow" else DIFFUSION


def latents(seed=0, batch=3):
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps_of(head):
    return [window_map(head, schedule_of(head).segment(*FOUR.bounds(window))) for window in range(4)]


def test_alphas_cumprod_are_stable_diffusions():
    picked = [round(float(CUMPROD[index]), 6) for index in (999, 749, 499, 249, 0)]
    assert picked == [0.00466, 0.056623, 0.277669, 0.675432, 0.99915]


@pytest.mark.parametrize(
    ("head", "expected"),
    [("ddim_eps", [-2.506, -1.301, -0.756, -0.664]), ("diff_eps", [-3.339, -1.976, -1.197, -0.692])],
)
def test_coefficients_of_four_windows(head, expected):
    assert [float(mapping.lam) for mapping in maps_of(head)] == pytest.approx([3.486, 2.2145, 1.560, 1.216], abs=6e-4)
    assert [float(mapping.eta) for mapping in maps_of(head)] == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("head", HEADS)
def test_target_is_the_inverse_of_the_map(head):
    z_s, output = latents(1), latents(2)
    for mapping in maps_of(head):
        torch.testing.assert_close(mapping.target(z_s, mapping.end(z_s, output)), output)


@pytest.mark.parametrize("head", HEADS)
def test_eq_7_is_the_slope_of_the_line_at_every_point(head):
    """The student's answer at z_t that means this window's end gives exactly (z_s - z_e) / (s - e), also near e."""
    z_s, output = latents(1), latents(2)
    for mapping in maps_of(head):
        s, e = float(mapping.segment.s), float(mapping.segment.e)
        z_e = mapping.end(z_s, output)
        for share in (1.0, 0.6, 0.25, 1e-3):
            t = e + share * (s - e)
            z_t = mapping.point(z_s, z_e, t)
            torch.testing.assert_close(mapping.velocity(z_t, output, t), (z_s - z_e) / (s - e))


@given(
    head=st.sampled_from(HEADS),
    start=st.integers(2, 1000),
    length=st.integers(1, 999),
    share=st.floats(0, 1),
)
def test_eq_7_has_no_singularity(head, start, length, share):
    end = max(start - length, 0)
    if schedule_of(head).alphas[start] <= 0 or schedule_of(head).alphas[start] == schedule_of(head).alphas[end]:
        return
    mapping = window_map(head, schedule_of(head).segment(start, end))
    t = (end + share * (start - end)) / 1000
    velocity = mapping.velocity(latents(1), latents(2), t)
    assert bool(torch.isfinite(velocity).all())


def test_native_v_is_a_turn_by_the_angle_between():
    mapping = maps_of("v_prediction")[1]
    turn = math.acos(float(mapping.segment.alpha_s)) - math.acos(float(mapping.segment.alpha_e))
    assert float(mapping.lam) == pytest.approx(math.cos(turn))
    assert float(mapping.eta) == pytest.approx(-math.sin(turn))


@pytest.mark.parametrize("head", ["ddim_eps", "v_prediction", "sample", "flow"])
def test_native_heads_agree_on_the_same_pair(head):
    """Given one (z_0, eps), every native head's own answer leads to the same window end and names the same z_0."""
    z_0, eps = latents(1), latents(2)
    for mapping in maps_of(head):
        part = mapping.segment
        z_s = part.alpha_s * z_0 + part.sigma_s * eps
        answer = {
            "ddim_eps": eps,
            "v_prediction": part.alpha_s * eps - part.sigma_s * z_0,
            "sample": z_0,
            "flow": eps - z_0,
        }[head]
        torch.testing.assert_close(mapping.end(z_s, answer), part.alpha_e * z_0 + part.sigma_e * eps)
        velocity = mapping.velocity(z_s, answer, part.s)
        torch.testing.assert_close(mapping.clean(z_s, velocity, part.s), z_0)


def test_diff_eps_target_is_a_fixed_share_of_the_ddim_eps_target():
    ratios = [float(b.eta / a.eta) for a, b in zip(maps_of("diff_eps"), maps_of("ddim_eps"), strict=True)]
    assert ratios == pytest.approx([0.751, 0.658, 0.632, 0.959], abs=6e-4)
    z_s, z_e = latents(1), latents(2)
    for published, paper, ratio in zip(maps_of("diff_eps"), maps_of("ddim_eps"), ratios, strict=True):
        torch.testing.assert_close(published.target(z_s, z_e), ratio * paper.target(z_s, z_e))


def test_rectified_diffusions_target_is_the_ddim_eps_target():
    """RD: the one eps with which z_s and z_e share a z_0, i.e. the slope of z / alpha over sigma / alpha."""
    z_s, z_e = latents(1), latents(2)
    for mapping in maps_of("ddim_eps"):
        part = mapping.segment
        rise = z_s / part.alpha_s - z_e / part.alpha_e
        run = part.sigma_s / part.alpha_s - part.sigma_e / part.alpha_e
        torch.testing.assert_close(mapping.target(z_s, z_e), rise / run)


@pytest.mark.parametrize("head", ["ddim_eps", "diff_eps", "velocity", "v_prediction", "sample"])
def test_perfect_student_of_an_exact_teacher_lands_on_its_window_end(head):
    teacher = GaussTeacher(schedule=DIFFUSION)
    z_s = latents(3)
    for window, mapping in enumerate(maps_of(head)):
        z_e = teacher.flow(z_s, *FOUR.bounds(window))
        answer = mapping.target(z_s, z_e)
        torch.testing.assert_close(mapping.end(z_s, answer), z_e)


def test_teacher_solved_by_ddim_converges_to_its_exact_flow():
    """The DDIM step is the ddim_eps map over one small segment, from index i to j: `segment(i + 1, j + 1)`."""
    teacher, z_s = GaussTeacher(schedule=DIFFUSION), latents(3)
    errors = []
    for num_steps in (4, 8, 16):
        z = z_s
        indices = FOUR.solver_indices(1, num_steps)
        for i, j in pairwise(indices):
            z = window_map("ddim_eps", DIFFUSION.segment(i + 1, j + 1)).end(z, teacher.eps(z, i + 1))
        errors.append(float((z - teacher.flow(z_s, *FOUR.bounds(1))).abs().max()))
    assert errors[0] > 1.7 * errors[1] > 2.9 * errors[2]
    assert errors[2] < 0.01


def test_batches_may_mix_windows():
    edges = torch.tensor(FOUR.edges)
    picked = torch.tensor([3, 0, 2])
    mixed = window_map("ddim_eps", DIFFUSION.segment(edges[picked], edges[picked + 1]))
    z_s, z_e = latents(1), latents(2)
    t = mixed.segment.e + 0.4 * (mixed.segment.s - mixed.segment.e)
    together = mixed.velocity(mixed.point(z_s, z_e, t), mixed.target(z_s, z_e), t)
    for row, window in enumerate(picked.tolist()):
        single, at, one = maps_of("ddim_eps")[window], float(t[row]), slice(row, row + 1)
        target = single.target(z_s[one], z_e[one])
        torch.testing.assert_close(together[one], single.velocity(single.point(z_s[one], z_e[one], at), target, at))


def test_half_precision_is_computed_in_fp32():
    z_s, output = latents(1).half(), latents(2).half()
    mapping = maps_of("ddim_eps")[0]
    assert mapping.end(z_s, output).dtype == torch.float32
    torch.testing.assert_close(mapping.end(z_s, output), mapping.end(z_s.float(), output.float()), rtol=0, atol=0)


@pytest.mark.parametrize("head", ["ddim_eps", "diff_eps"])
def test_an_epsilon_head_cannot_start_at_zero_signal(head):
    schedule = NoiseSchedule.of_diffusion(make_alphas_cumprod(make_betas(rescale_betas_zero_snr=True)))
    with pytest.raises(IncompatibleWeights, match="zero-terminal-SNR"):
        window_map(head, schedule.segment(1000, 750))
    assert bool(torch.isfinite(window_map("v_prediction", schedule.segment(1000, 750)).lam))


def test_the_old_name_of_diff_eps_warns_and_works():
    with pytest.warns(FutureWarning, match="diff_eps"):
        assert head_of("epsilon") == "diff_eps"


def test_an_unknown_head_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"ddim_eps, diff_eps, velocity.*'noise'"):
        head_of("noise")


def test_a_segment_runs_from_noise_to_data():
    with pytest.raises(ValueError, match="segment"):
        DIFFUSION.segment(250, 500)


def test_unknown_beta_schedules_are_refused():
    with pytest.raises(ValueError, match="beta_schedule"):
        make_betas(beta_schedule="wavy")
    with pytest.raises(ValueError, match="trained_betas"):
        make_betas(trained_betas=[0.1, 0.2])
