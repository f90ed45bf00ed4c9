"""`PeRFlowScheduler`: walks the windows' straight lines, in any stock diffusers pipeline.

A step at timestep t in window (s, e) turns the network's output into dz/dt by eq. 7 and goes z' = z + (t_next - t) v,
to t = 0 after the last. A step that leaves its window (fewer steps than windows, or timesteps of one's own) has no
window to be straight in: its map is taken over [t, t_next] itself, which for `ddim_eps` is exactly a DDIM jump.

The network is asked at t * T (1000, 750, ...), one above the diffusion index, as in training. The base's schedule
(betas, zero terminal SNR, `set_alpha_to_one`) survives `from_config`. Latents B C H W or B C F H W, any dtype;
arithmetic in fp32. Paper: arXiv 2405.07510, section 3.4.

This module knows no guidance and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput

from studio.perflow.prediction import Head, WindowMap, head_of, window_map
from studio.perflow.schedule import NoiseSchedule, make_alphas_cumprod, make_betas
from studio.perflow.windows import TimeWindows


@dataclass
class PeRFlowSchedulerOutput(BaseOutput):
    """`prev_sample` is the next latent, `pred_original_sample` the z_0 its line points at; both as the sample was."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stride:
    """One step of the grid: from t to t_next, with the map of the stretch it lies in."""

    t: float
    t_next: float
    map: WindowMap


class PeRFlowScheduler(SchedulerMixin, ConfigMixin):
    """Few-step sampling along piecewise straight lines.

    `prediction_type` (ddim_eps, diff_eps, velocity, v_prediction, sample, flow) and `num_time_windows` are facts of
    the weights. `custom_edges` gives windows of one's own, K + 1 timesteps falling from T to 0. `t_noise` and
    `t_clean` stand in published configs and can only be 1 and 0.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]  # noqa: RUF012 diffusers' own idiom
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        set_alpha_to_one: bool = False,
        prediction_type: str = "ddim_eps",
        t_noise: float = 1,
        t_clean: float = 0,
        num_time_windows: int = 4,
        rescale_betas_zero_snr: bool = False,
        custom_edges: Sequence[int] | None = None,
    ) -> None:
        if (t_noise, t_clean) != (1, 0):
            raise ValueError(f"t_noise, t_clean: expected 1 and 0, got {t_noise} and {t_clean}; see custom_edges.")
        self.head: Head = head_of(prediction_type)
        self.windows = TimeWindows(
            num_time_windows=num_time_windows,
            num_train_timesteps=num_train_timesteps,
            custom_edges=None if custom_edges is None else tuple(custom_edges),
        )
        self.betas = make_betas(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        self.alphas_cumprod = make_alphas_cumprod(self.betas)
        if self.head == "flow":
            self.schedule = NoiseSchedule.of_flow(num_train_timesteps)
        else:
            self.schedule = NoiseSchedule.of_diffusion(self.alphas_cumprod, set_alpha_to_one=set_alpha_to_one)
        self.final_alpha_cumprod = self.schedule.alphas[0] ** 2
        window_map(self.head, self.schedule.segment(*self.windows.bounds(0)))  # refuse early what cannot start
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps, 0, -1)
        self._strides: tuple[_Stride, ...] = ()
        self._begin_index: int | None = None
        self._step_index: int | None = None

    def __len__(self) -> int:
        return self.windows.num_train_timesteps

    @property
    def begin_index(self) -> int | None:
        """Where on the grid the first step stands, if a pipeline said so."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """The place on the grid of the next step; `None` before the first."""
        return self._step_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start in the middle of the grid, as image-to-image does."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Lay the grid of N steps (fewer than windows is allowed), or take a falling list of timesteps in 1..T."""
        if timesteps is not None:
            grid = _checked(timesteps, len(self))
        elif num_inference_steps is None:
            raise ValueError("set_timesteps: expected num_inference_steps or timesteps, got neither.")
        else:
            grid = self.windows.step_grid(num_inference_steps)
        self.num_inference_steps = len(grid)
        self.timesteps = torch.tensor(grid, dtype=torch.long, device=device)
        self._strides = tuple(self._stride(here, there) for here, there in pairwise((*grid, 0)))
        self._begin_index = self._step_index = None

    def scale_model_input(self, sample: torch.Tensor, timestep: object = None) -> torch.Tensor:  # noqa: ARG002
        """The sample itself: the network sees latents as they are."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> PeRFlowSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Go to the grid's next point. `timestep` matters only for the first step, where no begin index was set."""
        if self._step_index is None:
            self._step_index = self._first_index(timestep)
        if self._step_index >= len(self._strides):
            raise RuntimeError("step: expected a step left on the grid, got none; call set_timesteps before each run.")
        stride = self._strides[self._step_index]
        velocity = stride.map.velocity(sample, model_output, stride.t)
        clean = stride.map.clean(sample, velocity, stride.t).to(sample.dtype)
        following = (sample + (stride.t_next - stride.t) * velocity).to(sample.dtype)
        self._step_index += 1
        if not return_dict:
            return following, clean
        return PeRFlowSchedulerOutput(prev_sample=following, pred_original_sample=clean)

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: int | torch.Tensor
    ) -> torch.Tensor:
        """Noised samples at grid timesteps, () or (B,): timestep t has the noise of diffusion index t - 1."""
        return self.schedule.add_noise(original_samples, noise, timesteps)

    def _stride(self, here: int, there: int) -> _Stride:
        start, end = self.windows.bounds(self.windows.window_of(here))
        stretch = (start, end) if there >= end else (here, there)
        mapping = window_map(self.head, self.schedule.segment(*stretch))
        return _Stride(t=here / len(self), t_next=there / len(self), map=mapping)

    def _first_index(self, timestep: float | torch.Tensor) -> int:
        """The begin index, or else the grid point nearest to the loop's first timestep."""
        if self._begin_index is not None:
            return self._begin_index
        if not self._strides:
            return 0
        first = float(torch.as_tensor(timestep).flatten()[0])
        return int((self.timesteps - first).abs().argmin())


def _checked(timesteps: Sequence[int], highest: int) -> tuple[int, ...]:
    grid = tuple(round(float(timestep)) for timestep in timesteps)
    if not grid or grid[0] > highest or grid[-1] < 1 or any(a <= b for a, b in pairwise(grid)):
        raise ValueError(f"timesteps: expected numbers falling within {highest} to 1, got {list(timesteps)}.")
    return grid
