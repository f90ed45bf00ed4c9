"""Integer windows and grids, and the plan a person sees before anything runs."""

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.errors import InvalidRequest
from studio.perflow.guidance import CFG_SYNC
from studio.perflow.windows import TimeWindows, diffusion_index, make_plan, plan_of
from studio.types import Guidance

FOUR = TimeWindows(num_time_windows=4)
OFF = Guidance(scales=(1.0,))


@pytest.mark.parametrize(
    ("num_steps", "grid"),
    [
        (4, (1000, 750, 500, 250)),
        (5, (1000, 875, 750, 500, 250)),
        (6, (1000, 875, 750, 625, 500, 250)),
        (8, (1000, 875, 750, 625, 500, 375, 250, 125)),
        (10, (1000, 916, 833, 750, 666, 583, 500, 375, 250, 125)),
        (20, tuple(range(1000, 0, -50))),
        (1, (1000,)),
        (2, (1000, 500)),
        (3, (1000, 750, 500)),
    ],
)
def test_step_grid_of_four_windows(num_steps, grid):
    assert FOUR.step_grid(num_steps) == grid


@given(count=st.integers(1, 16), num_steps=st.integers(1, 32))
def test_every_grid_falls_from_noise_and_fills_windows_evenly(count, num_steps):
    windows = TimeWindows(num_time_windows=count)
    grid = windows.step_grid(num_steps)
    assert len(grid) == num_steps
    assert grid[0] == 1000
    assert list(grid) == sorted(set(grid), reverse=True)
    assert grid[-1] >= 1
    counts = [sum(windows.window_of(t) == window for t in grid) for window in range(count)]
    if num_steps >= count:
        assert counts == sorted(counts, reverse=True)
        assert max(counts) - min(counts) <= 1
        assert set(windows.edges[:-1]) <= set(grid)
    else:
        assert set(grid) <= set(windows.edges[:-1])


@pytest.mark.parametrize(
    ("timestep", "window"), [(1000, 0), (751, 0), (750, 1), (749, 1), (500, 2), (250, 3), (1, 3), (0, 3)]
)
def test_an_edge_belongs_to_the_window_that_starts_there(timestep, window):
    assert FOUR.window_of(timestep) == window


def test_a_float_that_means_an_edge_is_on_it():
    import torch

    fifth = float(torch.tensor(0.6) * 1000)  # 600.00002
    assert TimeWindows(num_time_windows=5).window_of(fifth) == 2
    assert FOUR.window_of(750.4) == 0


@pytest.mark.parametrize("count", range(1, 17))
def test_solver_ends_exactly_on_every_windows_edge(count):
    windows = TimeWindows(num_time_windows=count)
    for num_steps in range(1, 17):
        for window in range(count):
            start, end = windows.bounds(window)
            indices = windows.solver_indices(window, num_steps)
            assert len(indices) == num_steps + 1
            assert indices[0] == start - 1
            assert indices[-1] == max(end - 1, 0)
            assert all(a > b for a, b in pairwise(indices))


def test_solver_refuses_more_steps_than_timesteps():
    with pytest.raises(ValueError, match="num_steps"):
        TimeWindows(num_time_windows=500).solver_indices(499, 2)


def test_diffusion_index_is_one_below_and_never_negative():
    assert [diffusion_index(t) for t in (1000, 750, 500, 250, 1, 0)] == [999, 749, 499, 249, 0, 0]


def test_custom_edges_carry_the_grid():
    windows = TimeWindows(num_time_windows=2, custom_edges=(1000, 300, 0))
    assert windows.step_grid(4) == (1000, 650, 300, 150)
    assert windows.window_of(301) == 0
    assert windows.window_of(300) == 1


@pytest.mark.parametrize("edges", [(1000, 0), (1000, 500, 1), (900, 500, 0), (1000, 1000, 0), (1000, 0, 500)])
def test_impossible_edges_are_refused(edges):
    with pytest.raises(ValueError, match="custom_edges"):
        TimeWindows(num_time_windows=2, custom_edges=edges)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_impossible_window_counts_are_refused(count):
    with pytest.raises(ValueError, match="num_time_windows"):
        TimeWindows(num_time_windows=count)


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 4.0, True, None])
def test_impossible_step_counts_are_refused_by_name(num_steps):
    with pytest.raises(InvalidRequest) as caught:
        FOUR.step_grid(num_steps)
    assert caught.value.field == "steps"


def test_more_steps_than_a_narrow_window_holds_are_refused():
    with pytest.raises(InvalidRequest, match="steps"):
        TimeWindows(num_time_windows=2, custom_edges=(1000, 2, 0)).step_grid(8)


def test_plan_counts_calls_and_names_windows():
    plan = make_plan(FOUR, 6, CFG_SYNC)
    assert plan.windows == (0, 0, 1, 1, 2, 3)
    assert plan.guidance == (7.5, 7.5, 4.0, 4.0, 4.0, 4.0)
    assert plan.num_network_calls == 12
    assert plan.notes == ()


def test_plan_with_fewer_steps_than_windows_says_so():
    plan = make_plan(FOUR, 2, CFG_SYNC)
    assert plan.timesteps == (1000, 500)
    assert plan.guidance == (7.5, 4.0)
    assert len(plan.notes) == 2
    assert "2 steps for 4 time windows" in plan.notes[0]
    assert "window it starts in" in plan.notes[1]


def test_plan_of_a_baselines_timesteps_is_not_told_off():
    plan = plan_of(FOUR, [999, 500, 1], Guidance(scales=(3.0,)))
    assert plan.timesteps == (999, 500, 1)
    assert plan.windows == (0, 2, 3)
    assert plan.notes == ()


def test_plan_says_that_guidance_below_one_is_off():
    plan = make_plan(FOUR, 4, Guidance(scales=(0.5,)))
    assert plan.guidance == (1.0,) * 4
    assert plan.num_network_calls == 4
    assert "off" in plan.notes[0]


def test_windows_and_guidance_are_free_of_torch():
    code = "import sys, studio.perflow.windows; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
