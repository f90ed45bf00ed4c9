"""What happens in a training run, as JSON lines: the trainer appends, any number of readers follow by byte offset.

    {"event": "step", "time": 1781.2, "step": 12, "loss": 0.031, ...}

A line is whole once its newline is there; a reader leaves a torn last line for later, and skips a broken one. `time` is
seconds since the epoch. Knows nothing of who writes when.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainingEvent:
    """The base of all events."""

    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Started(TrainingEvent):
    """A process took the run up, at `step` (0, or where the last checkpoint stood)."""

    step: int
    num_steps: int
    config_sha256: str
    pid: int
    device: str = "cpu"
    num_processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Phase(TrainingEvent):
    """What is being done, in words ("encoding pictures"), with `fraction` in [0, 1] where it is known."""

    words: str
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class StepLogged(TrainingEvent):
    """One optimizer step; `seconds` is its duration, `samples_per_second` over the last few."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    samples_per_second: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Validated(TrainingEvent):
    """Held-out endpoint error per time window, of the averaged student; `untrained` is the base's own (DDIM-K)."""

    step: int
    endpoint_errors: tuple[float, ...]
    untrained: tuple[float, ...]
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class SampleSaved(TrainingEvent):
    """A grid of pictures, by its file name in the run's samples folder. `num_steps` 0 is the teacher, many steps."""

    step: int
    num_steps: int
    file: str
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(TrainingEvent):
    """A checkpoint is complete on disk: from here a killed run goes on."""

    step: int
    file: str
    seconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Warned(TrainingEvent):
    """What a person should know, in a sentence. `kind` is stable: "nan", "noise", "disk", "checkpoint", "data",
    "memory", or "note" for what is no trouble."""

    kind: str
    words: str
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Paused(TrainingEvent):
    """The device was given to someone else for a while (or taken back, `paused` False)."""

    paused: bool
    step: int


@dataclass(frozen=True, kw_only=True)
class Stopped(TrainingEvent):
    """Ended early on request, after a checkpoint; the run can be resumed."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Finished(TrainingEvent):
    """All steps are done and the result is exported, `export` being the folder's name in the run."""

    step: int
    export: str
    endpoint_errors: tuple[float, ...] = ()
    untrained: tuple[float, ...] = ()
    beats_untrained: bool | None = None
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Failed(TrainingEvent):
    """Ended by an error a person can read; `step` is that of the last good checkpoint."""

    step: int
    reason: str


KINDS: MappingProxyType[str, type[TrainingEvent]] = MappingProxyType({
    "started": Started, "phase": Phase, "step": StepLogged, "validated": Validated, "sample": SampleSaved,
    "checkpoint": CheckpointSaved, "warned": Warned, "paused": Paused, "stopped": Stopped, "finished": Finished,
    "failed": Failed,
})  # fmt: skip
_NAMES = {kind: name for name, kind in KINDS.items()}


def to_line(event: TrainingEvent) -> str:
    """One JSON line, newline included; NaN and infinity become null-free text so that every parser reads it."""
    values = {"event": _NAMES[type(event)], **dataclasses.asdict(event)}
    return json.dumps(_plain(values), ensure_ascii=False, allow_nan=False) + "\n"


def from_line(line: str) -> TrainingEvent | None:
    """The event of a line, or `None` if it is broken or of a newer version's kind."""
    try:
        values = json.loads(line)
        kind = KINDS[values.pop("event")]
        known = {each.name: each.type for each in dataclasses.fields(kind)}
        return kind(**{
            key: value if known[key] == "str" else _numbers(value) for key, value in values.items() if key in known
        })  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_events(path: Path, offset: int = 0) -> tuple[list[TrainingEvent], int]:
    """The events after a byte offset and the offset to ask from next; a missing file has none."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read()
    except FileNotFoundError:
        return [], offset
    whole = block[: block.rfind(b"\n") + 1]
    found = [from_line(line) for line in whole.decode("utf-8", "replace").splitlines()]
    return [event for event in found if event is not None], offset + len(whole)


def _plain(value: Any) -> Any:
    """JSON has no NaN: such numbers travel as the strings "nan", "inf", "-inf"."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_numbers(each) for each in value)
    return float(value) if value in ("nan", "inf", "-inf") else value
