"""`PeRFlowScheduler` against the published sampler, DDIM, v-DDIM and Euler, and its manners in diffusers."""

from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from studio.errors import IncompatibleWeights, InvalidRequest
from studio.perflow import HEADS, PeRFlowScheduler
from tests.perflow.gauss import GaussTeacher
from tests.perflow.published import published_trajectory

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def noise(*shape, seed=0):
    return torch.randn(*(shape or (2, 4, 8, 8)), generator=torch.Generator().manual_seed(seed))


def trajectory(scheduler, network, z):
    """Every latent a scheduler walks through, the start excluded."""
    path = []
    for timestep in scheduler.timesteps:
        z = scheduler.step(network(z, int(timestep)), timestep, z).prev_sample
        path.append(z)
    return path


def eps_network(scheduler):
    """The exact denoiser of a Gaussian, bent a little so that it is not linear."""
    teacher = GaussTeacher(schedule=scheduler.schedule)
    return lambda z, timestep: teacher.eps(z, timestep) + 0.1 * torch.sin(z + timestep / 300)


# --- parity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("head", ["ddim_eps", "diff_eps", "velocity"])
def test_equals_the_published_trajectories(head, count):
    scheduler = PeRFlowScheduler(prediction_type=head, num_time_windows=count)
    eps = eps_network(scheduler)
    network = (lambda z, timestep: 0.3 * z - eps(z, timestep)) if head == "velocity" else eps
    for num_steps in range(count, 33):
        scheduler.set_timesteps(num_steps)
        ours = trajectory(scheduler, network, noise(1, 4, 4, 4))
        grid = scheduler.timesteps.tolist()
        theirs = published_trajectory(
            head, network, noise(1, 4, 4, 4).double(), grid, scheduler.alphas_cumprod.double(), count
        )
        for mine, reference in zip(ours, theirs, strict=True):
            scale = max(1.0, float(reference.abs().max()))
            assert float((mine - reference).abs().max()) < 1e-4 * scale


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
def test_untrained_ddim_eps_equals_ddim(count):
    """At N = K, up to the +1 in the network's timestep: asked at t * T where DDIM asks at t * T - 1."""
    ddim = DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
    perflow = PeRFlowScheduler.from_config(ddim.config, prediction_type="ddim_eps", num_time_windows=count)
    perflow.set_timesteps(count)
    ddim.set_timesteps(count)
    assert (perflow.timesteps - 1).tolist() == ddim.timesteps.tolist()
    network = eps_network(perflow)
    ours = trajectory(perflow, network, noise())
    theirs = trajectory(ddim, lambda z, timestep: network(z, timestep + 1), noise())
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_ddim_eps_step_over_several_windows_is_a_ddim_jump(num_steps):
    ddim = DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
    perflow = PeRFlowScheduler.from_config(ddim.config, prediction_type="ddim_eps", num_time_windows=4)
    perflow.set_timesteps(num_steps)
    ddim.set_timesteps(num_steps)
    network = eps_network(perflow)
    theirs = trajectory(ddim, lambda z, timestep: network(z, timestep + 1), noise())
    for mine, reference in zip(trajectory(perflow, network, noise()), theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


def test_native_v_equals_v_ddim():
    ddim = DDIMScheduler(
        **SD,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    perflow = PeRFlowScheduler.from_config(ddim.config, num_time_windows=4)
    assert perflow.head == "v_prediction"
    assert float(perflow.alphas_cumprod[-1]) == 0.0
    perflow.set_timesteps(4)
    ddim.set_timesteps(4)
    ours = trajectory(perflow, lambda z, timestep: torch.sin(z + timestep), noise())
    theirs = trajectory(ddim, lambda z, timestep: torch.sin(z + timestep + 1), noise())
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 3, 4, 7])
def test_flow_head_equals_euler(num_steps):
    perflow = PeRFlowScheduler.from_config(FlowMatchEulerDiscreteScheduler().config, prediction_type="flow")
    perflow.set_timesteps(num_steps)
    z = expected = noise()
    for here, there in pairwise((*perflow.timesteps.tolist(), 0)):
        expected = expected + (there - here) / 1000 * torch.sin(expected + here)
    torch.testing.assert_close(trajectory(perflow, lambda z, t: torch.sin(z + t), z)[-1], expected)


@pytest.mark.parametrize("num_steps", [4, 5, 8, 20])
@pytest.mark.parametrize("head", ["ddim_eps", "diff_eps", "velocity", "v_prediction", "sample"])
def test_a_perfect_student_lands_on_the_teachers_window_ends(head, num_steps):
    """Asked anywhere on a window's line, it answers what leads to the exact ODE's window end."""
    scheduler = PeRFlowScheduler(prediction_type=head)
    scheduler.set_timesteps(num_steps)
    teacher = GaussTeacher(schedule=scheduler.schedule)
    start = noise().double()
    ends = {edge: teacher.flow(start, 1000, edge) for edge in scheduler.windows.edges}

    def student(z, timestep):
        s, e = scheduler.windows.bounds(scheduler.windows.window_of(timestep))
        return scheduler._stride(timestep, e).map.target(ends[s], ends[e])

    path = trajectory(scheduler, student, start)
    for there, z in zip([*scheduler.timesteps.tolist()[1:], 0], path, strict=True):
        if there in ends:
            torch.testing.assert_close(z, ends[there], rtol=1e-5, atol=1e-5)


# --- what stands on the output ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_pred_original_sample_is_filled_and_right_at_the_window_start(head):
    scheduler = PeRFlowScheduler(prediction_type=head)
    scheduler.set_timesteps(4)
    z_0, eps = noise(seed=1), noise(seed=2)
    z = scheduler.add_noise(z_0, eps, scheduler.timesteps[:1])
    (start, end), schedule = scheduler.windows.bounds(0), scheduler.schedule
    z_e = schedule.add_noise(z_0, eps, end)
    answer = scheduler._stride(start, end).map.target(z, z_e)
    output = scheduler.step(answer, scheduler.timesteps[0], z)
    torch.testing.assert_close(output.prev_sample, z_e, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.pred_original_sample, z_0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_answers_in_the_samples_dtype_and_computes_in_fp32(dtype):
    scheduler = PeRFlowScheduler()
    scheduler.set_timesteps(4)
    z, output = noise(seed=1).to(dtype), noise(seed=2).to(dtype)
    mine = scheduler.step(output, 1000, z)
    scheduler.set_timesteps(4)
    precise = scheduler.step(output.double(), 1000, z.double())
    assert mine.prev_sample.dtype == mine.pred_original_sample.dtype == dtype
    torch.testing.assert_close(mine.prev_sample, precise.prev_sample.to(dtype))


def test_video_latents_broadcast():
    scheduler = PeRFlowScheduler()
    scheduler.set_timesteps(5)
    video, output = noise(1, 4, 3, 8, 8, seed=1), noise(1, 4, 3, 8, 8, seed=2)
    whole = scheduler.step(output, scheduler.timesteps[0], video).prev_sample
    scheduler.set_timesteps(5)
    frame = scheduler.step(output[:, :, 1], scheduler.timesteps[0], video[:, :, 1]).prev_sample
    torch.testing.assert_close(whole[:, :, 1], frame)


def test_tuple_output_begins_with_the_next_sample():
    scheduler = PeRFlowScheduler()
    scheduler.set_timesteps(4)
    as_dict = scheduler.step(noise(), 1000, noise(seed=1))
    scheduler.set_timesteps(4)
    as_tuple = scheduler.step(noise(), 1000, noise(seed=1), return_dict=False)
    torch.testing.assert_close(as_tuple[0], as_dict.prev_sample)


# --- time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [int, float, torch.tensor, lambda t: torch.tensor([t]), lambda t: torch.tensor(float(t))]
)
def test_int_float_and_tensor_timesteps_mean_the_same(kind):
    scheduler = PeRFlowScheduler()
    scheduler.set_timesteps(6)
    z = z_kind = noise()
    for timestep in scheduler.timesteps.tolist():
        z = scheduler.step(torch.sin(z), timestep, z).prev_sample
    scheduler.set_timesteps(6)
    for timestep in scheduler.timesteps.tolist():
        z_kind = scheduler.step(torch.sin(z_kind), kind(timestep), z_kind).prev_sample
    torch.testing.assert_close(z_kind, z, rtol=0, atol=0)


def test_image_to_image_starts_at_the_begin_index_or_at_its_first_timestep():
    scheduler = PeRFlowScheduler()
    results = []
    for begin in (2, None):
        scheduler.set_timesteps(4)
        if begin is not None:
            scheduler.set_begin_index(begin)
        z = noise()
        for timestep in scheduler.timesteps[2:]:
            z = scheduler.step(torch.sin(z), timestep, z).prev_sample
        assert scheduler.step_index == 4
        results.append(z)
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_custom_timesteps_may_cross_windows():
    scheduler = PeRFlowScheduler()
    scheduler.set_timesteps(timesteps=[900, 400, 50])
    assert scheduler.timesteps.tolist() == [900, 400, 50]
    assert [(round(s.t * 1000), round(s.t_next * 1000)) for s in scheduler._strides] == [(900, 400), (400, 50), (50, 0)]
    assert float(scheduler._strides[0].map.segment.s) == 0.9
    assert float(scheduler._strides[2].map.segment.s) == 0.25
    for timestep in scheduler.timesteps:
        assert bool(scheduler.step(noise(), timestep, noise()).prev_sample.isfinite().all())


@pytest.mark.parametrize("timesteps", [[], [500, 500], [200, 400], [1001, 5], [500, 0]])
def test_timesteps_that_do_not_fall_are_refused(timesteps):
    with pytest.raises(ValueError, match="timesteps"):
        PeRFlowScheduler().set_timesteps(timesteps=timesteps)


def test_a_step_too_many_says_what_to_do():
    scheduler = PeRFlowScheduler()
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(noise(), 1000, noise())
    scheduler.set_timesteps(1)
    scheduler.step(noise(), 1000, noise())
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(noise(), 1000, noise())


def test_zero_steps_are_refused():
    with pytest.raises(InvalidRequest, match="steps"):
        PeRFlowScheduler().set_timesteps(0)
    with pytest.raises(ValueError, match="neither"):
        PeRFlowScheduler().set_timesteps()


def test_add_noise_reads_one_index_below_the_timestep():
    scheduler, clean, eps = PeRFlowScheduler(), noise(seed=1), noise(seed=2)
    reference = DDIMScheduler(**SD)
    mixed = torch.tensor([1000, 250])
    torch.testing.assert_close(scheduler.add_noise(clean, eps, mixed), reference.add_noise(clean, eps, mixed - 1))
    half = scheduler.add_noise(clean.half(), eps.half(), torch.tensor([750]))
    assert half.dtype == torch.float16


# --- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_from_config_keeps_the_bases_schedule_and_gives_it_back(base):
    betas = torch.linspace(0.001, 0.02, 1000).tolist()
    original = base(trained_betas=betas, timestep_spacing="trailing")
    perflow = PeRFlowScheduler.from_config(original.config, prediction_type="ddim_eps", num_time_windows=5)
    torch.testing.assert_close(perflow.alphas_cumprod, DDIMScheduler(trained_betas=betas).alphas_cumprod)
    assert perflow.config.num_time_windows == 5
    back = base.from_config(perflow.config, prediction_type="epsilon")
    assert back.config.timestep_spacing == "trailing"
    assert back.config.trained_betas == betas


def test_zero_snr_and_alpha_to_one_survive_from_config():
    original = DDIMScheduler(**SD, set_alpha_to_one=True, rescale_betas_zero_snr=True)
    perflow = PeRFlowScheduler.from_config(original.config, prediction_type="v_prediction")
    torch.testing.assert_close(perflow.alphas_cumprod, original.alphas_cumprod)
    assert float(perflow.schedule.alphas[0]) == 1.0
    assert float(PeRFlowScheduler(**SD).schedule.alphas[0]) < 1.0


def test_an_epsilon_head_on_a_zero_snr_base_is_refused_at_once():
    with pytest.raises(IncompatibleWeights, match="zero-terminal-SNR"):
        PeRFlowScheduler(rescale_betas_zero_snr=True, prediction_type="ddim_eps")


def test_the_published_config_loads_with_a_warning(tmp_path):
    published = {"_class_name": "PeRFlowScheduler", **SD, "prediction_type": "epsilon", "t_noise": 1, "t_clean": 0}
    with pytest.warns(FutureWarning, match="old name"):
        scheduler = PeRFlowScheduler.from_config({**published, "num_time_windows": 4})
    assert scheduler.head == "diff_eps"


def test_other_time_ranges_are_refused():
    with pytest.raises(ValueError, match="custom_edges"):
        PeRFlowScheduler(t_clean=0.1)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    scheduler = PeRFlowScheduler(prediction_type="diff_eps", num_time_windows=2, custom_edges=[1000, 400, 0])
    scheduler.save_pretrained(tmp_path)
    loaded = PeRFlowScheduler.from_pretrained(tmp_path)
    scheduler.set_timesteps(6)
    loaded.set_timesteps(6)
    assert loaded.timesteps.tolist() == scheduler.timesteps.tolist() == [1000, 800, 600, 400, 266, 133]
    network = eps_network(scheduler)
    torch.testing.assert_close(trajectory(loaded, network, noise())[-1], trajectory(scheduler, network, noise())[-1])


def test_has_a_diffusers_schedulers_manners():
    scheduler = PeRFlowScheduler()
    assert (scheduler.order, scheduler.init_noise_sigma, len(scheduler)) == (1, 1.0, 1000)
    z = noise()
    assert scheduler.scale_model_input(z, 1000) is z
    assert DDIMScheduler in scheduler.compatibles
