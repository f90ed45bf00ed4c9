"""`python -m trainer --preflight RUN`: two real steps and one sample, before anybody waits for a run.

What it measures is the run itself: the same networks, data and loop, with the first step as warm-up. What cannot work
is refused in a sentence that says what to change; the report is written in either case, and the exit status is 0.
Nothing of the steps is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from studio.runs.config import TrainingConfig
from studio.runs.folder import RunFolder
from studio.runs.preflight import PreflightReport, write_report
from trainer.event_log import EventLog
from trainer.memory import memory_in_use, peak_memory, total_memory
from trainer.run import Workshop, accelerator_of, in_words
from trainer.sampling import TEACHER_STEPS
from trainer.steps import StepLoop
from trainer.stopping import StopAsked, Stopping
from trainer.task import RunTask

log = logging.getLogger(__name__)

NUM_STEPS = 3  # one to warm up, two measured
ENCODING_SECONDS = 10.0  # spent at most on finding out how long the rest takes
SPARE_BYTES = 256 * 1024 * 1024
SAMPLE_BYTES = 200_000


def preflight(folder: Path, stopping: Stopping) -> int:
    """Measure the run of a folder and write `preflight.json`."""
    run = RunFolder(folder)
    report = PreflightReport()
    try:
        config = run.config()
        report = dataclasses.replace(report, disk_free_bytes=shutil.disk_usage(run.path).free)
        report = _measured(run, config, stopping, report)
    except StopAsked:
        return 0
    except Exception as error:  # whatever broke here would break the run
        log.exception("the preflight failed")
        report = dataclasses.replace(report, refusals=(in_words(error),))
    write_report(run, report)
    return 0


def _measured(run: RunFolder, config: TrainingConfig, stopping: Stopping, report: PreflightReport) -> PreflightReport:
    began = time.monotonic()
    device = accelerator_of(config).device
    workshop = Workshop.open(run, config, EventLog(path=run.events_path, is_main=False), stopping)
    report = dataclasses.replace(
        report, device=device.type, device_memory_bytes=total_memory(device),
        disk_needed_bytes=disk_needed(config, sum(p.nbytes for p in workshop.task.parameters.values()),
                                      workshop.networks.pipe),
    )  # fmt: skip
    if refusal := _no_space(report):
        return dataclasses.replace(report, refusals=(refusal,))
    task = workshop.task
    opened = time.monotonic() - began
    encoding = seconds_to_encode(task.data.build)
    began = time.monotonic()
    task.prepare()
    seconds_start = opened + encoding + time.monotonic() - began
    loop = StepLoop(config=config, task=task, run=run, log=task.log, accelerator=workshop.accelerator)
    seconds = [_timed(loop) for _ in range(NUM_STEPS)][1:]
    seconds_per_step = sum(seconds) / len(seconds)
    validating, sampling = _seconds_of(task)
    task.data.close()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    num_samples = config.batch_size * config.gradient_accumulation * workshop.accelerator.num_processes
    return dataclasses.replace(
        report, seconds_per_step=seconds_per_step, seconds_per_sample=sampling, seconds_start=seconds_start,
        seconds_total=seconds_start + total_seconds(config, seconds_per_step, validating, sampling),
        samples_per_second=num_samples / seconds_per_step, peak_memory_bytes=peak_memory(device),
        resident_memory_bytes=memory_in_use(device), refusals=_too_tight(config, peak_memory(device), device),
        notes=_notes(config, workshop),
    )  # fmt: skip


def _timed(loop: StepLoop) -> float:
    began = time.monotonic()
    loop.one_step()
    if loop.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - began


def _seconds_of(task: RunTask) -> tuple[float, float]:
    """One measurement on held-out pictures, and one grid of the fewest steps scaled to all of them."""
    began = time.monotonic()
    task.method.endpoint_errors(task.method.network, task.measured)
    task.method.held_out_loss(task.method.network, task.measured)
    validating = time.monotonic() - began
    began = time.monotonic()
    steps = min(task.config.sample_steps)
    task.sampler.picture(task.sampler.student(task.method.network, steps))
    return validating, (time.monotonic() - began) * sum(task.config.sample_steps) / steps


def seconds_to_encode(build: Callable[..., None]) -> float:
    """How long encoding all pictures takes: some of them are encoded now, for at most `ENCODING_SECONDS`."""
    began, told = time.monotonic(), list[float]()

    def report(fraction: float) -> None:
        told.append(fraction)
        if time.monotonic() - began > ENCODING_SECONDS and fraction > told[0]:
            raise _Enough

    with contextlib.suppress(_Enough):
        build(report=report)
    elapsed = time.monotonic() - began
    share = told[-1] - told[0]
    return elapsed * (1 - told[0]) / share if share else elapsed


class _Enough(Exception):
    """As much as an estimate needs was encoded."""


def total_seconds(config: TrainingConfig, step: float, validating: float, sampling: float) -> float:
    """All steps with what happens between them; the teacher's pictures once."""
    grids = config.num_steps // config.sample_every_steps + 2
    measurements = config.num_steps // config.validate_every_steps + 2
    teacher = sampling * TEACHER_STEPS / sum(config.sample_steps)
    return config.num_steps * step + grids * sampling + measurements * validating + teacher


def disk_needed(config: TrainingConfig, trained_bytes: int, pipe: object) -> int:
    """Checkpoints (weights, average, two moments; one more while it is written), the result, and the grids."""
    checkpoints = 4 * trained_bytes * (config.num_checkpoints_kept + 1)
    parts = [part for part in vars(pipe).values() if isinstance(part, torch.nn.Module)]
    whole = sum(p.nbytes for part in parts for p in part.parameters())
    result = 2 * (whole if config.method == "diffusion" and config.student == "full" else trained_bytes)
    grids = (config.num_steps // config.sample_every_steps + 2) * len(config.sample_steps) * SAMPLE_BYTES
    return checkpoints + result + grids


def _no_space(report: PreflightReport) -> str:
    needed, free = report.disk_needed_bytes + SPARE_BYTES, report.disk_free_bytes
    if needed <= free:
        return ""
    return (f"The run needs {needed / 2**30:.1f} GB on disk for its checkpoints and result, and {free / 2**30:.1f} GB "
            "are free: free some space, keep fewer checkpoints, or train a LoRA.")  # fmt: skip


def _too_tight(config: TrainingConfig, peak: int, device: torch.device) -> tuple[str, ...]:
    total = total_memory(device)
    if total is None or peak <= 0.98 * total:
        return ()
    return (f"The steps took {peak / 2**30:.1f} of {total / 2**30:.1f} GB: halve the batch size "
            f"({config.batch_size}) and double gradient accumulation.",)  # fmt: skip


def _notes(config: TrainingConfig, workshop: Workshop) -> tuple[str, ...]:
    found = [*workshop.task.data.warnings, *workshop.task.method.notes]
    if config.sharding == "split":
        found.append("Measured in one process that has all weights; split over several, each needs less memory.")
    if config.warmup_steps >= config.num_steps:
        found.append("The learning rate is still rising at the last step: take fewer warm-up steps.")
    return tuple(found)
