"""Where the network is asked: time windows with integer edges, and the grids of steps and of teacher points in them.

Direction of time: timestep T (1000) is noise, 0 is data; window 0 lies at the noise end. A timestep exactly on an edge
belongs to the window that starts there. Edges and grids are integers throughout: in floats K = 4, N = 20 comes out one
timestep off. Paper: arXiv 2405.07510, section 3.4.

| here | paper |
|---|---|
| `edges[k]`, `edges[k + 1]` | T * t_k, T * t_{k-1}: a window's start and end |
| timestep, diffusion index = timestep - 1 | t * T, i(t) |

This module knows no torch, no noise level and no head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from studio.errors import InvalidRequest
from studio.perflow.guidance import num_network_calls, scales_per_step
from studio.types import Guidance, StepPlan

# A float that stands for an integer timestep (0.6f * 1000 = 600.00002) still counts as on the edge.
_EDGE_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class TimeWindows:
    """K windows over T timesteps, uniform unless `custom_edges` (K + 1 integers, falling from T to 0) are given."""

    num_time_windows: int = 4
    num_train_timesteps: int = 1000
    custom_edges: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        count, total = self.num_time_windows, self.num_train_timesteps
        if not 1 <= count <= total:
            raise ValueError(f"num_time_windows: expected 1 to {total} (one per training timestep), got {count}.")
        edges = self.edges
        if len(edges) != count + 1 or edges[0] != total or edges[-1] != 0 or not _is_falling(edges):
            raise ValueError(f"custom_edges: expected {count + 1} integers falling from {total} to 0, got {edges}.")

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """The K + 1 edges, noise end first: K = 4 has 1000, 750, 500, 250, 0."""
        if self.custom_edges is not None:
            return tuple(self.custom_edges)
        return _divide(self.num_train_timesteps, 0, self.num_time_windows)

    def bounds(self, window: int) -> tuple[int, int]:
        """A window's start (noisier) and end timestep."""
        if not 0 <= window < self.num_time_windows:
            raise ValueError(f"window: expected 0 to {self.num_time_windows - 1}, got {window}.")
        return self.edges[window], self.edges[window + 1]

    def window_of(self, timestep: float) -> int:
        """The window a timestep in [0, T] belongs to; 0, where no window starts, counts to the last one."""
        if not 0 <= timestep <= self.num_train_timesteps:
            raise ValueError(f"timestep: expected 0 to {self.num_train_timesteps}, got {timestep}.")
        return sum(timestep - _EDGE_TOLERANCE <= edge for edge in self.edges[1:-1])

    def step_grid(self, num_steps: int) -> tuple[int, ...]:
        """The timesteps at which `num_steps` steps start (section 3.4): K = 4, N = 5 is 1000, 875, 750, 500, 250.

        Every window gets N // K steps and the N % K noisiest one more, evenly spaced from the window's start. With
        N < K a step spans several windows, the noisiest steps the fewest: K = 4, N = 2 is 1000, 500; N = 3 is
        1000, 750, 500.
        """
        self._check_steps(num_steps)
        count = self.num_time_windows
        if num_steps < count:
            return tuple(self.edges[step * count // num_steps] for step in range(num_steps))
        each, rest = divmod(num_steps, count)
        grid: list[int] = []
        for window in range(count):
            grid.extend(_divide(*self.bounds(window), each + (window < rest))[:-1])
        if not _is_falling(grid):
            raise InvalidRequest("steps", f"fewer steps than timesteps in each window ({self.edges})", num_steps)
        return tuple(grid)

    def solver_indices(self, window: int, num_steps: int) -> tuple[int, ...]:
        """The num_steps + 1 diffusion indices a teacher visits from a window's start to exactly its end.

        K = 4, window 0, 2 steps: 999, 874, 749. The last window ends at index 0 (METHOD section 1).
        """
        indices = tuple(diffusion_index(point) for point in _divide(*self.bounds(window), num_steps))
        if not _is_falling(indices):
            raise ValueError(f"num_steps: expected fewer solver steps than the window has timesteps, got {num_steps}.")
        return indices

    def _check_steps(self, num_steps: int) -> None:
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= self.edges[0]:
            raise InvalidRequest("steps", f"a whole number from 1 to {self.edges[0]}", num_steps)


def diffusion_index(timestep: float) -> int:
    """i(t) = t * T - 1, clamped at 0: the place of a timestep in `alphas_cumprod`."""
    return max(int(timestep + _EDGE_TOLERANCE) - 1, 0)


def make_plan(windows: TimeWindows, num_steps: int, guidance: Guidance) -> StepPlan:
    """The effective grid of a PeRFlow generation, with a sentence for each thing that differs from what was asked."""
    plan = plan_of(windows, windows.step_grid(num_steps), guidance)
    if num_steps >= windows.num_time_windows:
        return plan
    return replace(plan, notes=(*_span_notes(plan, guidance), *plan.notes))


def plan_of(windows: TimeWindows, timesteps: Sequence[int], guidance: Guidance) -> StepPlan:
    """The plan of any falling list of timesteps, such as a baseline sampler's; `windows` only colour it then."""
    step_windows = tuple(windows.window_of(timestep) for timestep in timesteps)
    scales = scales_per_step(guidance, step_windows=step_windows, num_time_windows=windows.num_time_windows)
    off = any(scale < 1 for scale in guidance.scales)
    return StepPlan(
        num_time_windows=windows.num_time_windows,
        timesteps=tuple(int(timestep) for timestep in timesteps),
        windows=step_windows,
        guidance=scales,
        num_network_calls=num_network_calls(scales),
        notes=("A guidance below 1 means off, the same as 1.",) if off else (),
    )


def begun_at(plan: StepPlan, first: int) -> StepPlan:
    """The rest of a plan from its step `first` (0-based) on, where an initial image stands for the steps before."""
    if first == 0:
        return plan
    scales, num_steps = plan.guidance[first:], len(plan.timesteps)
    start = plan.timesteps[first]
    note = (
        f"Begins from the initial picture with the noise of timestep {start}: the last {len(scales)} of {num_steps} "
        f"steps run."
    )
    return replace(
        plan,
        timesteps=plan.timesteps[first:],
        windows=plan.windows[first:],
        guidance=scales,
        num_network_calls=num_network_calls(scales),
        notes=(*plan.notes, note),
    )


def _span_notes(plan: StepPlan, guidance: Guidance) -> list[str]:
    """What fewer steps than windows means for the person who asked for them."""
    num_steps, count = len(plan.timesteps), plan.num_time_windows
    notes = [
        f"{num_steps} {'step' if num_steps == 1 else 'steps'} for {count} time windows: a step spans several windows, "
        f"which costs quality; {count} steps or more give each window its own."
    ]
    if guidance.per == "window" and len(set(guidance.scales)) > 1:
        notes.append("Each step uses the guidance of the window it starts in; the other windows' scales are unused.")
    return notes


def _divide(start: int, end: int, parts: int) -> tuple[int, ...]:
    """`parts` + 1 whole numbers from start to end, as even as whole numbers can be (rounded down)."""
    if parts < 1:
        raise ValueError(f"parts: expected at least 1, got {parts}.")
    return tuple((start * (parts - part) + end * part) // parts for part in range(parts + 1))


def _is_falling(values: Sequence[int]) -> bool:
    return all(earlier > later for earlier, later in pairwise(values))
