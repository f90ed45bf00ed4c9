"""A LoRA that diffusers has loaded onto a network, read as what it is: changes of weights, ΔW = scale * B A.

LoRA: arXiv 2106.09685, equation 3; B `[out, r, ...]`, A `[r, in, ...]`, scale = strength * alpha / r. It does not know
files, pipelines, or what becomes of the changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from studio.errors import IncompatibleWeights


class LoraChanges(Mapping[str, torch.Tensor]):
    """ΔW by the plain network's parameter names, each formed in fp32 when it is asked for, in the shape of its weight.

    Raises `IncompatibleWeights` for layers that do more than this sum.
    """

    def __init__(self, network: nn.Module, adapter_name: str) -> None:
        self._adapter_name = adapter_name
        self._layers: dict[str, Any] = {
            f"{name}.weight": layer for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)
        }
        for name, layer in self._layers.items():
            if layer.lora_variant or any(layer.lora_bias.values()):
                raise IncompatibleWeights(f"{name}: expected a plain LoRA, got one with biases or magnitudes.")
            for factor in (layer.lora_A, layer.lora_B):
                factor.float()

    @torch.no_grad()
    def __getitem__(self, name: str) -> torch.Tensor:
        return self._layers[name].get_delta_weight(self._adapter_name)

    def __contains__(self, name: object) -> bool:
        return name in self._layers  # without forming it

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def has_layers(network: nn.Module | None) -> bool:
    """Whether any adapter's layers are on a network, loaded or left by a load that failed."""
    return network is not None and any(isinstance(each, BaseTunerLayer) for each in network.modules())
