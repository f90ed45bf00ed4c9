"""Where and in which precision to compute, and what to do when memory runs out.

`dtype="auto"` is fp16 on CUDA (what the published weights are stored in). On a CPU it is bf16 where the processor has
matrix units for it (AMX) and fp32 elsewhere; README's latency table holds the measurement behind that rule.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from studio.errors import InvalidRequest, OutOfMemory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Activations and the workspace of attention come on top of the weights; a rough factor, checked before placing.
ROOM_OVER_WEIGHTS = 1.4

Made = TypeVar("Made")


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else Apple's, else the processor."""
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise InvalidRequest("device", "auto, cpu, cuda, cuda:<number> or mps", name) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of the networks' weights; latents and the solver's arithmetic are fp32 always."""
    if name in DTYPES:
        if device.type == "cpu" and name == "fp16":
            raise InvalidRequest("dtype", "fp32 or bf16 on a processor", name)
        return DTYPES[name]
    if name != "auto":
        raise InvalidRequest("dtype", f"auto or one of {', '.join(DTYPES)}", name)
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and has_bf16_matrix_units() else torch.float32


def has_bf16_matrix_units() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware (Intel AMX)."""
    return torch.cpu._is_amx_tile_supported()


def place(pipe: Any, device: torch.device) -> str:
    """Bring a pipeline to its device and say how it lies there: whole, or offloaded model by model when it is tight."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if free_bytes < ROOM_OVER_WEIGHTS * num_weight_bytes(pipe):
            pipe.enable_model_cpu_offload(device=device)
            return "offloaded"
    pipe.to(device)
    return "whole"


def num_weight_bytes(pipe: Any) -> int:
    """The size of all parameters of a pipeline, in bytes."""
    parts = (part for part in pipe.components.values() if isinstance(part, nn.Module))
    return sum(math.prod(weight.shape) * weight.element_size() for part in parts for weight in part.parameters())


def free_memory_bytes(device: torch.device) -> int:
    """What this process could still take: of the device, or of the machine (and its container) for a processor."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_machine_free_bytes(), _container_free_bytes())


def _machine_free_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # no /proc: call half of it free


def _container_free_bytes() -> int:
    """What a memory limit (cgroup v2) leaves, file cache counted as free; endless without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # "max" is no number
        return sys.maxsize


class PeakMemory:
    """The most memory that was held since `start`: on CUDA by tensors, on a processor by the whole process (Linux)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Begin to watch."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "cpu":
            with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then the process's own so far
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def num_bytes(self) -> int | None:
        """The peak, `None` where nobody tells."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _process_peak_bytes() if self._device.type == "cpu" else None


def _process_peak_bytes() -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def release_memory() -> None:
    """Give cached device memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def or_out_of_memory(doing: str, advice: str, work: Callable[[], Made]) -> Made:
    """The result of `work`, or an `OutOfMemory` that says what was being done and what to try.

    It is raised outside the `except` block, so that the failed call's frames, and the tensors they hold, are gone by
    the time memory is released.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
    release_memory()
    raise OutOfMemory(f"The device ran out of memory while {doing}; what could be freed was freed. {advice}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
