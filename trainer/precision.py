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
    """CUDA, or a CPU that multiplies bf16 itself: AMX tiles, or AVX-512's own instructions (1.7 times fp32's speed in
    autocast on an AMD EPYC); elsewhere bf16 is emulated and slow."""
    return device.startswith("cuda") or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


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
