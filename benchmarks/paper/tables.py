"""The sweep of CFG, Table 1 at each method's best CFG, more steps, and the deck's table of cost."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from benchmarks.drawing import Contestant
from benchmarks.measures import coverage, frechet_distance, milliseconds
from benchmarks.paper.claims import BEFORE_TEACHER
from benchmarks.paper.room import TEACHER_STEPS, Room
from benchmarks.paper.shelf import Row

NEAREST = 3


def sweep(room: Room) -> list[dict[str, Any]]:
    """FD to teacher samples of every method at every scale, on a smaller set."""
    sizes, group = room.sizes, room.main.first(room.sizes.num_swept)
    reference = room.teacher_samples(sizes.num_swept)
    rows = []
    for who in room.all:
        for steps, guidance in product(sizes.sweep_steps, sizes.sweep):
            seen = room.look(who, steps, guidance, group)
            rows.append({
                "id": who.id, "method": who.name, "steps": steps, "guidance": guidance,
                "fd": frechet_distance(seen.features, reference), **seen.accuracies,
            })  # fmt: skip
    return rows


def draw_sweep(room: Room, who: Contestant) -> None:
    """One contestant's pictures of it, onto the shelf."""
    for steps, guidance in product(room.sizes.sweep_steps, room.sizes.sweep):
        room.look(who, steps, guidance, room.main.first(room.sizes.num_swept))


def best_guidance(swept: list[dict[str, Any]], who: Contestant, steps: int) -> float:
    """The scale of least FD at the swept number of steps nearest to this one."""
    own = [row for row in swept if row["id"] == who.id]
    nearest = min({row["steps"] for row in own}, key=lambda n: (abs(n - steps), n))
    return min((row for row in own if row["steps"] == nearest), key=lambda row: row["fd"])["guidance"]


def table_one(room: Room, swept: list[dict[str, Any]], scenes: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Everybody at 4 and 8 steps, PeRFlow and LCM at more; last the teacher at 25, which is also the floor."""
    rows = [table_row(room, who, steps, best_guidance(swept, who, steps), scenes) for who, steps in table_runs(room)]
    return [*rows, table_row(room, room.teacher, TEACHER_STEPS, room.guidance, scenes)]


def table_runs(room: Room) -> list[tuple[Contestant, int]]:
    """Who is drawn with how many steps; without the teacher's own row."""
    runs = [(who, steps) for who in room.all for steps in room.sizes.table_steps]
    runs += [(who, steps) for who in (room.perflow, room.lcm) if who for steps in room.sizes.more_steps]
    return sorted(runs, key=lambda run: (room.all.index(run[0]), run[1]))


def table_row(room: Room, who: Contestant, steps: int, guidance: float,
              scenes: dict[str, torch.Tensor]) -> dict[str, Any]:  # fmt: skip
    """One line of it."""
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


def differences(room: Room, swept: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """FD to teacher samples, one minus the other, with intervals: what claims rest on."""
    found = by_steps(room, swept)
    for name, lead in leads(room).items():
        found |= by_method(room, swept, name, lead)
    return found


def leads(room: Room) -> dict[str, Contestant]:
    """Who is compared with everybody else, by its part."""
    roles = {"perflow": room.perflow, "fixed": room.fixed}
    return {name: who for name, who in roles.items() if who}


def by_steps(room: Room, swept: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What more steps change, and what the teacher's many steps do."""
    first, second = room.sizes.table_steps[:2]
    found = {
        f"{name}: {second} less {first} steps": _less(room, swept, (who, second), (who, first))
        for name, who in (("perflow", room.perflow), ("lcm", room.lcm)) if who
    }  # fmt: skip
    found[BEFORE_TEACHER] = _less(room, swept, (room.perflow, first), (room.teacher, TEACHER_STEPS))
    return found


def by_method(room: Room, swept: list[dict[str, Any]], name: str, lead: Contestant) -> dict[str, dict[str, float]]:
    """One method less every other, at the same number of steps."""
    return {
        f"{name} less {who.id}, {steps} steps": _less(room, swept, (lead, steps), (who, steps))
        for steps, who in product(room.sizes.table_steps, room.all) if who.id != lead.id
    }  # fmt: skip


def _less(room: Room, swept: list[dict[str, Any]], *runs: tuple[Contestant, int]) -> dict[str, float]:
    own, other = (room.look(who, n, _guidance(room, swept, who, n), room.main).features for who, n in runs)
    return room.difference(own, other, room.teacher_samples())


def _guidance(room: Room, swept: list[dict[str, Any]], who: Contestant, steps: int) -> float:
    """The best; of the teacher's many steps the house's."""
    is_floor = (who.id, steps) == (room.teacher.id, TEACHER_STEPS)
    return room.guidance if is_floor else best_guidance(swept, who, steps)


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
