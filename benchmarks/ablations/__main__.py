"""`python -m benchmarks.ablations`: trains the arms that are not in the results yet, one after the other."""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablations.arms import Arm, arms
from benchmarks.ablations.curve import REFERENCE_STEPS, Ground, Run
from studio.storage import write_whole
from trainer.tabletop.data import default_cache
from trainer.tabletop.recipe import Recipe

RESULTS = Path(__file__).resolve().parents[1] / "results" / "ablations.json"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def is_done(rows: list[dict[str, Any]], arm: Arm, base_sha256: str) -> bool:
    """Whether a row answers for this arm: same configuration, same base."""
    return any((row["config_sha256"], row["base_sha256"]) == (arm.config.sha256, base_sha256) for row in rows)


def train(arm: Arm, ground: Ground) -> dict[str, Any]:
    """One arm's row."""
    run, points = Run(arm, ground), []
    for point in run.points():
        points.append(point)
        print(json.dumps({"arm": arm.name, **point}), flush=True)
    config = arm.config
    return {
        "arm": arm.name,
        "question": arm.question,
        "method": config.method,
        "prediction_type": config.prediction_type,
        "num_time_windows": config.num_time_windows,
        "guidance_mode": config.guidance_mode,
        "seed": config.seed,
        "num_steps": config.num_steps,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "num_solver_steps": config.num_solver_steps,
        "reference_steps": REFERENCE_STEPS,
        "num_noises": len(ground.noise),
        "config_sha256": config.sha256,
        "base_sha256": run.base_sha256,
        "untrained_endpoint_errors": list(run.measured.untrained),
        "points": points,
        "seconds": points[-1]["seconds"],
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120, help="no arm is begun after so many")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--noises", type=int, default=64, help="noises of the paired error")
    parser.add_argument("--arms", nargs="+", default=None, help=f"out of {', '.join(arms(1, 1))}; default: all")
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--work", type=Path, default=default_cache(), help="where the latents are")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    known = arms(arguments.steps, arguments.batch)
    wanted = arguments.arms or list(known)
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"--arms: expected some of {', '.join(known)}, got {', '.join(unknown)}.")
    begun = time.monotonic()
    recipe = Recipe(device="cpu", work=arguments.work, assets=arguments.assets)
    ground = Ground.of(
        arguments.assets, arguments.work / "ablations", recipe.latents(), recipe.held_out_latents(), arguments.noises
    )
    for name in wanted:
        rows = read(arguments.out)
        if is_done(rows, known[name], ground.base_sha256):
            print(f"{name}: done already.", flush=True)
            continue
        if time.monotonic() - begun > arguments.minutes * 60:
            print(f"{name}: not begun, {arguments.minutes:g} minutes are spent.", flush=True)
            break
        kept = [row for row in rows if row["arm"] != name]
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out, json.dumps([*kept, train(known[name], ground)], indent=1).encode())


if __name__ == "__main__":
    main()
