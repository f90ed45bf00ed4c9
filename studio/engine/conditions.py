"""What a drawing is conditioned on besides its prompt: which stock pipeline runs, and with which extra arguments.

Later tabs (image to image, ControlNet, IP-Adapter, tiles) are conditions on the one path of `diffusion`, not paths of
their own: a condition names its pipeline class, and the resident model's components are put into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


class Condition(Protocol):
    """A way to draw on a resident model."""

    def pipeline(self, resident_pipe: Any) -> Any:
        """The stock pipeline that draws, sharing the resident one's components."""
        ...

    def arguments(self) -> dict[str, Any]:
        """What the pipeline's call takes beyond prompt, size, steps and latents."""
        ...

    def conditioners(self, pipe: Any) -> tuple[nn.Module, ...]:
        """Networks beside the UNet that are asked at every step (ControlNets)."""
        ...


@dataclass(frozen=True)
class TextToImage:
    """No condition but the prompt: the resident pipeline itself."""

    def pipeline(self, resident_pipe: Any) -> Any:
        return resident_pipe

    def arguments(self) -> dict[str, Any]:
        return {}

    def conditioners(self, pipe: Any) -> tuple[nn.Module, ...]:  # noqa: ARG002
        return ()


def with_components(cls: Any, pipe: Any, **more: Any) -> Any:
    """A pipeline of another class on the same modules: nothing is copied and nothing is cast."""
    return cls(**{**pipe.components, **more})
