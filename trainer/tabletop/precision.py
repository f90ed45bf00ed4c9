"""The trainer's mixed precision, under the name the recipe knows it by."""

from __future__ import annotations

from trainer.precision import autocast, has_fast_bf16

__all__ = ["autocast", "has_fast_bf16"]
