"""The sweep of CFG, Table 1 at each method's best CFG, more steps, and the deck's table of cost."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.drawing import Contestant
from benchmarks.measures import coverage, frechet_distance, milliseconds
from benchmarks.paper.room import TEACHER_STEPS, Room
from benchmarks.paper.shelf import Row

NEAREST = 3


def sweep(room: Room) -> list[dict[str, Any]]:
    """FD to teacher samples of every method at every scale, on a smaller set."""
    sizes, group = room.sizes, room.main.first(room.sizes.num_swept)
    reference = room.teacher_samples(sizes.num_swept)
    rows = []
    for who in room.all:
        for steps in sizes.sweep_steps:
            for guidance in sizes.sweep:
                seen = room.look(who, steps, guidance, group)
                rows.append({
                    "id": who.id, "method": who.name, "steps": steps, "guidance": guidance,
                    "fd": frechet_distance(seen.features, reference), **seen.accuracies,
                })  # fmt: skip
    return rows


def best_guidance(swept: list[dict[str, Any]], who: Contestant, steps: int) -> float:
    """The scale of least FD at the swept number of steps nearest to this one."""
    own = [row for row in swept if row["id"] == who.id]
    nearest = min({row["steps"] for row in own}, key=lambda n: (abs(n - steps), n))
    return min((row for row in own if row["steps"] == nearest), key=lambda row: row["fd"])["guidance"]


def table_one(room: Room, swept: list[dict[str, Any]], scenes: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Everybody at 4 and 8 steps, PeRFlow and LCM at more; last the teacher at 25, which is also the floor."""
    runs = [(who, steps) for who in room.all for steps in room.sizes.table_steps]
    runs += [(who, steps) for who in (room.perflow, room.lcm) if who for steps in room.sizes.more_steps]
    runs.sort(key=lambda run: (room.all.index(run[0]), run[1]))
    rows = [_row(room, who, steps, best_guidance(swept, who, steps), scenes) for who, steps in runs]
    return [*rows, _row(room, room.teacher, TEACHER_STEPS, room.guidance, scenes)]


def _row(room: Room, who: Contestant, steps: int, guidance: float, scenes: dict[str, torch.Tensor]) -> dict[str, Any]:
    seen = room.look(who, steps, guidance, room.main)
    against = {"train": scenes["train"], "held_out": scenes["held_out"], "teacher": room.teacher_samples()}
    cover = coverage(seen.features, against["teacher"], NEAREST)
    return {
        "id": who.id, "method": who.name, "steps": steps, "guidance": guidance, "baked": who.baked,
        "trained": who.is_trained,
        "calls": room.calls(who, steps, guidance),
        "fd": {name: room.distance("fd", seen.features, other) for name, other in against.items()},
        "kid": {name: room.distance("kid", seen.features, other)["value"] for name, other in against.items()},
        "precision": cover.precision, "recall": cover.recall, **seen.accuracies,
    }  # fmt: skip


def floors(room: Room, scenes: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What two sets of the same kind score: real against real, and the teacher against itself."""
    teacher = room.look(room.teacher, TEACHER_STEPS, room.guidance, room.main).features
    pairs = {
        "train scenes against other train scenes": (scenes["train_b"], scenes["train"]),
        "held-out scenes against train scenes": (scenes["held_out"], scenes["train"]),
        "teacher samples against others of its samples": (teacher, room.teacher_samples()),
    }
    return {
        name: {"fd": room.distance("fd", *pair), "kid": room.distance("kid", *pair)["value"]}
        for name, pair in pairs.items()
    }


def differences(room: Room, table: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """FD to teacher samples, one minus the other, with intervals: what claims rest on."""
    at = {(row["id"], row["steps"]): row["guidance"] for row in table}

    def features(who: Contestant, steps: int) -> torch.Tensor:
        return room.look(who, steps, at[who.id, steps], room.main).features

    first, second, reference = *room.sizes.table_steps[:2], room.teacher_samples()
    found = {}
    for name, who in (("perflow", room.perflow), ("lcm", room.lcm)):
        if who is not None:
            pair = features(who, second), features(who, first)
            found[f"{name}: {second} less {first} steps"] = room.difference(*pair, reference)
    leads = {"perflow": room.perflow, "fixed": room.fixed, "racer": room.racer}
    for steps in room.sizes.table_steps:
        for name, lead in leads.items():
            for who in room.all if lead else []:
                if lead and who.id != lead.id:
                    pair = features(lead, steps), features(who, steps)
                    found[f"{name} less {who.id}, {steps} steps"] = room.difference(*pair, reference)
    return found


def cost(room: Room, table: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds for one picture with its decoding, by `id, steps`; drawn in turn, the weights already on.

    Putting weights on comes before each timed picture's turn, outside the clock; so turns are per method.
    """
    prompts, noise = room.bench.embed(room.main.texts[:1]), room.main.noise[:1]
    found: dict[str, float] = {}
    for who in [*room.all, *([] if room.teacher in room.all else [room.teacher])]:
        mine = {f"{who.id}, {row['steps']}": row for row in table if row["id"] == who.id}

        def draw(row: dict[str, Any], who: Contestant = who) -> None:
            room.bench.pixels(room.bench.draw(who, row["steps"], row["guidance"], noise, prompts=prompts))

        def make(mine: dict[str, Any] = mine, draw: Any = draw) -> Row:
            draws = {name: (lambda row=row: draw(row)) for name, row in mine.items()}
            return Row(numbers=milliseconds(draws, room.sizes.num_rounds))

        scales = {name: row["guidance"] for name, row in mine.items()}
        decides = {"what": "milliseconds", "who": who.id, "weights": room.hashes.get(who.id), "scales": scales,
                   "threads": torch.get_num_threads(), "rounds": room.sizes.num_rounds}  # fmt: skip
        found.update(room.shelf.row(decides, make).numbers)
        room.advance(0, f"timing {who.name}")
    return found
