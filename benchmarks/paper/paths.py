"""Against the teacher's own paths: paired errors, what each window's end is missed by, and how bent paths are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.drawing import Contestant
from benchmarks.measures import bend, paired_error, psnr_db, window_errors
from benchmarks.paper.room import Group, Room
from benchmarks.paper.shelf import Row

NUM_WINDOWS = 4


def paired(room: Room) -> list[dict[str, Any]]:
    """From the same noise against the teacher's many-step DDIM at the matching guidance.

    Who has guidance in its weights is drawn without and compared with the teacher at that scale.
    """
    return [row for who in room.all for row in paired_rows(room, who)]


def target_of(room: Room, who: Contestant) -> float:
    """The teacher's guidance that its paths are compared at."""
    return who.baked or room.guidance


def paired_rows(room: Room, who: Contestant) -> list[dict[str, Any]]:
    """One contestant's."""
    group, target = room.main.first(room.sizes.num_paired), target_of(room, who)
    own = 1.0 if who.baked else room.guidance
    rows = []
    for steps in room.sizes.paired_steps:
        numbers = room.shelf.row(
            room.decided("paired", who, steps, own, group, target=target, reference=room.sizes.reference_steps),
            lambda steps=steps: _pair(room, who, steps, own, target, group),
        ).numbers
        rows.append({"id": who.id, "method": who.name, "steps": steps, "guidance": target, **numbers})
    return rows


def _pair(room: Room, who: Contestant, steps: int, own: float, target: float, group: Group) -> Row:
    true = truth(room, target, group)
    latents = room.latents(who, steps, own, group)
    error = paired_error(latents, true)
    psnr = psnr_db(room.bench.pixels(latents), room.bench.pixels(true))
    return Row(numbers={"error": error.all, "median": error.median, "psnr_db": psnr})


def truth(room: Room, guidance: float, group: Group) -> torch.Tensor:
    """Latents of the teacher's ODE."""
    steps, ddim = room.sizes.reference_steps, room.bare("ddim")

    def make() -> Row:
        return Row(numbers={}, arrays={"latents": room.latents(ddim, steps, guidance, group).numpy()})

    row = room.shelf.row(room.decided("reference", ddim, steps, guidance, group), make)
    return torch.from_numpy(row.arrays["latents"])


def windows(room: Room) -> list[dict[str, Any]]:
    """Each window crossed in one step from the true path, and the bend of paths inside it.

    The true path is the teacher's at the guidance that is in the weights; without any where there is none. For samplers
    without windows the quarters of time stand in.
    """
    group = room.main.first(room.sizes.num_paths)
    ddim = room.bare("ddim")
    who = [each for each in room.all if each.is_trained and each.spec.sampler in ("perflow", "ddim")
           and each.windows.num_time_windows == NUM_WINDOWS]  # fmt: skip
    targets = sorted({each.baked or 1.0 for each in who})
    rows = []
    for each, target in [*((ddim, target) for target in targets), *((each, each.baked or 1.0) for each in who)]:
        decides = room.decided("windows", each, NUM_WINDOWS, target, group, reference=room.sizes.reference_steps,
                               own=room.sizes.own_path_steps)  # fmt: skip
        numbers = room.shelf.row(decides, lambda each=each, w=target: _cross(room, each, w, group)).numbers
        rows.append({"id": each.id, "method": each.name, "target": target, **numbers})
    return rows


def _cross(room: Room, who: Contestant, target: float, group: Group) -> Row:
    true = _true_path(room, target, group)
    a_window = (len(true) - 1) // NUM_WINDOWS
    prompts = room.prompts(group)
    scale = 1.0 if who.is_trained else target

    def cross(z: torch.Tensor, window: int) -> torch.Tensor:
        sampler = room.bench.laid(who, NUM_WINDOWS)
        if who.spec.sampler == "perflow":
            sampler.set_begin_index(window)
        t = sampler.timesteps[window]
        with torch.inference_mode():
            return sampler.step(room.bench.answer(z, t, prompts, scale), t, z, return_dict=False)[0]

    room.bench.wear(who)
    errors = window_errors(cross, [true[window * a_window] for window in range(NUM_WINDOWS + 1)])
    if not who.is_trained:
        return Row(numbers={"errors": errors, "bends": _bends(true)})
    own = room.bench.path(who, room.sizes.own_path_steps, 1.0, group.noise, prompts=prompts, whole=True)
    return Row(numbers={"errors": errors, "bends": _bends(own)})


def _true_path(room: Room, guidance: float, group: Group) -> torch.Tensor:
    steps, ddim = room.sizes.reference_steps, room.bare("ddim")

    def make() -> Row:
        prompts = room.prompts(group)
        path = room.bench.path(ddim, steps, guidance, group.noise, prompts=prompts, whole=True)
        return Row(numbers={}, arrays={"path": path.numpy().astype(np.float32)})

    row = room.shelf.row(room.decided("path", ddim, steps, guidance, group), make)
    return torch.from_numpy(row.arrays["path"])


def _bends(path: torch.Tensor) -> list[float]:
    """Per window, of a path whose steps are even in time."""
    a_window = (len(path) - 1) // NUM_WINDOWS
    times = torch.linspace(1, 0, len(path), dtype=torch.float64).tolist()
    return [
        bend(path[k * a_window : (k + 1) * a_window + 1], times[k * a_window : (k + 1) * a_window + 1])
        for k in range(NUM_WINDOWS)
    ]
