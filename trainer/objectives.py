"""What a student learns: segment -> teacher -> path -> head -> target -> distance, each a small pure piece.

Direction of time: t = 1 is noise, timestep = 1000 t. Shapes: z `[B, C, H, W]`, times and windows `[B]`. Paper: PeRFlow,
arXiv 2405.07510, algorithm 1; the ordinary diffusion loss is DDPM's (arXiv 2006.11239) with min-SNR weights
(arXiv 2303.09556). Knows nothing of data sets, optimizers or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from studio.perflow.prediction import Head, window_map
from studio.perflow.schedule import NoiseSchedule, broadcast
from studio.perflow.windows import TimeWindows
from trainer.teacher import Network, Solver, solve, window_indices


@dataclass(frozen=True, kw_only=True)
class TimeDraw:
    """How t is drawn inside a window: a mixture of atoms and the paper's uniform rest.

    `at_start` is the share drawn exactly at the window's start, where the network is asked when N = K; `at_grid` the
    share at the points that grids of `grid_steps` steps visit; what is left is uniform on the window's timesteps.
    """

    at_start: float = 0.5
    at_grid: float = 0.25
    grid_steps: tuple[int, ...] = (5, 6, 8)

    def __post_init__(self) -> None:
        if min(self.at_start, self.at_grid) < 0 or self.at_start + self.at_grid > 1:
            raise ValueError(
                f"at_start and at_grid: expected shares that sum to at most 1, got {self.at_start}, {self.at_grid}."
            )

    def timesteps(self, windows: TimeWindows, window: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One timestep `[B]` for each sample's window, in (end, start]."""
        count = len(window)
        kind = torch.rand(count, generator=generator)
        place = torch.rand(count, generator=generator)
        return torch.tensor([
            self._one(windows, int(k), float(which), float(where))
            for k, which, where in zip(window, kind, place, strict=True)
        ])  # fmt: skip

    def _one(self, windows: TimeWindows, window: int, which: float, where: float) -> int:
        start, end = windows.bounds(window)
        if which < self.at_start:
            return start
        if which < self.at_start + self.at_grid:
            points = self._grid_points(windows, window)
            return points[int(where * len(points))]
        return start - int(where * (start - end))

    def _grid_points(self, windows: TimeWindows, window: int) -> list[int]:
        points = {
            point
            for steps in self.grid_steps
            if steps >= windows.num_time_windows
            for point in windows.step_grid(steps)
        }
        return sorted(point for point in points if windows.window_of(point) == window)


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    """Windows whose ends are known: z at the start and at the teacher's end, and what they were conditioned on."""

    z_s: torch.Tensor
    z_e: torch.Tensor
    window: torch.Tensor
    condition: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class PeRFlow:
    """The objective of algorithm 1 for one set of windows and one head.

    `solver` is one for all windows, or one for each. The student is asked at its timestep plus `index_offset`. With
    `error_at` "end" the answer's error is multiplied by eta of z_e = lam z_s + eta P: what it does to the window's end.
    Measured on Tabletop (a LoRA, 280 steps of 32, one seed): RMSE to the teacher's paths 4 % lower than with "answer".
    """

    schedule: NoiseSchedule
    windows: TimeWindows
    head: Head = "ddim_eps"
    teacher_head: Head = "ddim_eps"
    solver: Solver | tuple[Solver, ...] = "ddim"
    num_solver_steps: int = 8
    times: TimeDraw = TimeDraw()
    error_at: Literal["end", "answer"] = "end"
    index_offset: int = 0

    def solve(
        self, teacher: Network, clean: torch.Tensor, noise: torch.Tensor, window: torch.Tensor, condition: Any
    ) -> Solved:
        """Noise clean latents to each window's start and let the teacher walk to its end."""
        starts = torch.tensor(self.windows.edges)[window]
        return self.solve_from(teacher, self.schedule.add_noise(clean, noise, starts), window, condition)

    def walk(self, teacher: Network, noise: torch.Tensor, condition: Any) -> tuple[Solved, ...]:
        """The teacher's own way from noise through all windows, each beginning where the one before ended.

        Measured on Tabletop (a CFG-fixed LoRA, 330 steps of 32, one seed): as good as from pictures, no better. RMSE to
        the teacher's paths at 4 steps .318 and .318, at 8 .301 and .310; FD of 1,000 pictures 1.15 and 1.15.
        """
        z, way = noise, []
        for k in range(self.windows.num_time_windows):
            way.append(self.solve_from(teacher, z, torch.full((len(z),), k), condition))
            z = way[-1].z_e
        return tuple(way)

    def solve_from(self, teacher: Network, z_s: torch.Tensor, window: torch.Tensor, condition: Any) -> Solved:
        """Let the teacher walk from each window's start to its end."""
        indices = window_indices(self.windows, window, self.num_solver_steps)
        solver = self.solver if isinstance(self.solver, str) else [self.solver[k] for k in window.tolist()]
        z_e = solve(teacher, self.schedule, z_s, indices, condition, solver, self.teacher_head)
        return Solved(z_s=z_s, z_e=z_e, window=window, condition=condition)

    def loss(self, student: Network, pairs: Solved, generator: torch.Generator) -> torch.Tensor:
        """Mean squared error of the student on the line between the window's ends, in fp32."""
        timesteps = self.times.timesteps(self.windows, pairs.window, generator)
        edges = torch.tensor(self.windows.edges)
        across = window_map(self.head, self.schedule.segment(edges[pairs.window], edges[pairs.window + 1]))
        z_t = across.point(pairs.z_s, pairs.z_e, timesteps.double() / self.windows.num_train_timesteps)
        target = across.target(pairs.z_s, pairs.z_e)
        answer = self.ask(student, z_t, timesteps, pairs.condition)
        error = answer.float() - target.float()
        if self.error_at == "end":
            error = (broadcast(across.eta, error) * error).float()
        return error.square().mean()

    @torch.no_grad()
    def endpoint_errors(self, student: Network, pairs: Solved) -> torch.Tensor:
        """`[K]` relative RMSE of the window's end when the student crosses it in one step: |z' - z_e| / |z_e - z_s|.

        For `ddim_eps` and an untrained student this is the error of one DDIM step over the window.
        """
        edges = torch.tensor(self.windows.edges)
        across = window_map(self.head, self.schedule.segment(edges[pairs.window], edges[pairs.window + 1]))
        answer = self.ask(student, pairs.z_s, edges[pairs.window], pairs.condition)
        return relative_errors(across.end(pairs.z_s, answer), pairs, self.windows)

    def ask(self, network: Network, z: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
        """The network's answer where this objective's sampler asks it."""
        return network(z, (timesteps + self.index_offset).to(z.device), condition)


def start_scale(native: Head, head: Head, schedule: NoiseSchedule, windows: TimeWindows) -> float:
    """What a base's answers are multiplied by so that a student of another head does not start broken.

    The same (z_0, eps) asks the base for its native answer and the student for the head's target; over the windows'
    starts, with z_0 and eps independent and of variance one, this is the least-squares factor between them. For
    diff_eps and K = 4 it is .75: the mean of .751, .658, .632, .959 (METHOD section 4). One number cannot fit every
    window; the rest is learnt.
    """
    if head == native:
        return 1.0
    starts, ends = (torch.tensor(part) for part in (windows.edges[:-1], windows.edges[1:]))
    part = schedule.segment(starts, ends)
    signal_s, signal_e, noise_s, noise_e = part.alpha_s, part.alpha_e, part.sigma_s, part.sigma_e
    over_both = torch.cat([signal_s, noise_s]), torch.cat([signal_e, noise_e])
    twice = schedule.segment(starts.repeat(2), ends.repeat(2))
    own = window_map(native, twice).target(*over_both)
    wanted = window_map(head, twice).target(*over_both)
    return float((own * wanted).sum() / own.square().sum())


def relative_errors(reached: torch.Tensor, pairs: Solved, windows: TimeWindows) -> torch.Tensor:
    """`[K]` RMSE to the true ends, relative to how far the ends lie apart; nan for a window without samples."""
    error = (reached - pairs.z_e).square().flatten(1).mean(1).cpu()
    moved = (pairs.z_e - pairs.z_s).square().flatten(1).mean(1).cpu()
    inside = [pairs.window == k for k in range(windows.num_time_windows)]
    return torch.stack([error[each].sum() / moved[each].sum() for each in inside]).sqrt()


def diffusion_loss(network: Network, schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor,
                   timesteps: torch.Tensor, condition: Any, min_snr: float | None = 5.0,
                   head: Head = "ddim_eps") -> torch.Tensor:  # fmt: skip
    """The epsilon or v loss at timesteps 1 to 1000 `[B]` (the network is asked at their diffusion index, one below).

    With `min_snr` = gamma an epsilon sample is weighted by min(SNR, gamma) / SNR, a v sample by the same over SNR + 1.
    """
    z = schedule.add_noise(clean, noise, timesteps)
    answer = network(z, (timesteps - 1).to(z.device), condition)
    alpha, sigma = schedule.alphas[timesteps], schedule.sigmas[timesteps]
    is_v = head == "v_prediction"
    target = broadcast(alpha, z) * noise - broadcast(sigma, z) * clean if is_v else noise
    error = (answer.float() - target.float()).square().flatten(1).mean(1)
    if min_snr is None:
        return error.mean()
    snr = (alpha / sigma).square()
    weight = (snr.clamp(max=min_snr) / (snr + 1 if is_v else snr)).to(error.device, torch.float32)
    return (error * weight).mean()
