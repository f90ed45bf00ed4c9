"""How an accelerator behaves: diversity over seeds, negative prompts, the fifth step, guidance that falls with time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.drawing import Contestant
from benchmarks.measures import frechet_distance, mean_pairwise_distance, standardised, still_finding, vendi_score
from benchmarks.paper.room import (
    TEACHER_STEPS,
    Group,
    Room,
    double_group,
    mean_interval,
    seeds_group,
    share_difference,
)
from benchmarks.paper.shelf import Row
from benchmarks.paper.tables import best_guidance
from trainer.tabletop.captions import SKY_WORDS

FEW = 4
LEAST_GUIDANCE = 1.5  # of weights with guidance in them: at 1 a negative prompt is not even read
# Of the first window's scale to the others' (arXiv 2405.07510, section 3.4): 7.5-4-4-4, and with guidance in the
# weights 2.5-1.5-1.5-1.5.
PAPER_RATIO, PAPER_RATIO_BAKED = 7.5 / 4.0, 2.5 / 1.5
BAKED_SCALES = (1.0, 1.5)
EXTRA_AT_THE_END = (1000, 750, 500, 250, 125)


def diversity(room: Room, swept: list[dict[str, Any]], train: torch.Tensor) -> list[dict[str, Any]]:
    """Among the pictures of one prompt, mean over prompts; beside it the share of the teacher's, prompt by prompt."""
    group, each = seeds_group(room.sizes.num_diverse, room.sizes.num_seeds), room.sizes.num_seeds
    runs = [(room.teacher, TEACHER_STEPS, room.guidance)]
    runs += [(who, FEW, best_guidance(swept, who, FEW)) for who in room.all if who.is_trained]
    rows, teacher = [], np.ones(1)
    for who, steps, guidance in runs:
        sets = standardised(room.look(who, steps, guidance, group).features, train).split(each)
        spread = np.array([mean_pairwise_distance(some) for some in sets])
        teacher = spread if not rows else teacher
        rows.append({
            "id": who.id, "method": who.name, "steps": steps, "guidance": guidance,
            "distance": float(spread.mean()), "vendi": float(np.mean([vendi_score(some) for some in sets])),
            "of_teacher": mean_interval(spread / teacher),
        })  # fmt: skip
    return rows


def negatives(room: Room, swept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sky is left out of the prompt; the negative prompt names the one that the teacher then draws.

    How often the judge still finds it, without and with the negative prompt.
    """
    plain = room.main.first(room.sizes.num_negative)
    texts = [_without_sky(text, scene.sky) for text, scene in zip(plain.texts, plain.scenes, strict=True)]
    group = Group(name=f"{plain.name}, no sky", scenes=plain.scenes, texts=texts, noise=plain.noise)
    unwanted = _skies_of_teacher(room, group)
    runs = [(room.teacher, TEACHER_STEPS, room.guidance)]
    for who in dict.fromkeys(filter(None, (room.perflow, room.sync, room.lcm))):
        scale = max(LEAST_GUIDANCE, best_guidance(swept, who, FEW)) if who.baked else room.guidance
        runs.append((who, FEW, scale))
    rows = []
    for who, steps, guidance in runs:
        shares = {
            name: _share(room, who, steps, guidance, group, unwanted, is_asked=is_asked)
            for name, is_asked in (("without", False), ("with", True))
        }
        rows.append({"id": who.id, "method": who.name, "steps": steps, "guidance": guidance, **shares})
    return rows


def _skies_of_teacher(room: Room, group: Group) -> list[str]:
    """The sky that the judge finds in the teacher's picture of each prompt."""
    who, skies = room.teacher, list(room.eye.vocabulary.skies)

    def make() -> Row:
        pixels = room.bench.pixels(room.latents(who, TEACHER_STEPS, room.guidance, group))
        return Row(numbers={"skies": [skies[k] for k in room.eye.logits(pixels)["sky"].argmax(-1).tolist()]})

    return room.shelf.row(room.decided("skies", who, TEACHER_STEPS, room.guidance, group), make).numbers["skies"]


def _share(room: Room, who: Contestant, steps: int, guidance: float, group: Group, unwanted: list[str], *,
           is_asked: bool) -> float:  # fmt: skip
    negative = [SKY_WORDS[sky][0] for sky in unwanted] if is_asked else None

    def make() -> Row:
        pixels = room.bench.pixels(room.latents(who, steps, guidance, group, negative))
        return Row(numbers={"share": still_finding(room.eye, pixels, "sky", unwanted)})

    decides = room.decided("still finding", who, steps, guidance, group, unwanted=unwanted, negative=negative)
    return room.shelf.row(decides, make).numbers["share"]


def _without_sky(text: str, sky: str) -> str:
    return text.removesuffix(f" {SKY_WORDS[sky][0]}")


def fifth_step(room: Room, swept: list[dict[str, Any]]) -> dict[str, Any]:
    """Scenes with two things by PeRFlow: 4 steps, the fifth in the noisiest window, and the fifth in the last one."""
    group, who = double_group(room.sizes.num_doubles), room.perflow
    guidance = best_guidance(swept, who, FEW)
    runs: dict[str, Any] = {"4": 4, "5": 5, "5, the extra one last": EXTRA_AT_THE_END, "8": 8}
    seen = {name: room.look(who, steps, guidance, group) for name, steps in runs.items()}
    reference = room.teacher_samples()
    return {
        "guidance": guidance,
        "rows": [
            {"steps": name, "double": float(each.right.mean()), "fd": frechet_distance(each.features, reference)}
            for name, each in seen.items()
        ],
        "5 less 4": share_difference(seen["5"].right, seen["4"].right),
        "5 less 5 with the extra one last": share_difference(seen["5"].right, seen["5, the extra one last"].right),
        "fd, 5 less 4": room.difference(seen["5"].features, seen["4"].features, reference),
    }


def dynamic(room: Room, swept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The shipped PeRFlow, and one that leaves guidance to the sampler, if there is one."""
    return [_dynamic(room, swept, who) for who in dict.fromkeys((room.perflow, room.sync)) if who]


def _dynamic(room: Room, swept: list[dict[str, Any]], who: Contestant) -> dict[str, Any]:
    """At 4 steps: the best constant scale against the best schedule that begins higher by the paper's ratio."""
    group = room.main.first(room.sizes.num_swept)
    reference = room.teacher_samples(room.sizes.num_swept)
    constants = sorted({row["guidance"] for row in swept})
    rows = [_scheduled(room, who, (scale,), group, reference) for scale in constants]
    windows = who.windows.num_time_windows
    ratio, rest = (PAPER_RATIO, room.sizes.dynamic) if who.baked is None else (PAPER_RATIO_BAKED, BAKED_SCALES)
    falling = [(ratio * m, *(m,) * (windows - 1)) for m in rest]
    rows += [_scheduled(room, who, scales, group, reference) for scales in falling]
    best = {kind: min((row for row in rows if (len(row["scales"]) > 1) == kind), key=lambda row: row["fd"])
            for kind in (True, False)}  # fmt: skip
    sets = [room.look(who, FEW, _plain(best[kind]["scales"]), group) for kind in (True, False)]
    return {
        "id": who.id, "method": who.name, "rows": rows, "best_dynamic": best[True], "best_constant": best[False],
        "fd, dynamic less constant": room.difference(sets[0].features, sets[1].features, reference),
        "things, dynamic less constant": share_difference(sets[0].right, sets[1].right),
    }  # fmt: skip


def _scheduled(room: Room, who: Contestant, scales: tuple[float, ...], group: Group,
               reference: torch.Tensor) -> dict[str, Any]:  # fmt: skip
    seen = room.look(who, FEW, _plain(scales), group)
    return {"scales": list(scales), "fd": frechet_distance(seen.features, reference), **seen.accuracies}


def _plain(scales: Any) -> Any:
    return scales[0] if len(scales) == 1 else tuple(scales)
