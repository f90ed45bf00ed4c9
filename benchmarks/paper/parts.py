"""The evidence in parts that only fill the shelf, for `workers` to share; afterwards all of it is read from there.

No two parts make the same row, unless one needs the other. Times are no part: they want the machine to themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from benchmarks.drawing import Contestant, quieten
from benchmarks.paper.habits import FEW, diversity, dynamic, fifth_step, negatives
from benchmarks.paper.paths import paired_rows, target_of, truth, windows
from benchmarks.paper.race import STEPS, race, raced, racers
from benchmarks.paper.references import NAMES, reference, references
from benchmarks.paper.room import TEACHER_STEPS, Room
from benchmarks.paper.styled import fine_tuned, styled
from benchmarks.paper.tables import (
    best_guidance,
    by_method,
    by_steps,
    draw_sweep,
    floors,
    leads,
    sweep,
    table_row,
    table_runs,
)
from benchmarks.paper.workers import Advance, Part

ROWS_A_SECOND = 75  # of one thread of a Xeon: what parts that draw nothing count for
SECONDS_A_SCENE, SECONDS_A_DISTANCE = 0.1, 0.018
TEACHERS_CALLS = 2 * TEACHER_STEPS
SWEPT = ("teacher", "sweep")


def parts_of(make_room: Callable[..., Room], advance: Advance) -> list[Part]:
    """Those of a room of their own, in a process that starts here."""
    quieten()
    return list(all_parts(make_room(advance=advance)))


def all_parts(room: Room) -> Iterator[Part]:
    """Every part of a room's evidence."""
    swept = cache(partial(sweep, room))
    yield from _references(room)
    yield from _swept_and_paired(room)
    yield from _raced(room)
    yield from _tables(room, swept)
    yield from _habits(room, swept)


def _references(room: Room) -> Iterator[Part]:
    sizes = room.sizes
    yield Part(kind="teacher", name="teacher samples", rows=TEACHERS_CALLS * sizes.num_pictures,
               fill=room.teacher_samples)  # fmt: skip
    yield Part(kind="style", name="the fine-tuned base", fill=partial(fine_tuned, room),
               rows=_rows_in(60 * sizes.style_minutes + SECONDS_A_SCENE * sizes.num_style_scenes))  # fmt: skip
    for name in NAMES:
        yield Part(kind="scenes", name=f"scenes, {name}", rows=_rows_in(SECONDS_A_SCENE * sizes.num_pictures),
                   fill=partial(reference, room, name))  # fmt: skip


def _swept_and_paired(room: Room) -> Iterator[Part]:
    sizes = room.sizes
    for target in sorted({target_of(room, who) for who in room.all}):
        yield Part(kind="truth", name=f"the teacher's ODE, CFG {target:g}",
                   rows=2 * sizes.reference_steps * sizes.num_paired,
                   fill=partial(truth, room, target, room.main.first(sizes.num_paired)))  # fmt: skip
    yield Part(kind="windows", name="windows", fill=partial(windows, room),
               rows=sizes.num_paths * (3 * sizes.reference_steps + sizes.own_path_steps * len(room.all)))  # fmt: skip
    for who in room.all:
        yield Part(kind="sweep", name=f"sweep, {who.id}", fill=partial(draw_sweep, room, who),
                   rows=sizes.num_swept * sum(sizes.sweep_steps) * (2 * len(sizes.sweep) - 1))  # fmt: skip
        yield Part(kind="paired", name=f"paired, {who.id}", fill=partial(paired_rows, room, who), needs=("truth",),
                   rows=sizes.num_paired * sum(sizes.paired_steps) * _calls_a_step(who))  # fmt: skip


def _raced(room: Room) -> Iterator[Part]:
    sizes = room.sizes
    for who in racers(room):
        yield Part(kind="raced", name=f"race, {who.id}", rows=STEPS * sizes.num_raced, fill=partial(raced, room, who))
    yield Part(kind="race", name="race, distances", needs=("teacher", "raced"),
               rows=_rows_of_distances(room, 3 * len(racers(room))), fill=partial(race, room))  # fmt: skip


def _tables(room: Room, swept: Callable[[], list[dict[str, Any]]]) -> Iterator[Part]:
    sizes, scenes = room.sizes, cache(partial(references, room))

    def fill(who: Contestant, steps: int) -> None:
        table_row(room, who, steps, best_guidance(swept(), who, steps), scenes())

    for who, steps in table_runs(room):
        yield Part(kind="table", name=f"table, {who.id}, {steps} steps", needs=(*SWEPT, "scenes"),
                   rows=sizes.num_pictures * steps * _calls_a_step(who) + _rows_of_distances(room, 3),
                   fill=partial(fill, who, steps))  # fmt: skip
    yield Part(kind="teacher's row", name="table, the teacher", needs=("teacher", "scenes"),
               rows=sizes.num_pictures * TEACHERS_CALLS + _rows_of_distances(room, 3),
               fill=lambda: table_row(room, room.teacher, TEACHER_STEPS, room.guidance, scenes()))  # fmt: skip
    yield Part(kind="floors", name="floors", needs=("teacher", "scenes", "teacher's row"),
               rows=_rows_of_distances(room, 3), fill=lambda: floors(room, scenes()))  # fmt: skip
    yield Part(kind="differences", name="differences by steps", needs=("table", "teacher's row"),
               rows=_rows_of_distances(room, 6), fill=lambda: by_steps(room, swept()))  # fmt: skip
    for name, lead in leads(room).items():
        yield Part(kind="differences", name=f"differences, {name}", needs=("table",),
                   rows=_rows_of_distances(room, 2 * len(sizes.table_steps) * (len(room.all) - 1)),
                   fill=lambda name=name, lead=lead: by_method(room, swept(), name, lead))  # fmt: skip


def _habits(room: Room, swept: Callable[[], list[dict[str, Any]]]) -> Iterator[Part]:
    sizes = room.sizes
    few = FEW * sum(_calls_a_step(who) for who in room.all if who.is_trained)
    yield Part(kind="diversity", name="diversity", needs=(*SWEPT, "scenes"),
               rows=sizes.num_diverse * sizes.num_seeds * (TEACHERS_CALLS + few),
               fill=lambda: diversity(room, swept(), reference(room, "train")))  # fmt: skip
    yield Part(kind="negatives", name="negative prompts", needs=SWEPT,
               rows=sizes.num_negative * (3 * TEACHERS_CALLS + 2 * 2 * 2 * FEW),
               fill=lambda: negatives(room, swept()))  # fmt: skip
    yield Part(kind="fifth step", name="the fifth step", needs=SWEPT,
               rows=sizes.num_doubles * 22 * _calls_a_step(room.perflow),
               fill=lambda: fifth_step(room, swept()))  # fmt: skip
    yield Part(kind="dynamic", name="dynamic CFG", needs=SWEPT, rows=sizes.num_swept * 2 * FEW * len(sizes.dynamic),
               fill=lambda: dynamic(room, swept()))  # fmt: skip
    yield Part(kind="styled", name="on the fine-tuned base", needs=(*SWEPT, "style"),
               rows=sizes.num_styled * 2 * (TEACHERS_CALLS + 4 * 2 * FEW),
               fill=lambda: styled(room, swept()))  # fmt: skip


def _calls_a_step(who: Contestant) -> int:
    """Mostly: whose weights have guidance in them is best without."""
    return 1 if who.baked else 2


def _rows_in(seconds: float) -> int:
    return round(ROWS_A_SECOND * seconds)


def _rows_of_distances(room: Room, count: int) -> int:
    """Of as many FDs with their intervals."""
    return _rows_in(SECONDS_A_DISTANCE * count * room.sizes.num_resamples)
