"""A guidance scale per step, at the network's boundary, in any stock pipeline.

The pipeline believes in one constant scale and hands the network a doubled batch (unconditional half, then conditional
half). Hooks around the network make each step what the schedule says, without a fork of the pipeline's loop:

* scale w > 1: both halves are asked, mixed here as P = P_u + w (P_c - P_u) (Ho & Salimans 2022), and returned twice;
* scale 1 (off): only the conditional half is asked, and its answer is returned twice.

The pipeline then mixes two equal halves, which is the identity whatever its own scale: P + w' (P - P) = P, bit by bit.
Every tensor of the doubled batch is cropped alike, however deep in the arguments: text embeddings, SDXL's time ids,
IP-Adapter's image embeddings, a ControlNet's residuals (a ControlNet that was asked for one half has only that).

Precision: the latents outside stay fp32; they are cast to the network's dtype going in, its answer to fp32 coming out.
Shapes: B C H W latents, 2B when doubled. Steps are counted by the pipeline's callback through `advance()`.
This module does not know prompts, schedulers or windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from studio.perflow.guidance import is_guided

ANY_DOUBLING_SCALE = 2.0


class GuidanceSchedule:
    """The scales of one denoising run and where it stands; counts the images the network was asked for."""

    def __init__(self, scales: Sequence[float], *, num_images: int = 1) -> None:
        self.scales = tuple(scales)
        self._doubled_rows = 2 * num_images
        self.step = 0
        self.num_network_calls = 0

    @property
    def doubles(self) -> bool:
        """Whether any step needs the unconditional half, so that the pipeline must prepare a doubled batch."""
        return any(map(is_guided, self.scales))

    @property
    def scale(self) -> float:
        """The scale of the current step."""
        return self.scales[self.step]

    @property
    def pipeline_scale(self) -> float:
        """What to tell the pipeline: anything above 1 makes it double, exactly 1 does not; the value is not used."""
        return ANY_DOUBLING_SCALE if self.doubles else 1.0

    def advance(self) -> None:
        """To the next step; the last one stays where it is."""
        self.step = min(self.step + 1, len(self.scales) - 1)

    @contextmanager
    def on(self, unet: nn.Module, *conditioners: nn.Module) -> Iterator[GuidanceSchedule]:
        """Guide `unet` while the block runs; `conditioners` (ControlNets) are asked only for the halves that count."""
        handles = [unet.register_forward_pre_hook(self._crop_and_count, with_kwargs=True)]
        handles.append(unet.register_forward_hook(self._mix, with_kwargs=True))
        for module in conditioners:
            handles.append(module.register_forward_pre_hook(self._crop, with_kwargs=True))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _crop(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        sample = args[0] if args else kwargs["sample"]
        if self.doubles and not is_guided(self.scale) and sample.shape[0] == self._doubled_rows:
            args, kwargs = (_conditional_half(each, self._doubled_rows) for each in (args, kwargs))
        dtype = next(module.parameters()).dtype
        if args:
            return (args[0].to(dtype), *args[1:]), kwargs
        return args, {**kwargs, "sample": kwargs["sample"].to(dtype)}

    def _crop_and_count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = self._crop(module, args, kwargs)
        sample = args[0] if args else kwargs["sample"]
        self.num_network_calls += sample.shape[0]
        return args, kwargs

    def _mix(self, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
        predicted = output[0].float()
        if not self.doubles:
            return (predicted,)
        if is_guided(self.scale):
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + self.scale * (conditional - unconditional)
        return (torch.cat([predicted, predicted]),)


def _conditional_half(value: Any, rows: int) -> Any:
    """The second half of every tensor in `value` whose batch is `rows` long."""
    if isinstance(value, torch.Tensor):
        return value[rows // 2 :] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, list | tuple):
        return type(value)(_conditional_half(each, rows) for each in value)
    if isinstance(value, dict):
        return {key: _conditional_half(each, rows) for key, each in value.items()}
    return value
