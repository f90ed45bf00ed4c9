"""What a resident UNet wears: delta weights or a LoRA on its base, and the way back to the bare base.

Both are written as base + strength * ΔW from the kept base, in place; a LoRA's layers, whose products are its ΔW, are
then taken off. So a UNet wears weights and nothing else: a step costs what it costs bare, accelerators replace each
other and never stack, and the way back is a copy. What layers a LoRA has for text encoders stay on them as layers.
It does not know where files come from (`Weights` finds them) nor how anything is sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.engine.device import is_out_of_memory
from studio.engine.lora import LoraChanges, has_layers
from studio.errors import IncompatibleWeights
from studio.perflow import DeltaWeights, KeptBase, check_fits, merged_with
from studio.specs import AcceleratorSpec, DeltaSpec, ModelSpec

ADAPTER_NAME = "accelerator"


@dataclass(frozen=True, kw_only=True)
class Worn:
    """What was put on: the accelerator and strength asked for, the weights' hash and facts, and what to say of it."""

    accelerator: str
    strength: float
    sha256: str | None = None
    facts: DeltaSpec | None = None
    warnings: tuple[str, ...] = ()


class AcceleratedUNet:
    """The UNet of one resident pipeline, its kept base, and the accelerator on it (if any).

    The base is kept in the precision of its file, whatever the UNet computes in: the sum is rounded once. `read_anew`
    is called when a LoRA changes the text encoders, or leaves them: no prompt is then used as it was read before.
    """

    def __init__(
        self, pipe: Any, model: ModelSpec, *, is_merged: bool, read_anew: Callable[[], None] = lambda: None
    ) -> None:  # fmt: skip
        self._pipe, self._model, self._is_merged = pipe, model, is_merged
        self._read_anew = read_anew
        self._base = KeptBase(pipe.unet)
        self._delta: tuple[AcceleratorSpec, DeltaWeights] | None = None
        self._worn: Worn | None = None
        self._worn_spec: AcceleratorSpec | None = None

    @property
    def base_sha256(self) -> str:
        """The hash of the bare base's weights, as loaded."""
        return self._base.sha256

    def wear(self, accelerator: AcceleratorSpec, strength: float, read: Callable[[], Any]) -> Worn:
        """Put an accelerator on, unless it is on already. `read` gives a `DeltaWeights`, or the path of a LoRA.

        Raises `IncompatibleWeights` and what `read` raises; the UNet is bare then.
        """
        if accelerator.kind in ("none", "perflow_merged"):
            strength = 1.0
        if self._worn and (self._worn_spec, self._worn.strength) == (accelerator, strength):
            return self._worn
        try:
            check_kind(accelerator, self._model, is_merged=self._is_merged)
            self._worn = self._put_on(accelerator, strength, read)
        except BaseException:  # an interrupt may land here as well
            self.undress()
            raise
        self._worn_spec = accelerator  # the entry, not its id: a run trained on has new weights under the same id
        return self._worn

    def undress(self) -> None:
        """Back to the bare base: no adapter, and every weight as it was loaded."""
        self._worn = None
        self._drop_layers()
        if merged_with(self._pipe.unet) is not None:
            self._base.restore()

    def _put_on(self, accelerator: AcceleratorSpec, strength: float, read: Callable[[], Any]) -> Worn:
        self._drop_layers()
        if accelerator.kind == "perflow_delta":
            return self._wear_delta(accelerator, strength, read)
        if accelerator.kind == "lora":
            return self._wear_lora(accelerator, strength, read)
        self.undress()
        return Worn(accelerator=accelerator.id, strength=strength, facts=accelerator.delta)

    def _drop_layers(self) -> None:
        """Take a LoRA's layers off, wherever they are: what they wrap is as it was."""
        if self._has_layers():
            self._pipe.unload_lora_weights()
            self._read_anew()

    def _has_layers(self) -> bool:
        return any(has_layers(getattr(self._pipe, name, None)) for name in self._pipe._lora_loadable_modules)

    def _wear_delta(self, accelerator: AcceleratorSpec, strength: float, read: Callable[[], Any]) -> Worn:
        if self._delta is None or self._delta[0] != accelerator:
            self._delta = None  # free the old one before reading the new
            self._delta = (accelerator, read())
        delta = self._delta[1]
        warnings = check_fits(
            delta.spec,
            family=self._model.family,
            base_prediction_type=self._model.prediction_type,
            base_sha256=self.base_sha256 if delta.spec.base_sha256 else None,
        )
        report = self._base.apply(delta, strength)  # always from the base: replaces what was there
        return Worn(
            accelerator=accelerator.id,
            strength=strength,
            sha256=delta.sha256,
            facts=delta.spec,
            warnings=(*warnings, *report.warnings),
        )

    def _wear_lora(self, accelerator: AcceleratorSpec, strength: float, read: Callable[[], Any]) -> Worn:
        path: Path = read()
        try:
            self._pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=ADAPTER_NAME)
            self._pipe.set_adapters([ADAPTER_NAME], adapter_weights=[strength])  # the scale of every product
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise IncompatibleWeights(
                f"{accelerator.title} does not fit {self._model.title}: its layers have other names or shapes; choose "
                "an accelerator made for this model's family."
            ) from error
        self._base.add(LoraChanges(self._pipe.unet, ADAPTER_NAME), name=accelerator.title)
        self._pipe.unet.unload_lora()
        if self._has_layers():
            self._read_anew()
        return Worn(accelerator=accelerator.id, strength=strength, sha256=file_sha256(path))


def check_kind(accelerator: AcceleratorSpec, model: ModelSpec, *, is_merged: bool) -> None:
    """Refuse an accelerator that cannot belong on this model, in the sentence that says why."""
    if model.family not in accelerator.families:
        raise IncompatibleWeights(
            f"{accelerator.title} is made for {' and '.join(accelerator.families)}, and {model.title} is "
            f"{model.family}: choose an accelerator of its family."
        )
    if is_merged and accelerator.kind == "perflow_delta":
        raise IncompatibleWeights(
            f"{model.title} has PeRFlow's delta weights merged in already; adding {accelerator.title} would apply them "
            f"twice. Choose '{model.default_accelerator}'."
        )
    if is_merged and accelerator.kind != "perflow_merged":
        raise IncompatibleWeights(
            f"{model.title} predicts for PeRFlow's sampler, and {accelerator.title} would read it as something else. "
            f"Choose '{model.default_accelerator}'."
        )
    if accelerator.kind == "perflow_merged" and model.id not in accelerator.models:
        raise IncompatibleWeights(
            f"{accelerator.title} adds no weights: it is for {', '.join(accelerator.models)}, which have them merged."
        )


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
