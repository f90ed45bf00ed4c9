"""Waiting for something to become true, and runs to wait for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from studio.runs.config import BaseModel, DatasetRef, TrainingConfig

BASE = BaseModel(id="tabletop", family="tabletop", source="nowhere")


def until(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """The first true value of a condition; fails with its name when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"it did not come true within {seconds:g} s")


def config(name: str = "a run", does: str = "", **fields: Any) -> TrainingConfig:
    """A configuration for the fake trainer; `does` is what it does wrong."""
    chosen = {"num_steps": 5, "dataset": DatasetRef(id="tabletop", kind="tabletop"), **fields}
    return TrainingConfig(name=name, base=BASE, sample_prompts=(does,) if does else (), **chosen)


def is_running(pid: int) -> bool:
    """Whether a process with this pid is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


ENDLESS = 10**6
OURS = os.getpid()
