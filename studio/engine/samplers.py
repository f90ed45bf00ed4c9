"""Accelerator -> scheduler, and the grid of timesteps it will walk.

Every sampler keeps the base's noise schedule and names its own head: what a scheduler inherits through `from_config`
from the one before it (PeRFlow's `diff_eps` under DDIM, say) would be silently wrong. Plain solvers space their steps
"trailing", from the noise end on, so that their grid is PeRFlow's and depends on nothing in the base's files.
Direction of time: timestep 1000 is noise. A plain solver's diffusion index i is shown as timestep i + 1.
"""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler

from studio.perflow import PeRFlowScheduler, TimeWindows, make_plan, plan_of
from studio.types import AcceleratorSpec, DeltaSpec, GenerationRequest, ModelSpec, StepPlan

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
        return make_plan(TimeWindows(num_time_windows=count), request.steps, request.guidance)
    sampler = make_sampler(STABLE_DIFFUSION_SCHEDULE, model, accelerator, None)
    sampler.set_timesteps(request.steps)
    return plan_of(RULER, [int(index) + 1 for index in sampler.timesteps], request.guidance)
