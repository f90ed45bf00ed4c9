"""Accelerators of Tabletop on a base that was fine-tuned apart from them, to another style (benchmarks.styled_base)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.drawing import Contestant
from benchmarks.measures import frechet_distance, psnr_db
from benchmarks.paper.room import TEACHER_STEPS, Group, Room
from benchmarks.paper.shelf import Row
from benchmarks.paper.tables import best_guidance
from benchmarks.styled_base import STYLE, styled_base

FEW = 4
NUM_PAIRED = 32


def fine_tuned(room: Room) -> tuple[Path, bool]:
    """The styled base's folder, trained now if it is not there; and whether it was there before this shelf's first run.

    Training has its time, not its steps: it wants a core of its own.
    """
    was_there = (room.style_cache / STYLE / "model_index.json").exists()
    folder = styled_base(room.assets, room.style_cache, room.sizes.style_minutes, room.sizes.num_style_scenes)
    told = {"what": "fine-tuned base", "folder": str(folder), "minutes": room.sizes.style_minutes}
    return folder, room.shelf.row(told, lambda: Row(numbers={"was_there": was_there})).numbers["was_there"]


def styled(room: Room, swept: list[dict[str, Any]]) -> dict[str, Any]:
    """Against the styled base's own 25-step pictures: FD to those of other prompts, PSNR to those of the same noise."""
    folder, was_there = fine_tuned(room)
    other = Room(assets=room.assets, shelf=room.shelf, sizes=room.sizes, guidance=room.guidance, cache=room.cache,
                 style_cache=room.style_cache, base=folder, advance=room.advance)  # fmt: skip
    count = room.sizes.num_styled
    group, apart = other.main.first(count), other.others.first(count)
    samples = other.look(other.teacher, TEACHER_STEPS, room.guidance, apart).features
    known = [other.perflow, *([other.lcm] if other.lcm else []), other.bare("ddim"), other.teacher]
    runs = [(who, FEW, best_guidance(swept, who, FEW)) for who in known]
    runs.append((other.teacher, TEACHER_STEPS, room.guidance))
    rows = []
    for who, steps, guidance in runs:
        seen = other.look(who, steps, guidance, group)
        decides = other.decided("styled psnr", who, steps, guidance, group)
        psnr = room.shelf.row(decides, lambda who=who, steps=steps, w=guidance: _psnr(other, who, steps, w, count))
        rows.append({
            "id": who.id, "method": who.name, "steps": steps, "guidance": guidance,
            "fd": frechet_distance(seen.features, samples), **psnr.numbers,
        })  # fmt: skip
    own, rival = (other.look(who, steps, w, group).features for who, steps, w in runs[:2])
    return {
        "rows": rows, "was_there": was_there, "minutes": room.sizes.style_minutes,
        "unet": other.facts["unet"],
        "perflow less lcm": other.difference(own, rival, samples) if other.lcm else None,
    }  # fmt: skip


def _psnr(room: Room, who: Contestant, steps: int, guidance: float, count: int) -> Row:
    """Of the same noise; the teacher's own pictures are the reference, and have none."""
    if (who.id, steps) == (room.teacher.id, TEACHER_STEPS):
        return Row(numbers={"psnr_db": None})
    group = room.main.first(min(count, NUM_PAIRED))
    own = room.latents(who, steps, guidance, group)
    truth = _truth(room, group)
    return Row(numbers={"psnr_db": psnr_db(room.bench.pixels(own), room.bench.pixels(truth))})


def _truth(room: Room, group: Group) -> torch.Tensor:
    """Latents of the fine-tuned base itself."""
    who = room.teacher

    def make() -> Row:
        latents = room.latents(who, TEACHER_STEPS, room.guidance, group)
        return Row(numbers={}, arrays={"latents": latents.numpy()})

    row = room.shelf.row(room.decided("styled truth", who, TEACHER_STEPS, room.guidance, group), make)
    return torch.from_numpy(row.arrays["latents"])
