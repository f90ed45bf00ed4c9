"""Runs as a trainer would leave them, written by the tests through the same events: what the page is tried against.

`python -m tests.ui.written_runs SECONDS_A_STEP [--preflight | --publish REPO | --lora RANK] RUN_FOLDER` lives like a
trainer until it is done or asked to stop, and stands in for one where a test is about the page; the numbers are made
up, the files are real.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw

from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from studio.runs.digest import RunFollower
from studio.runs.events import (
    CheckpointSaved,
    Finished,
    Phase,
    SampleSaved,
    Started,
    StepLogged,
    Stopped,
    TrainingEvent,
    Validated,
    to_line,
)
from studio.runs.exports import Export, write_export
from studio.runs.folder import RunFolder
from studio.runs.preflight import PreflightReport, write_report
from studio.specs import DeltaSpec

BASE = BaseModel(id="tabletop", family="tabletop", source="/nowhere")
UNTRAINED = (0.062, 0.048, 0.031, 0.022)
PROMPTS = ("a red cube", "a blue cone", "a green tree", "a white mug")


def config(**changes: object) -> TrainingConfig:
    """A small run's configuration."""
    values: dict = {
        "name": "A written run", "base": BASE, "dataset": DatasetRef(id="tabletop", kind="tabletop"), "num_steps": 60,
        "validate_every_steps": 10, "sample_every_steps": 20, "checkpoint_every_steps": 20, "batch_size": 4,
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})


def append(run: RunFolder, *events: TrainingEvent) -> None:
    """What the trainer does with an event."""
    with run.events_path.open("a", encoding="utf-8") as file:
        file.writelines(map(to_line, events))


def step_at(step: int, of: int, *, when: float) -> StepLogged:
    """A step whose loss falls, with some noise."""
    loss = 0.02 + 0.1 * math.exp(-4 * step / of) * (1 + 0.3 * math.sin(step * 12.9898))
    rate = 5e-5 * min(1.0, step / (0.1 * of)) * (0.5 + 0.5 * math.cos(math.pi * step / of))
    return StepLogged(time=when, step=step, loss=loss, learning_rate=rate, gradient_norm=0.4, seconds=1.2,
                      samples_per_second=3.3, memory_bytes=1_900_000_000 + step * 100_000)  # fmt: skip


def measured(step: int, of: int, *, when: float, better: bool = True) -> Validated:
    """Held-out errors that rise a little and then fall below the untrained ones (or stay above)."""
    gain = (0.10 if better else -0.05) * step / of
    bump = 0.04 * math.exp(-(((step - 0.15 * of) / (0.1 * of)) ** 2)) if step else 0.0
    errors = tuple(level * (1 - gain * (1 + 0.3 * window) + bump) for window, level in enumerate(UNTRAINED))
    return Validated(time=when, step=step, endpoint_errors=errors, untrained=UNTRAINED)


def sample(run: RunFolder, step: int, num_steps: int) -> SampleSaved:
    """A grid of four coloured pictures that gets sharper edges with every step."""
    run.samples_dir.mkdir(exist_ok=True)
    grid = Image.new("RGB", (4 * 128, 128), "#dfe6ee")
    draw = ImageDraw.Draw(grid)
    for place, colour in enumerate(("#d3372f", "#3f6fd1", "#3d9950", "#f4f1ea")):
        wide = 56 if num_steps == 0 else 20 + 4 * num_steps + step // 10
        left = 128 * place + 64 - wide // 2
        draw.rectangle((left, 64 - wide // 2, left + wide, 64 + wide // 2), fill=colour, outline="#333333")
    file = f"{step:08d}-{num_steps}.png"
    grid.save(run.samples_dir / file)
    return SampleSaved(step=step, num_steps=num_steps, file=file, prompts=PROMPTS)


def write_start(run: RunFolder, *, pid: int = 1, when: float | None = None) -> None:
    """Everything before the first step."""
    wanted, when = run.config(), time.time() if when is None else when
    grids = [sample(run, 0, count) for count in (0, *wanted.sample_steps)]
    append(run, Started(time=when, step=0, num_steps=wanted.num_steps, config_sha256=wanted.sha256, pid=pid),
           Phase(time=when, words="measuring the untrained student"),
           measured(0, wanted.num_steps, when=when), *grids)  # fmt: skip


def write_steps(run: RunFolder, first: int, last: int, *, when: float, seconds: float = 1.2) -> None:
    """Steps first to last, with measurements, samples and checkpoints where the configuration wants them."""
    wanted = run.config()
    for step in range(first, last + 1):
        now = when + (step - first + 1) * seconds
        append(run, step_at(step, wanted.num_steps, when=now))
        if step % wanted.validate_every_steps == 0:
            append(run, measured(step, wanted.num_steps, when=now))
        if step % wanted.sample_every_steps == 0:
            append(run, *(sample(run, step, count) for count in wanted.sample_steps))
        if step % wanted.checkpoint_every_steps == 0:
            append(run, CheckpointSaved(step=step, file=f"step-{step:08d}", seconds=0.3, bytes=190_000_000))


def write_end(run: RunFolder, *, better: bool = True) -> None:
    """A finished run; what it exported is another matter."""
    last = measured(run.config().num_steps, run.config().num_steps, when=time.time(), better=better)
    append(run, Finished(step=last.step, export="export", endpoint_errors=last.endpoint_errors,
                         untrained=last.untrained, beats_untrained=better))  # fmt: skip


def write_result(run: RunFolder) -> None:
    """An export that the catalogue lists; its weights are no weights."""
    run.export_dir.mkdir(exist_ok=True)
    (run.export_dir / "perflow_delta.safetensors").write_bytes(b"no weights")
    (run.export_dir / "README.md").write_text("---\nlicense: mit\n---\n# A card\n\nTrained **here**.\n")
    facts = DeltaSpec(family="tabletop", num_time_windows=run.config().num_time_windows)
    export = Export(kind="perflow_delta", family="tabletop", sampler="perflow", base_id="tabletop", delta=facts,
                    title=run.config().name, step=run.config().num_steps, sha256="0" * 64)  # fmt: skip
    write_export(run, export)


def main() -> None:
    """Live like a trainer: measure, publish, or take a step now and then and obey a request to stop."""
    pace, run = float(sys.argv[1]), RunFolder(Path(sys.argv[-1]))
    if "--preflight" in sys.argv:
        write_report(run, PreflightReport(
            seconds_per_step=1.5, seconds_per_sample=4.0, seconds_start=5.0, seconds_total=7200.0, device="cpu",
            peak_memory_bytes=2_000_000_000, device_memory_bytes=8_000_000_000, disk_needed_bytes=300_000_000,
            disk_free_bytes=9_000_000_000, notes=("Written by the tests.",)))  # fmt: skip
        return
    if "--lora" in sys.argv:
        print("2026-01-02 03:04:05 trainer.publishing: written to export/lora-32; it loses 12.0 % of the norm",
              file=sys.stderr)  # fmt: skip
        return
    if "--publish" in sys.argv:
        repo = sys.argv[sys.argv.index("--publish") + 1]
        if repo.endswith("/refused"):
            sys.exit(f"2026-01-02 03:04:05 trainer.publishing: the hub says no to {os.environ['HF_TOKEN']}")
        return
    with RunFollower(run.events_path).reading() as digest:
        first = digest.checkpoints[-1].step if digest.checkpoints else 0
    wanted = run.config()
    print("a line of the log", flush=True)
    if first:
        append(run, Started(step=first, num_steps=wanted.num_steps, config_sha256=wanted.sha256, pid=os.getpid()))
    else:
        write_start(run, pid=os.getpid())
    for step in range(first + 1, wanted.num_steps + 1):
        if run.take("stop"):
            append(run, CheckpointSaved(step=step - 1, file=f"step-{step - 1:08d}", seconds=0.1, bytes=1000),
                   Stopped(step=step - 1))  # fmt: skip
            return
        time.sleep(pace)
        write_steps(run, step, step, when=time.time(), seconds=0)
    write_result(run)
    write_end(run)


if __name__ == "__main__":
    main()
