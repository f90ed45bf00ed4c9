"""One optimizer step, for every loop here: AdamW in fp32, clipping, the average of the weights, and what to skip.

A step whose loss or gradient is no number, or whose loss explodes, changes nothing. Who counts such steps gives up
after `MAX_BAD_STEPS` in a row. The same state and the same gradients give the same bytes.
Knows no data, no task and no file; distribution is accelerate's business, when a loop brings its accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainer.sharding import own_part, placed_like, whole

MAX_BAD_STEPS = 3
EXPLODED = 100.0  # times the smoothed loss
STEADY_STEPS = 50  # before which a loss may still jump


@dataclass(frozen=True, kw_only=True)
class Stride:
    """What a step did: the mean loss of its forwards, the gradient's norm before clipping, and whether it was taken."""

    loss: float
    gradient_norm: float
    is_good: bool


@dataclass(kw_only=True)
class Optimization:
    """Weights by name, their moments and their average.

    `smoothed` is the loss over about 50 steps, `bad_steps` how many were skipped just now; both belong to the state.
    """

    parameters: Mapping[str, nn.Parameter]
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    max_norm: float = 1.0
    ema_decay: float = 0.999
    accelerator: Any = None
    smoothed: float = math.nan
    bad_steps: int = 0
    average: dict[str, torch.Tensor] = field(init=False)
    plain: torch.optim.AdamW = field(init=False)
    optimizer: Any = field(init=False)

    def __post_init__(self) -> None:
        is_on_gpu = any(p.device.type == "cuda" for p in self.parameters.values())
        self.plain = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=0.0,
            betas=self.betas,
            weight_decay=self.weight_decay,
            **({"fused": True} if is_on_gpu else {"foreach": True}),
        )
        self.optimizer = self.plain if self.accelerator is None else self.accelerator.prepare(self.plain)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    def step(self, backward: Callable[[], float], rate: float, step: int) -> Stride:
        """Collect gradients by `backward`, which returns the mean loss, and move; `step` counts the steps before."""
        for group in self.plain.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward()
        norm = self._clipped_norm()
        exploded = step >= STEADY_STEPS and loss > EXPLODED * self.smoothed
        if self._is_searching_scale(loss, norm):
            self.optimizer.step()  # which the scaler skips, to try a smaller scale
            return Stride(loss=loss, gradient_norm=norm, is_good=False)
        if not (math.isfinite(loss) and math.isfinite(norm)) or exploded:
            self.bad_steps += 1
            self.optimizer.zero_grad(set_to_none=True)
            return Stride(loss=loss, gradient_norm=norm, is_good=False)
        self.optimizer.step()
        self._follow(step)
        self.bad_steps = 0
        self.smoothed = loss if math.isnan(self.smoothed) else 0.98 * self.smoothed + 0.02 * loss
        return Stride(loss=loss, gradient_norm=norm, is_good=True)

    def _clipped_norm(self) -> float:
        clip = nn.utils.clip_grad_norm_ if self.accelerator is None else self.accelerator.clip_grad_norm_
        return float(clip(self.parameters.values(), self.max_norm))

    def _is_searching_scale(self, loss: float, norm: float) -> bool:
        """fp16 overflows now and then until its scale fits; that is no bad step."""
        scaler = getattr(self.accelerator, "scaler", None)
        return scaler is not None and math.isfinite(loss) and not math.isfinite(norm) and scaler.get_scale() > 1

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """The average goes after the weights, faster in the beginning."""
        decay = min(self.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether weights and average are numbers, all of them."""
        values = [own_part(value) for value in (*self.parameters.values(), *self.average.values())]
        return bool(torch.stack([norm.cpu() for norm in torch._foreach_norm(values)]).isfinite().all())

    # --- what a checkpoint keeps ---

    def tensors(self, *, keep: bool = True) -> dict[str, torch.Tensor]:
        """Everything that moves, by name, whole. Where it is split all processes must ask; who does not `keep` it gets
        nothing."""
        parts = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        parts |= {f"ema.{name}": value for name, value in self.average.items()}
        for name, p in self.parameters.items():
            for key, value in self.plain.state.get(p, {}).items():
                parts[f"optimizer.{key}.{name}"] = value
        return gathered(parts, keep=keep)

    def whole_average(self, *, keep: bool = True) -> dict[str, torch.Tensor]:
        """The average, as `tensors` gives it."""
        return gathered(self.average, keep=keep)

    def counters(self) -> dict[str, Any]:
        """The numbers beside them."""
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "loss": self.smoothed,
            "bad_steps": self.bad_steps,
            **({} if scaler is None else {"scaler": scaler.state_dict()}),
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor], counters: Mapping[str, Any]) -> None:
        """The inverse of `tensors` and `counters`. Raises `ValueError` if they are of other parameters."""
        kept = {name.removeprefix("model.") for name in tensors if name.startswith("model.")}
        if kept != set(self.parameters):
            odd = min(kept ^ set(self.parameters))
            raise ValueError(f"the checkpoint is of another model: {odd} is in one of them only")
        for name, p in self.parameters.items():
            p.copy_(placed_like(tensors[f"model.{name}"], p))
            self.average[name].copy_(placed_like(tensors[f"ema.{name}"], p))
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{key}.{name}" in tensors]
            self.plain.state[p] = {key: self._placed(tensors[f"optimizer.{key}.{name}"], key, p) for key in keys}
        self.smoothed, self.bad_steps = counters["loss"], counters.get("bad_steps", 0)
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and "scaler" in counters:
            scaler.load_state_dict(counters["scaler"])

    def _placed(self, value: torch.Tensor, key: str, like: torch.Tensor) -> torch.Tensor:
        """Moments live where the parameter lives and in its memory format; Adam's counter as it wants it."""
        if key == "step":
            return value.to(like.device) if self.plain.defaults.get("fused") else value
        return torch.empty_like(like).copy_(placed_like(value, like))


def gathered(parts: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Whole tensors by name; split ones go to the CPU one by one, so that no device has to hold them all."""
    found: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        full = whole(part)
        if keep:
            found[name] = full if full is part else full.cpu()
    return found
