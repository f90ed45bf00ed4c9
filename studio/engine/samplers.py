"""Accelerator -> scheduler, and the grid of timesteps it will walk.

Every sampler keeps the base's noise schedule and names its own head: what a scheduler inherits through `from_config`
from the one before it (PeRFlow's `diff_eps` under DDIM, say) would be silently wrong. Plain solvers space their steps
"trailing", from the noise end on, so that their grid is PeRFlow's and depends on nothing in the base's files.
LCM and TCD walk the grids of their own schedulers, as their weights were trained and are published.
Direction of time: timestep 1000 is noise. A plain solver's diffusion index i is shown as timestep i + 1.
"""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler

from studio.engine.beginning import own_scale
from studio.engine.tcd import TCD
from studio.perflow import PeRFlowScheduler, TimeWindows, make_plan, plan_of
from studio.perflow.windows import begun_at
from studio.specs import AcceleratorSpec, DeltaSpec, ModelSpec
from studio.types import GenerationRequest, StepPlan

STABLE_DIFFUSION_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "clip_sample": False,
}

# Plain solvers have no windows; their steps are told and coloured by this ruler, and take guidance per window by it.
RULER = TimeWindows(num_time_windows=4)


def make_sampler(config: Any, model: ModelSpec, accelerator: AcceleratorSpec, delta: DeltaSpec | None) -> Any:
    """A fresh scheduler for one image; `config` is the base's scheduler configuration, `delta` the weights' facts."""
    if accelerator.sampler == "perflow":
        facts = delta or accelerator.delta or DeltaSpec(family=model.family)
        return PeRFlowScheduler.from_config(
            config, prediction_type=facts.prediction_type, num_time_windows=facts.num_time_windows
        )
    head: dict[str, Any] = {"prediction_type": model.prediction_type, "timestep_spacing": "trailing"}
    if accelerator.sampler == "lcm":
        return LCMScheduler.from_config(config, **head)
    if accelerator.sampler == "ddim":
        return DDIMScheduler.from_config(config, clip_sample=False, thresholding=False, **head)
    if accelerator.sampler == "tcd":
        return TCD.from_config(config, original_inference_steps=50, clip_sample=False, thresholding=False, **head)
    if accelerator.sampler == "euler":
        return EulerDiscreteScheduler.from_config(
            config,
            interpolation_type="linear",
            timestep_type="discrete",
            use_karras_sigmas=False,
            use_exponential_sigmas=False,
            use_beta_sigmas=False,
            final_sigmas_type="zero",
            **head,
        )
    return DPMSolverMultistepScheduler.from_config(
        config,
        algorithm_type="dpmsolver++",
        solver_order=2,
        use_karras_sigmas=False,
        use_lu_lambdas=False,
        final_sigmas_type="zero",
        thresholding=False,
        **head,
    )


def plan_request(request: GenerationRequest, model: ModelSpec, accelerator: AcceleratorSpec) -> StepPlan:
    """The effective grid of a request, from the catalogue's facts alone. Raises `InvalidRequest`."""
    if accelerator.sampler == "perflow":
        count = accelerator.delta.num_time_windows if accelerator.delta else RULER.num_time_windows
        plan = make_plan(TimeWindows(num_time_windows=count), request.steps, request.guidance)
        return begun_at(plan, request.first_step)
    sampler = make_sampler(STABLE_DIFFUSION_SCHEDULE, model, accelerator, None)
    sampler.set_timesteps(request.steps)
    plan = plan_of(RULER, [int(index) + 1 for index in sampler.timesteps], request.guidance)
    return begun_at(plan, request.first_step)


class Later:
    """A sampler whose walk begins at its step `first`, as the stock image-to-image pipelines begin.

    The sampler keeps its whole grid, which some read; a pipeline sees only the rest of it.
    """

    def __init__(self, sampler: Any, first: int) -> None:
        self._sampler, self._first = sampler, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Lay the whole grid and begin in its middle."""
        self._sampler.set_timesteps(*args, **kwargs)
        if hasattr(self._sampler, "set_begin_index"):
            self._sampler.set_begin_index(self._first)

    @property
    def timesteps(self) -> Any:
        """The steps that are walked."""
        return self._sampler.timesteps[self._first :]

    @property
    def init_noise_sigma(self) -> float:
        """What a pipeline scales the beginning by, which has the noise of the first step walked already."""
        return own_scale(self._sampler, int(self.timesteps[0]) + 1)
