"""How much memory this process uses, on whatever device it computes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


def memory_in_use(device: torch.device) -> int:
    """Bytes in use now: of the GPU's allocator, or the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0  # not told by this system


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use at once since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(memory_in_use(device), peak if sys.platform == "darwin" else peak * 1024)


def total_memory(device: torch.device) -> int | None:
    """What the device has in all, if it can be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(lines[0].split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
