"""The maths of PeRFlow: time windows, noise schedule, heads, scheduler, guidance schedules, delta weights.

    guidance    one scale per step                        windows     integer edges, grids, step plans
    schedule    signal and noise at each timestep         prediction  one converter for every head
    scheduler   `PeRFlowScheduler`                        delta       delta weights: facts, read, form, write
    merge       base + strength * delta, and back         safefile    strangers' safetensors, checked

The law of this room: it imports torch, diffusers, safetensors, `studio.types` and `studio.errors`, and never gradio,
the engine, the UI or the trainer. It opens files only by path, never a network. `windows` and `guidance` are free of
torch; names load on first use, so that importing those two stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.perflow.delta import DeltaWeights, base_weights, check_fits, weights_sha256
    from studio.perflow.guidance import CFG_FIXED, CFG_SYNC, is_guided, num_network_calls, paper_guidance
    from studio.perflow.merge import KeptBase, MergeReport, mark_merged, merged_with
    from studio.perflow.prediction import EPSILON_HEADS, HEADS, Head, WindowMap, head_of, window_map
    from studio.perflow.safefile import Header, check_shapes, read_header, read_sharded, read_tensors
    from studio.perflow.schedule import NoiseSchedule, Segment, make_alphas_cumprod, make_betas
    from studio.perflow.scheduler import PeRFlowScheduler, PeRFlowSchedulerOutput
    from studio.perflow.windows import TimeWindows, diffusion_index, make_plan, plan_of

_HOMES = {
    "delta": ("DeltaWeights", "base_weights", "check_fits", "weights_sha256"),
    "merge": ("KeptBase", "MergeReport", "mark_merged", "merged_with"),
    "safefile": ("Header", "check_shapes", "read_header", "read_sharded", "read_tensors"),
    "guidance": ("CFG_FIXED", "CFG_SYNC", "is_guided", "num_network_calls", "paper_guidance"),
    "prediction": ("EPSILON_HEADS", "HEADS", "Head", "WindowMap", "head_of", "window_map"),
    "schedule": ("NoiseSchedule", "Segment", "make_alphas_cumprod", "make_betas"),
    "scheduler": ("PeRFlowScheduler", "PeRFlowSchedulerOutput"),
    "windows": ("TimeWindows", "diffusion_index", "make_plan", "plan_of"),
}

__all__ = [
    "CFG_FIXED",
    "CFG_SYNC",
    "EPSILON_HEADS",
    "HEADS",
    "DeltaWeights",
    "Head",
    "Header",
    "KeptBase",
    "MergeReport",
    "NoiseSchedule",
    "PeRFlowScheduler",
    "PeRFlowSchedulerOutput",
    "Segment",
    "TimeWindows",
    "WindowMap",
    "base_weights",
    "check_fits",
    "check_shapes",
    "diffusion_index",
    "head_of",
    "is_guided",
    "make_alphas_cumprod",
    "make_betas",
    "make_plan",
    "mark_merged",
    "merged_with",
    "num_network_calls",
    "paper_guidance",
    "plan_of",
    "read_header",
    "read_sharded",
    "read_tensors",
    "weights_sha256",
    "window_map",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
