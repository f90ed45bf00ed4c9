"""Rectified Diffusion, LCM, PCM, other heads and the solvers, against exact teachers and diffusers' own samplers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from studio.perflow import NoiseSchedule, TimeWindows, make_alphas_cumprod, make_betas, window_map
from tests.perflow.gauss import GaussTeacher
from trainer.consistency import Consistency, boundary
from trainer.objectives import PeRFlow, Solved, TimeDraw, diffusion_loss, start_scale
from trainer.probe import probe
from trainer.rectified import Rectified, mixture, pseudo_huber
from trainer.teacher import guided, one_below, predicted, solve, window_indices

SCHEDULE = NoiseSchedule.of_diffusion(make_alphas_cumprod(make_betas()))
GAUSS = GaussTeacher(schedule=SCHEDULE)
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def exact(z: torch.Tensor, index: torch.Tensor, condition: object) -> torch.Tensor:
    """The best noise prediction at diffusion indices `[B]`."""
    return torch.stack([GAUSS.eps(each, int(i) + 1) for each, i in zip(z, index, strict=True)]).float()


def exact_v(z: torch.Tensor, index: torch.Tensor, condition: object) -> torch.Tensor:
    """The same teacher, answering v = alpha eps - sigma z_0."""
    alpha, sigma = (table[index + 1].view(-1, 1, 1, 1) for table in (SCHEDULE.alphas, SCHEDULE.sigmas))
    eps = exact(z, index, condition).double()
    return (alpha * eps - sigma * (z - sigma * eps) / alpha).float()


LEVELS = torch.tensor([-1.2, -0.2, 1.0])


def three_levels(z: torch.Tensor, index: torch.Tensor, condition: object) -> torch.Tensor:
    """A teacher whose ODE bends: every value of the data is near one of three levels."""
    alpha, sigma = (table[index + 1].view(-1, 1, 1, 1, 1) for table in (SCHEDULE.alphas, SCHEDULE.sigmas))
    away, variance = z.double().unsqueeze(-1) - alpha * LEVELS, alpha**2 * 0.01 + sigma**2
    share = (-(away**2) / (2 * variance)).softmax(-1)
    return (share * sigma * away / variance).sum(-1).float()


def drawn(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean samples of the Gaussian data, and noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, count, 4, 2, 2, generator=generator)
    return GAUSS.mu + GAUSS.spread * noise[0], noise[1]


def solved(objective: PeRFlow, teacher=exact, count: int = 16) -> Solved:
    clean, noise = drawn(count)
    window = torch.arange(count) % objective.windows.num_time_windows
    return objective.solve(teacher, clean, noise, window, None)


# --- Rectified Diffusion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_windows", [1, 3, 4, 16])
def test_the_rectified_target_is_perflows(num_windows: int) -> None:
    windows = TimeWindows(num_time_windows=num_windows)
    pairs = solved(PeRFlow(schedule=SCHEDULE, windows=windows, num_solver_steps=4))
    edges = torch.tensor(windows.edges)
    part = SCHEDULE.segment(edges[pairs.window], edges[pairs.window + 1])
    clean, noise = mixture(part, pairs.z_s, pairs.z_e)
    target = window_map("ddim_eps", part).target(pairs.z_s, pairs.z_e)
    assert torch.allclose(noise, target, atol=2e-5)
    objective = Rectified(schedule=SCHEDULE, windows=windows)
    assert torch.allclose(objective.point(pairs, edges[pairs.window]), pairs.z_s, atol=1e-5)
    middle = (edges[pairs.window] + edges[pairs.window + 1]) // 2
    z_t, alpha, sigma = objective.point(pairs, middle), SCHEDULE.alphas[middle], SCHEDULE.sigmas[middle]
    shape = (-1, 1, 1, 1)
    line = clean + (sigma / alpha).float().view(shape) * noise  # z / alpha is straight over sigma / alpha
    assert torch.allclose(z_t / alpha.float().view(shape), line, atol=1e-4)


@pytest.mark.parametrize("head", ["ddim_eps", "v_prediction"])
def test_a_perfect_rectified_student_has_no_loss_and_lands_on_the_end(head) -> None:
    objective = Rectified(schedule=SCHEDULE, windows=TimeWindows(num_time_windows=4), head=head)
    pairs = solved(objective)
    edges = torch.tensor(objective.windows.edges)
    clean, noise = mixture(SCHEDULE.segment(edges[pairs.window], edges[pairs.window + 1]), pairs.z_s, pairs.z_e)
    asked: list[torch.Tensor] = []

    def oracle(z: torch.Tensor, index: torch.Tensor, condition: object) -> torch.Tensor:
        asked.append(index)
        alpha, sigma = (table[index + 1].float().view(-1, 1, 1, 1) for table in (SCHEDULE.alphas, SCHEDULE.sigmas))
        return noise if head == "ddim_eps" else alpha * noise - sigma * clean

    assert float(objective.loss(oracle, pairs, torch.Generator().manual_seed(0))) < 1e-6
    assert float(objective.endpoint_errors(oracle, pairs).max()) < 1e-4
    assert asked[1].tolist() == [999, 749, 499, 249] * 4  # where DDIM with trailing steps asks


def test_an_untrained_rectified_student_is_ddim_over_the_window() -> None:
    objective = Rectified(schedule=SCHEDULE, windows=TimeWindows(num_time_windows=4))
    pairs = solved(objective)
    perflow = PeRFlow(schedule=SCHEDULE, windows=objective.windows)
    assert torch.equal(objective.endpoint_errors(exact, pairs), perflow.endpoint_errors(one_below(exact), pairs))


def test_pseudo_huber_is_square_near_zero_and_absolute_far_away() -> None:
    assert float(pseudo_huber(torch.tensor([1e-5]))) == pytest.approx(1e-10 / 2e-3, rel=0.01)
    assert float(pseudo_huber(torch.tensor([3.0, -1.0]))) == pytest.approx(2.0, abs=2e-3)


# --- LCM and PCM --------------------------------------------------------------------------------------------------


def consistency(phased: bool, head="ddim_eps", num_windows: int = 4, **more) -> Consistency:
    windows = TimeWindows(num_time_windows=num_windows)
    return Consistency(schedule=SCHEDULE, windows=windows, phased=phased, head=head, **more)


def test_grids_end_exactly_at_their_edges() -> None:
    lcm = consistency(False).grid
    assert lcm.shape == (1, 51)
    assert (lcm[0, 0], lcm[0, 1], lcm[0, -2], lcm[0, -1]) == (999, 979, 19, 0)
    for count in range(1, 17):
        windows = TimeWindows(num_time_windows=count)
        grid = consistency(True, num_windows=count).grid
        assert grid[:, 0].tolist() == [edge - 1 for edge in windows.edges[:-1]]
        assert grid[:, -1].tolist() == [max(edge - 1, 0) for edge in windows.edges[1:]]


@pytest.mark.parametrize(("head", "prediction_type"), [("ddim_eps", "epsilon"), ("v_prediction", "v_prediction")])
def test_the_jump_is_what_the_published_samplers_do(head, prediction_type) -> None:
    z, answer = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    lcm = LCMScheduler(**STABLE_DIFFUSION, prediction_type=prediction_type)
    lcm.set_timesteps(4)
    ddim = DDIMScheduler(**STABLE_DIFFUSION, prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False,
                         timestep_spacing="trailing")  # fmt: skip
    ddim.set_timesteps(4)
    edge = torch.tensor([0])
    for timestep in lcm.timesteps:
        ours = consistency(False, head).jump(lambda *_: answer, z, timestep[None], edge, None)
        theirs = lcm.step(answer, timestep, z, generator=torch.Generator().manual_seed(0)).denoised
        assert torch.allclose(ours, theirs, atol=1e-5)
    for window, timestep in enumerate(ddim.timesteps):
        edge = consistency(True, head).grid[window, -1:]
        ours = consistency(True, head).jump(lambda *_: answer, z, timestep[None], edge, None)
        assert torch.allclose(ours, ddim.step(answer, timestep, z).prev_sample, atol=1e-5)


@pytest.mark.parametrize("phased", [False, True])
def test_at_its_end_the_jump_is_the_identity_whatever_the_network_says(phased: bool) -> None:
    z = torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    objective = consistency(phased)
    edge = objective.grid[:, -1].expand(4) if not phased else objective.grid[:, -1]
    assert torch.allclose(objective.jump(lambda *_: 7 * torch.ones_like(z), z, edge, edge, None), z, atol=2e-5)
    skip, out = boundary(torch.tensor([0, 999]))
    assert (float(skip[0]), float(out[0])) == (1, 0)
    assert float(out[1]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("phased", [False, True])
def test_a_student_that_jumps_along_the_true_flow_is_consistent(phased: bool) -> None:
    """No loss where the teacher's step is exact, and it lands on the window's end (LCM: on the data's)."""
    objective = consistency(phased)
    edges = objective.grid[:, -1]

    def perfect(z: torch.Tensor, index: torch.Tensor, condition: object) -> torch.Tensor:
        return torch.stack([_answer(each, int(i)) for each, i in zip(z, index, strict=True)]).float()

    def _answer(z: torch.Tensor, index: int) -> torch.Tensor:
        """The noise prediction whose jump is the flow's exact end."""
        if index == 0:
            return GAUSS.eps(z.double(), 1)
        edge = int(edges[edges < index].max())  # on an edge it answers for the next window: the jump there is none
        end = GAUSS.flow(z.double(), index + 1, edge + 1)
        alpha, sigma = SCHEDULE.alphas[index + 1], SCHEDULE.sigmas[index + 1]
        if phased:
            return window_map("ddim_eps", SCHEDULE.segment(index + 1, edge + 1)).target(z.double(), end)
        skip, out = (float(part) for part in boundary(torch.tensor([index])))
        return (z.double() - alpha * (end - skip * z.double()) / out) / sigma

    clean, _ = drawn(64)
    part = objective.stretch(exact, lambda c: c, clean, None, torch.Generator().manual_seed(1))
    steps = zip(part.z_here, part.here.tolist(), part.there.tolist(), strict=True)
    z_there = torch.stack([GAUSS.flow(z.double(), here + 1, there + 1).float() for z, here, there in steps])
    assert torch.allclose(part.z_there, z_there, atol=0.15)
    part = replace(part, z_there=z_there)
    assert float(objective.loss(perfect, part)) < 1e-5
    assert float(objective.loss(exact, part)) > 1e-4
    window = torch.arange(64) % 4
    truth = objective.solve(exact, *drawn(64), window, None, 48)
    assert float(objective.endpoint_errors(perfect, truth).max()) < 0.1
    assert (objective.endpoint_errors(perfect, truth) < 0.5 * objective.direct_errors(exact, truth)).all()


def test_the_teachers_step_has_the_drawn_guidance_and_the_target_no_gradient() -> None:
    def network(z: torch.Tensor, index: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return condition.view(-1, 1, 1, 1) * torch.ones_like(z)

    objective = consistency(True, guidance=(5.0, 15.0))
    clean, _ = drawn(200)
    part = objective.stretch(network, torch.zeros_like, clean, torch.ones(200), torch.Generator().manual_seed(0))
    step = window_map("ddim_eps", SCHEDULE.segment(part.here + 1, part.there + 1))
    scales = step.target(part.z_here, part.z_there).flatten(1).mean(1)
    assert float(scales.min()) >= 5 - 1e-2
    assert float(scales.max()) <= 15 + 1e-2
    assert float(scales.mean()) == pytest.approx(10, abs=0.8)
    weight = torch.ones((), requires_grad=True)
    calls: list[bool] = []

    def student(z: torch.Tensor, index: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return weight * z

    objective.loss(student, part).backward()
    assert calls == [False, True]
    assert weight.grad is not None


def test_guidance_may_differ_from_sample_to_sample() -> None:
    network = guided(lambda z, t, c: z * c, lambda c: 0 * c, torch.tensor([1.0, 3.0]))
    assert network(torch.ones(2, 1, 1, 1), torch.zeros(2), torch.tensor([[[[2.0]]]])).flatten().tolist() == [2, 6]


# --- a student that can learn: one affine answer a window ----------------------------------------------------------


class Affine(torch.nn.Module):
    """The exact teacher plus a correction a z + b for each window."""

    def __init__(self, windows: TimeWindows, offset: int) -> None:
        super().__init__()
        self.windows, self.offset = windows, offset
        self.gain = torch.nn.Parameter(torch.zeros(windows.num_time_windows, 2))

    def forward(self, z: torch.Tensor, timesteps: torch.Tensor, condition: object) -> torch.Tensor:
        index = timesteps - 1 - self.offset
        gain = self.gain[[self.windows.window_of(max(int(i) + 1, 1)) for i in index]]
        return exact(z, index, condition) + gain[:, :1, None, None] * z + gain[:, 1:, None, None]


@pytest.mark.parametrize("kind", [PeRFlow, Rectified])
@pytest.mark.parametrize("num_windows", [1, 4])
def test_training_lowers_the_error_at_the_windows_ends(kind, num_windows: int) -> None:
    windows = TimeWindows(num_time_windows=num_windows)
    objective = kind(schedule=SCHEDULE, windows=windows, num_solver_steps=16, times=TimeDraw(at_start=1, at_grid=0))
    student = Affine(windows, objective.index_offset)
    pairs, optimizer = solved(objective), torch.optim.Adam(student.parameters(), lr=0.02)
    before = objective.endpoint_errors(student, pairs)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 60)
        optimizer.zero_grad()
        objective.loss(student, pairs, torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    assert (objective.endpoint_errors(student, pairs) < 0.6 * before).all()


# --- heads of another kind ----------------------------------------------------------------------------------------


def test_a_student_of_another_head_starts_at_the_least_squares_scale() -> None:
    windows = TimeWindows(num_time_windows=4)
    scale = start_scale("ddim_eps", "diff_eps", SCHEDULE, windows)
    assert scale == pytest.approx((0.751 + 0.658 + 0.632 + 0.959) / 4, abs=1e-3)  # METHOD section 4
    assert start_scale("v_prediction", "v_prediction", SCHEDULE, windows) == 1
    assert 0.69 < start_scale("v_prediction", "velocity", SCHEDULE, windows) < 2.31  # the range of phi'(t)


def test_under_diff_eps_the_scaled_start_is_far_better_than_the_bare_one() -> None:
    objective = PeRFlow(schedule=SCHEDULE, windows=TimeWindows(num_time_windows=4), head="diff_eps")
    pairs = solved(objective)
    scale = start_scale("ddim_eps", "diff_eps", SCHEDULE, objective.windows)
    bare = objective.endpoint_errors(one_below(exact), pairs)
    scaled = objective.endpoint_errors(lambda z, t, c: scale * exact(z, t - 1, c), pairs)
    assert (scaled[:3] < 0.6 * bare[:3]).all()
    assert float(scaled.square().mean()) < 0.25 * float(bare.square().mean())


def test_min_snr_weighs_an_epsilon_and_a_v_answer_of_one_denoiser_alike() -> None:
    clean, noise = drawn(50)
    timesteps = torch.arange(1, 1001, 20)
    losses = [
        float(diffusion_loss(network, SCHEDULE, clean, noise, timesteps, None, head=head))
        for network, head in ((exact, "ddim_eps"), (exact_v, "v_prediction"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    plain = float(diffusion_loss(exact_v, SCHEDULE, clean, noise, timesteps, None, None, "v_prediction"))
    assert plain != pytest.approx(losses[1], rel=0.05)


# --- solvers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
def test_a_teacher_that_answers_v_walks_the_same_way(solver) -> None:
    objective = PeRFlow(schedule=SCHEDULE, windows=TimeWindows(num_time_windows=4), solver=solver)
    by_noise = solved(objective)
    by_v = solved(replace(objective, teacher_head="v_prediction"), exact_v)
    assert torch.allclose(by_noise.z_e, by_v.z_e, atol=1e-4)


def test_predicted_reads_both_heads_alike() -> None:
    clean, noise = drawn(3)
    timesteps = torch.tensor([1000, 400, 1])
    z = SCHEDULE.add_noise(clean, noise, timesteps)
    alpha, sigma = (table[timesteps].float().view(-1, 1, 1, 1) for table in (SCHEDULE.alphas, SCHEDULE.sigmas))
    for head, answer in (("ddim_eps", noise), ("v_prediction", alpha * noise - sigma * clean)):
        got = predicted(head, SCHEDULE, z, answer, timesteps)
        assert torch.allclose(got[0], clean, atol=1e-4)
        assert torch.allclose(got[1], noise, atol=1e-5)
    with pytest.raises(ValueError, match="expected ddim_eps or v_prediction"):
        predicted("velocity", SCHEDULE, z, noise, timesteps)


def test_second_order_beats_first_in_every_window_of_a_bent_flow() -> None:
    """Without the limit on how much longer a step may be, the last window would end three times as far off as DDIM."""
    generator = torch.Generator().manual_seed(0)
    clean = LEVELS[torch.randint(3, (64, 4, 4, 4), generator=generator)]
    noise, window = torch.randn(clean.shape, generator=generator), torch.arange(64) % 4
    found = probe(three_levels, PeRFlow(schedule=SCHEDULE, windows=TimeWindows()), clean, noise, window, None)
    assert found.solvers == ("dpmpp",) * 4
    assert all(two < 0.25 * one for one, two in zip(found.ddim[:3], found.dpmpp[:3], strict=True))
    assert "error at the window's end with 8 steps" in found.words


def test_each_window_can_have_its_own_solver() -> None:
    windows, window = TimeWindows(num_time_windows=4), torch.arange(4)
    z_s = torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    indices = window_indices(windows, window, 4)
    each = {name: solve(exact, SCHEDULE, z_s, indices, None, name) for name in ("ddim", "dpmpp")}
    mixed = solve(exact, SCHEDULE, z_s, indices, None, ["dpmpp", "ddim", "dpmpp", "ddim"])
    for place, name in enumerate(["dpmpp", "ddim", "dpmpp", "ddim"]):
        assert torch.allclose(mixed[place], each[name][place], atol=1e-5)
    assert not torch.allclose(each["ddim"], each["dpmpp"], atol=1e-3)
