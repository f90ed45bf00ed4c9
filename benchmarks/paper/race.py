"""The race at equal calls: methods trained alike, all at 4 steps without guidance, so that a picture costs 4 calls.

PeRFlow runs as the LoRA of its rivals' rank (`room.racer`). Distances are to the table's teacher samples; everybody
draws the same prompts from the same noise, so differences are paired, and what the reference lacks falls out of them.
"""

from __future__ import annotations

from typing import Any

from benchmarks.drawing import Contestant
from benchmarks.paper.room import Pictures, Room

STEPS, GUIDANCE = 4, 1.0


def racers(room: Room) -> list[Contestant]:
    """PeRFlow first; nobody where it has no weights of the rivals' size."""
    return [room.racer, *room.rivals] if room.racer else []


def raced(room: Room, who: Contestant) -> Pictures:
    """What one of them draws."""
    return room.look(who, STEPS, GUIDANCE, room.raced)


def race(room: Room) -> list[dict[str, Any]]:
    """FD to teacher samples, and by how much PeRFlow's is larger than each rival's."""
    reference, rows = room.teacher_samples(), []
    for who in racers(room):
        seen = raced(room, who)
        lead = raced(room, room.racer) if room.racer and who is not room.racer else None
        rows.append({
            "id": who.id, "method": who.name, "fd": room.distance("fd", seen.features, reference),
            "perflow less it": room.difference(lead.features, seen.features, reference) if lead else None,
            **seen.accuracies,
        })  # fmt: skip
    return rows
