"""Mixed precision in one place: half-precision forwards where the processor multiplies them faster, fp32 elsewhere.

Weights stay fp32 whatever is computed in: autocast casts them as they are used. Knows no model.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from studio.errors import InvalidRequest

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16(device: str) -> bool:
    """CUDA, or a CPU with AMX tiles (without them, bf16 on a CPU is emulated and slow)."""
    return device.startswith("cuda") or bool(torch.cpu._is_amx_tile_supported())


def half_dtype(device: str, precision: Precision = "auto") -> torch.dtype | None:
    """What forwards are autocast to; `None` means fp32. Raises `InvalidRequest` for fp16 on a CPU."""
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    if precision == "fp16" and not device.startswith("cuda"):
        raise InvalidRequest("precision", f"auto, fp32 or bf16 on {device}: it does not multiply fp16", precision)
    return _DTYPES.get(precision)


def autocast(device: str, precision: Precision = "auto") -> contextlib.AbstractContextManager:
    """Autocast as `half_dtype` says; where that is fp32, nothing."""
    dtype = half_dtype(device, precision)
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.split(":")[0], dtype=dtype)
