"""Mixed precision in one place: bf16 forwards where the processor multiplies bf16 faster, fp32 elsewhere."""

from __future__ import annotations

import contextlib

import torch


def has_fast_bf16(device: str) -> bool:
    """CUDA, or a CPU with AMX tiles (without them, bf16 on a CPU is emulated and slow)."""
    return device.startswith("cuda") or bool(torch.cpu._is_amx_tile_supported())


def autocast(device: str) -> contextlib.AbstractContextManager:
    """bf16 autocast where it pays, else nothing."""
    if not has_fast_bf16(device):
        return contextlib.nullcontext()
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16)
