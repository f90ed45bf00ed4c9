"""Base + strength * delta written into a live UNet, and taken back bit-exactly.

The base is kept once, on the CPU; every apply starts from it, so accelerators replace each other and never stack, and
undoing is copying it back (subtracting in fp16 lost 9 % of the weights). Sums are formed in fp32 and written in place:
nothing recompiles, and LoRA-wrapped and IP-Adapter-loaded UNets work.

This module knows no files, no pipeline and no scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from studio.errors import IncompatibleWeights
from studio.perflow.delta import DeltaWeights, base_weights, weights_sha256

_MARK = "perflow_merged_with"
_INPUT_LAYER = "conv_in.weight"


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What became of each parameter, by name.

    `missing`: the model has it, the delta does not; `unexpected`: the other way round; `misshapen`: in another shape,
    skipped; `widened`: added to the first input channels of a wider conv_in.
    """

    applied: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each kind of parameter that was left alone."""
        kinds = (
            ("has no values for", self.missing),
            ("has values the model lacks for", self.unexpected),
            ("has another shape for", self.misshapen),
        )
        return tuple(
            f"The delta {what} {len(names)} parameter{'s' * (len(names) > 1)}: {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}; left as in the base."
            for what, names in kinds
            if names
        )


def merged_with(unet: torch.nn.Module) -> str | None:
    """The accelerator that this UNet's weights contain right now, if any is known."""
    return getattr(unet, _MARK, None)


def mark_merged(unet: torch.nn.Module, name: str) -> None:
    """Note that a UNet came with an accelerator merged in, so that none is put on top."""
    setattr(unet, _MARK, name)


class KeptBase:
    """A CPU copy of a UNet's own weights, and the only way deltas get onto that UNet."""

    def __init__(self, unet: torch.nn.Module) -> None:
        already = merged_with(unet)
        if already is not None:
            raise IncompatibleWeights(
                f"This model's weights already contain {already}, so they cannot be kept as a base; load the plain "
                "model, or restore it first."
            )
        self._unet = unet
        live = base_weights(unet)
        _check_present(live)
        self._kept = {name: weight.detach().to("cpu", copy=True) for name, weight in live.items()}

    @cached_property
    def sha256(self) -> str:
        """The hash of the kept weights; `weights_sha256(unet)` is equal to it whenever the base is restored."""
        return weights_sha256(self._kept)

    def compare(self, delta: DeltaWeights, *, widen: bool = False) -> MergeReport:
        """What `apply` would do, without doing it."""
        shared = self._kept.keys() & delta.tensors.keys()
        misshapen = {name for name in shared if self._kept[name].shape != delta.tensors[name].shape}
        widened = {name for name in misshapen if widen and self._is_wider_input(name, delta)}
        return MergeReport(
            applied=tuple(sorted(shared - misshapen)),
            missing=tuple(sorted(self._kept.keys() - shared)),
            unexpected=tuple(sorted(delta.tensors.keys() - shared)),
            misshapen=tuple(sorted(misshapen - widened)),
            widened=tuple(sorted(widened)),
        )

    def apply(
        self, delta: DeltaWeights, strength: float = 1.0, *, partial: bool = False, widen: bool = False
    ) -> MergeReport:
        """Write base + strength * delta into the live UNet; whatever was applied before is gone.

        A conv_in with more input channels than the delta's is skipped, or with `widen` gets it on its first ones. Any
        other parameter that does not fit raises `IncompatibleWeights` before a weight is changed, unless `partial`.
        """
        if not math.isfinite(strength):
            raise ValueError(f"strength: expected a finite number, got {strength}.")
        report = self.compare(delta, widen=widen)
        self._check(report, delta, partial)
        if strength == 0:  # adding zeros would turn -0.0 into 0.0
            self.restore()
            return report
        changes = {name: delta.tensors[name] for name in (*report.applied, *report.widened)}
        self.add(changes, strength, name=delta.spec.name or "delta weights")
        return report

    def add(self, changes: Mapping[str, torch.Tensor], strength: float = 1.0, *, name: str) -> None:
        """Write base + strength * changes, by parameter name, as `apply` does; `name` says what they make of the base.

        Each change is asked for once, when its turn comes.
        """
        mark_merged(self._unet, name)
        try:
            self._write(changes, strength)
        except BaseException:  # half a merge is no model; an interrupt may land here as well
            self.restore()
            raise

    def restore(self) -> None:
        """Put the base back, bit by bit."""
        self._write({}, 0.0)
        if merged_with(self._unet) is not None:
            delattr(self._unet, _MARK)

    @torch.no_grad()
    def _write(self, changes: Mapping[str, torch.Tensor], strength: float) -> None:
        live = base_weights(self._unet)
        _check_present(live)
        gone = self._kept.keys() - live.keys()
        if gone:
            raise RuntimeError(f"{min(gone)}: expected the layers the base was kept from; the UNet has been rebuilt.")
        for name, base in self._kept.items():
            target = live[name]
            if name not in changes:
                target.copy_(base)
                continue
            change = changes[name].to(target.device, torch.float32)
            merged = base.to(target.device, torch.float32, copy=True)
            fitting = merged[:, : change.shape[1]] if name == _INPUT_LAYER else merged
            fitting.add_(change, alpha=strength)
            target.copy_(merged)

    def _is_wider_input(self, name: str, delta: DeltaWeights) -> bool:
        model, change = self._kept[name].shape, delta.tensors[name].shape
        same_filters = len(change) == len(model) and (model[0], *model[2:]) == (change[0], *change[2:])
        return name == _INPUT_LAYER and same_filters and model[1] > change[1]

    def _check(self, report: MergeReport, delta: DeltaWeights, partial: bool) -> None:
        name = delta.spec.name or "The delta"
        if not report.applied:
            raise IncompatibleWeights(f"{name} shares no parameter with this model; is it made for another family?")
        wrong = [other for other in report.misshapen if not self._is_wider_input(other, delta)]
        if wrong and not partial:
            shapes = list(self._kept[wrong[0]].shape), list(delta.tensors[wrong[0]].shape)
            raise IncompatibleWeights(
                f"{name} does not fit this model: {wrong[0]}: expected shape {shapes[0]}, got {shapes[1]}; choose an "
                "accelerator made for this model's family."
            )
        if report.unexpected and not partial:
            raise IncompatibleWeights(
                f"{name} does not fit this model: {report.unexpected[0]}: expected no such parameter; choose an "
                "accelerator made for this model's family."
            )


def _check_present(weights: dict[str, torch.Tensor]) -> None:
    """Sequential offload leaves tensors without values, onto which a copy would silently do nothing."""
    for name, weight in weights.items():
        if weight.is_meta:
            raise RuntimeError(f"{name}: expected a weight in memory, got a placeholder; merge before offloading.")
