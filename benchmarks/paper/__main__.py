"""`python -m benchmarks.paper [--quick]`: measures what is not on the shelf yet, then writes the report twice.

Processes share what there is to draw; afterwards this one times, reads everything from the shelf, and writes. A run
that was stopped goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.drawing import NOISE_SEED, PRESETS, quieten
from benchmarks.paper.document import to_html, to_markdown
from benchmarks.paper.figures import all_figures
from benchmarks.paper.habits import diversity, dynamic, fifth_step, negatives
from benchmarks.paper.parts import all_parts, parts_of
from benchmarks.paper.paths import paired, windows
from benchmarks.paper.race import race
from benchmarks.paper.references import references
from benchmarks.paper.report import TITLE, blocks, card_table
from benchmarks.paper.room import DOUBLES_FIRST, REFERENCE_FIRST, TEACHER_STEPS, Room
from benchmarks.paper.shelf import Shelf
from benchmarks.paper.sizes import FULL, QUICK, Sizes
from benchmarks.paper.styled import styled
from benchmarks.paper.tables import cost, differences, floors, sweep, table_one
from benchmarks.paper.workers import PartFailed, Tally, in_turn, share
from studio.catalog import Catalog
from studio.storage import write_whole
from trainer.tabletop.data import TEST_SEEDS, default_cache

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SHOWN_STEPS = 4


def measured(room: Room) -> dict[str, Any]:
    """All evidence but the setting."""
    scenes = references(room)
    swept = sweep(room)
    table = table_one(room, swept, scenes)
    found: dict[str, Any] = {"sweep": swept, "table": table, "floors": floors(room, scenes)}
    found["paired"], found["windows"] = paired(room), windows(room)
    found["diversity"], found["negative"] = diversity(room, swept, scenes["train"]), negatives(room, swept)
    found["fifth_step"], found["dynamic"] = fifth_step(room, swept), dynamic(room, swept)
    found["styled"], found["race"] = styled(room, swept), race(room)
    found["differences"], found["cost"] = differences(room, swept), cost(room, table)
    for name in ("ablations", "transfer"):
        path = RESULTS / f"{name}.json"
        found[name] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def setting(room: Room, arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What everything was measured with and on."""
    sizes = room.sizes
    taken = f", {room.shelf.num_taken} rows taken from earlier runs" if room.shelf.num_taken else ""
    return {
        "quick": arguments.quick, "command": f"make paper{' ARGS=--quick' if arguments.quick else ''}",
        "perflow": room.perflow.id, "lcm": room.lcm.id if room.lcm else "", "teacher": room.teacher.id,
        **{role: who.id if (who := getattr(room, role)) else "" for role in ("sync", "fixed", "racer")},
        "rivals": [each.id for each in room.rivals],
        "guidance": room.guidance, "teacher_steps": TEACHER_STEPS, "noise_seed": NOISE_SEED,
        "num_pictures": sizes.num_pictures, "num_raced": sizes.num_raced, "num_swept": sizes.num_swept,
        "num_paired": sizes.num_paired, "reference_steps": sizes.reference_steps,
        "num_diverse": sizes.num_diverse, "num_seeds": sizes.num_seeds, "num_doubles": sizes.num_doubles,
        "num_styled": sizes.num_styled, "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {_processes(arguments.workers)}, torch {torch.__version__}",
        "time": f"{seconds / 60:.1f} minutes{taken}",
        "prompts": f"scenes {TEST_SEEDS + 1_000_000} and {TEST_SEEDS + 2_000_000} onwards (one thing, two things); the "
                   f"reference's {REFERENCE_FIRST:,} further, those of the fifth step {DOUBLES_FIRST:,}",
        "hashes": {**room.facts, **{id: value for id, value in room.hashes.items() if value}},
    }  # fmt: skip


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''} x {torch.get_num_threads()} thread"


def shown(room: Room, table: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A few pictures of everybody at 4 steps, and of the teacher."""
    found = {}
    known = {each.id: each for each in [*room.all, room.teacher]}
    for row in [each for each in table if each["steps"] == SHOWN_STEPS] + [table[-1]]:
        seen = room.look(known[row["id"]], row["steps"], row["guidance"], room.main)
        found[f"{row['method']}, {row['steps']} steps, CFG {row['guidance']:g}"] = seen.shown
    return found


def house_guidance(presets: Path) -> float:
    """The teacher's scale: the one in the shipped delta weights, else the one that the catalogue advises for them."""
    catalog = Catalog.load(presets)
    return catalog.accelerator(catalog.model("tabletop").default_accelerator).teachers_guidance[0]


def main() -> None:
    """Measure, then write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sets, into a folder of their own")
    parser.add_argument("--guidance", type=float, default=None, help="of the teacher samples; default: the catalogue's")
    parser.add_argument("--assets", type=Path, default=ROOT / "assets")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="rendered scenes and the fine-tuned base")
    parser.add_argument("--work", type=Path, default=None, help="measured rows; default: in the cache")
    parser.add_argument("--out", type=Path, default=None, help="default: docs/paper, quick: in the temporary folder")
    parser.add_argument("--workers", type=_at_least_one, default=num_cores(), help="processes; default: one a core")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same numbers whatever the number of processes, and times of one thread
    quieten()
    name = "paper-quick" if arguments.quick else "paper"
    out = arguments.out or (Path(tempfile.gettempdir()) / f"perflow-{name}" if arguments.quick else ROOT / "docs/paper")
    work = arguments.work or arguments.cache / name
    try:
        run(arguments, QUICK if arguments.quick else FULL, work, out)
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from here.")
    except PartFailed as error:
        sys.exit(str(error))


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at_least_one(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more processes, got {count}")
    return count


def run(arguments: argparse.Namespace, sizes: Sizes, work: Path, out: Path) -> None:
    """One run into a folder."""
    start, shelf = time.monotonic(), Shelf(folder=work)
    make_room = partial(
        Room, assets=arguments.assets, shelf=shelf, sizes=sizes, guidance=arguments.guidance or house_guidance(PRESETS),
        cache=arguments.cache, style_cache=work if arguments.quick else arguments.cache,
    )  # fmt: skip
    with tqdm(unit="row", unit_scale=True, smoothing=0.05) as bar:

        def report(rows: int, words: str) -> None:
            bar.set_description(words, refresh=False)
            bar.update(rows)

        tally = Tally(report)
        room = make_room(advance=tally.advance)
        parts = list(all_parts(room))
        bar.reset(sum(part.rows for part in parts))
        if arguments.workers == 1:
            in_turn(parts, tally)
        else:
            share(parts, partial(parts_of, make_room), arguments.workers, report)
        evidence = measured(room)
    evidence["setting"] = setting(room, arguments, time.monotonic() - start)
    pictures = all_figures(evidence, shown(room, evidence["table"]), out)
    content = list(blocks(evidence, pictures))
    write_whole(out / "report.md", to_markdown(content).encode())
    write_whole(out / "table.md", to_markdown(list(card_table(evidence))).encode())
    write_whole(out / "report.html", to_html(content, TITLE).encode())
    write_whole(out / "evidence.json", json.dumps(evidence, indent=1).encode())
    print(f"{shelf.num_made} rows measured, {shelf.num_taken} taken; seed {NOISE_SEED}; {out / 'report.md'}")


if __name__ == "__main__":
    main()
