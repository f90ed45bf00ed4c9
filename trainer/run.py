"""One run from its folder to its result: configuration -> networks -> data -> method -> loop -> export, told by events.

However it ends, the last event says so: `Finished`, `Stopped` (after a checkpoint, exit 0) or `Failed` with a sentence
(exit 1). What is no sentence for a person goes to the process's own log, whole.
Distribution is accelerate's: `python -m torch.distributed.run --nproc_per_node 2 -m trainer RUN`, or `accelerate
launch` on GPUs (with `--cpu` it silently runs one process). Sharded engines (FSDP, DeepSpeed) are refused, since a
checkpoint here is one file of whole tensors.
Knows no maths.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs, set_seed

from studio.errors import InvalidRequest, OutOfMemory, StudioError
from studio.runs.config import TrainingConfig
from studio.runs.events import Failed, Finished, Phase, Started, Stopped, Warned
from studio.runs.folder import RunFolder
from studio.runs.lease import own_run
from trainer.checkpoint_folder import newest, record_of
from trainer.data import TrainingData
from trainer.event_log import EventLog
from trainer.exporting import export
from trainer.methods import method_of
from trainer.networks import Networks
from trainer.precision import half_dtype
from trainer.steps import ConfigChanged, Diverged, NotSaved, StepLoop
from trainer.stopping import StopAsked, Stopping
from trainer.students import Student
from trainer.task import RunTask

log = logging.getLogger(__name__)

REPORT_EVERY_SECONDS = 1.0
NOTHING_TO_SPLIT = "Sharding is set to split, but one process trains this run: it has all weights."
COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the others wait while the first process draws


def train(folder: Path, stopping: Stopping) -> int:
    """Train the run of a folder; the process's exit status."""
    run = RunFolder(folder)
    events = EventLog(path=run.events_path, is_main=os.environ.get("RANK", "0") == "0")
    try:
        return _trained(run, events, stopping)
    except StopAsked:
        events.tell(Stopped(step=saved_step(run)))
        return 0
    except Exception as error:  # the last event must say how it ended, whatever broke
        log.exception("the run failed")
        events.tell(Failed(step=saved_step(run), reason=in_words(error)))
        return 1


def saved_step(run: RunFolder) -> int:
    """Where the newest whole checkpoint stands."""
    path = newest(run.checkpoints_dir, log.warning)
    return 0 if path is None else int(record_of(path)["step"])


def in_words(error: Exception) -> str:
    """An error as a sentence for a person."""
    if isinstance(error, StudioError | Diverged | NotSaved | ConfigChanged):
        return str(error)
    if is_out_of_memory(error):
        return (
            "The device ran out of memory. Halve the batch size and double gradient accumulation (the result is the "
            "same kind), switch gradient checkpointing on, or train a LoRA."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. Free some space and resume: the run goes on from its last checkpoint."
    if isinstance(error, OSError):
        return f"The system refused: {error.strerror or error}. Mend that and resume the run."
    return f"Something broke in the trainer ({type(error).__name__}); its log has the details."


def is_out_of_memory(error: BaseException) -> bool:
    """Whatever a device calls it."""
    named = isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory)
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@dataclass(kw_only=True, eq=False)
class Workshop:
    """Everything a run needs, loaded: what the loop, a preflight and an export share."""

    config: TrainingConfig
    run: RunFolder
    log: EventLog
    accelerator: Accelerator
    networks: Networks
    student: Student
    task: RunTask

    @classmethod
    def open(cls, run: RunFolder, config: TrainingConfig, events: EventLog, stopping: Stopping) -> Workshop:
        """Load the base, make the student, open the data. Raises sentences."""
        accelerator = accelerator_of(config)
        set_seed(config.seed)
        events.tell(Phase(words="loading the base"))
        networks = Networks.load(config.base, str(accelerator.device), config.precision)
        _ = networks.base_sha256, networks.vae_sha256, networks.text_sha256  # before anything is trained
        rank, world = accelerator.process_index, accelerator.num_processes
        data = TrainingData.of(config, cast(Any, networks), cache_dir=run.path / "cache", world=world)
        student = Student.of(config, networks)
        if config.sharding == "split":
            if world > 1:
                student.shard(accelerator.device)
            else:
                events.tell(Warned(kind="note", words=NOTHING_TO_SPLIT, step=0))
        task = RunTask(
            config=config, run=run, log=events, networks=networks, student=student, data=data, stopping=stopping,
            method=method_of(config, networks, student), rank=rank, world=world,
        )  # fmt: skip
        return cls(config=config, run=run, log=events, accelerator=accelerator, networks=networks, student=student,
                   task=task)  # fmt: skip

    def encode(self) -> None:
        """Encode what is not cached yet, telling how far it is."""
        told = 0.0

        def report(fraction: float) -> None:
            nonlocal told
            self.task.stopping.check()
            if self.log.is_main and self.run.take("stop"):
                raise StopAsked
            if time.monotonic() - told > REPORT_EVERY_SECONDS:
                told = time.monotonic()
                self.log.tell(Phase(words="encoding pictures and captions", fraction=fraction))

        self.task.data.build(self.task.rank, self.task.world, report)


def accelerator_of(config: TrainingConfig) -> Accelerator:
    """The device and the processes. Raises `InvalidRequest` for what cannot be."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("device", "auto or cpu: there is no CUDA device here", config.device)
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    is_fp16 = half_dtype("cpu" if on_cpu else "cuda", config.precision) == torch.float16
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="fp16" if is_fp16 else "no",  # for its gradient scaler; the networks cast their own forwards
        kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)],
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise InvalidRequest("launcher", "torchrun, or accelerate's multi_gpu; to split weights over the GPUs set the "
                             "run's `sharding` to split", accelerator.distributed_type.value)  # fmt: skip
    if accelerator.device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.benchmark = False
    return accelerator


def _trained(run: RunFolder, events: EventLog, stopping: Stopping) -> int:
    config = run.config()
    lock = own_run(run) if events.is_main else -1
    try:
        workshop = Workshop.open(run, config, events, stopping)
        return _looped(workshop, stopping)
    finally:
        if lock >= 0:
            os.close(lock)


def _looped(workshop: Workshop, stopping: Stopping) -> int:
    config, events, task = workshop.config, workshop.log, workshop.task
    try:
        workshop.encode()
        task.prepare()
        loop = StepLoop(config=config, task=task, run=workshop.run, log=events, accelerator=workshop.accelerator)
        step = loop.resume()
        events.tell(Started(step=step, num_steps=config.num_steps, config_sha256=config.sha256, pid=os.getpid(),
                            device=_device_name(workshop), num_processes=task.world))  # fmt: skip
        with stopping.patient():
            if not loop.train():
                events.tell(Stopped(step=loop.saved_step))
                return 0
            average = loop.optimization.whole_average(keep=events.is_main)
            if events.is_main:
                _finish(workshop, average)
        return 0
    finally:
        task.data.close()


def _device_name(workshop: Workshop) -> str:
    device: Any = workshop.accelerator.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _finish(workshop: Workshop, average: dict[str, torch.Tensor]) -> None:
    config, task = workshop.config, workshop.task
    workshop.log.tell(Phase(words="writing the result"))
    beats, words = verdict(task.errors, task.measured.untrained, task.loss, task.first_loss)
    export(workshop.run, config, workshop.networks, workshop.student, average, step=config.num_steps, words=words)
    workshop.log.tell(Finished(
        step=config.num_steps, export=workshop.run.export_dir.name, endpoint_errors=task.errors,
        untrained=task.measured.untrained, beats_untrained=beats, words=words,
    ))  # fmt: skip


def verdict(
    errors: tuple[float, ...], untrained: tuple[float, ...], loss: float | None, first_loss: float
) -> tuple[bool | None, str]:
    """Whether training beat doing nothing, and that in a sentence that does not flatter."""
    if errors and untrained:
        ours, theirs = sum(errors) / len(errors), sum(untrained) / len(untrained)
        figures = f"held-out endpoint error {ours:.4f}, untrained {theirs:.4f}"
        if ours < theirs:
            return True, f"Better than the untrained student: {figures} ({1 - ours / theirs:.0%} less)."
        return False, (
            f"Not better than the untrained student: {figures}. More steps, larger batches or a lower learning rate "
            "are needed before this is worth using."
        )
    if loss is None:
        return None, ""
    figures = f"held-out loss {loss:.4f}, before training {first_loss:.4f}"
    if loss < first_loss:
        return True, f"Better than before: {figures}."
    return False, f"Not better than before training: {figures}. More steps, or a lower learning rate, are needed."
