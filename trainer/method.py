"""What a training method is: the contract between a run, its data and what is learnt.

What a run may rely on:

* `loss(batch, step, generator, slot)` draws from `generator` and from (config.seed, step, slot) alone. `slot` numbers
  the forwards of one optimizer step over all processes (micro * processes + rank), so that one process with two
  accumulated forwards sees what two processes see. Nothing needs to be saved for an exact resume: `state()` is empty.
* `data_step(step)` is the step whose batch `loss` wants: `config.steps_per_batch` steps share their solved windows,
  which are solved again, to the bit, when a resumed run begins in the middle.
* A batch has `latents` and `condition` (captions dropped) and may have `full_condition` (none dropped): a teacher at
  fixed guidance is then asked with the caption where the student is not. `control` in the condition is a ControlNet's
  picture.
* `held_out` comes before the first `loss`: it is where `teacher_solver = "probe"` is decided, on the same samples
  whenever a run is taken up. `notes` then says in sentences what was decided.
* `network` is the student as a callable. `endpoint_errors(network, measured)` has one number a window, the relative
  error at its end (none for methods without a teacher); `held_out_loss` is the loss at fixed noise and times.
* `measured.untrained` is the base's own error at the same guidance: DDIM with one step a window (LCM: its z_0).

How what comes out is sampled is in `facts`. Knows no method; `methods` has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trainer.networks import Condition
from trainer.teacher import Network


class Batch(Protocol):
    """What the data hand over; see the module's text."""

    @property
    def latents(self) -> torch.Tensor:
        """Scaled, `[B, C, h, w]`, on the device."""
        ...

    @property
    def condition(self) -> Condition:
        """One row a sample, captions dropped."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Held-out samples with what a student is measured against, and how the base itself does."""

    pieces: tuple[Any, ...]
    untrained: tuple[float, ...] = ()


class Method(Protocol):
    """A training method bound to its networks."""

    network: Network
    notes: tuple[str, ...]

    def data_step(self, step: int) -> int:
        """The step whose batch `loss` wants at this step."""
        ...

    def loss(self, batch: Batch, step: int, generator: torch.Generator, slot: int = 0) -> torch.Tensor:
        """The mean loss of one forward."""
        ...

    def held_out(self, batch: Batch, generator: torch.Generator) -> Measured:
        """Prepare held-out samples; costs a fine solution of each sample's window."""
        ...

    def endpoint_errors(self, network: Network, measured: Measured) -> list[float]:
        """Per window, relative RMSE at its end; empty where there is no teacher."""
        ...

    def held_out_loss(self, network: Network, measured: Measured) -> float:
        """The method's loss on held-out samples, at noise and times that never change."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What must be kept for an exact resume: nothing, everything is a function of (seed, step, slot)."""
        ...

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of `state`."""
        ...


class Stateless:
    """For methods whose every draw is a function of (seed, step, slot)."""

    notes: tuple[str, ...] = ()

    def data_step(self, step: int) -> int:
        return step

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        if state:
            raise ValueError(f"load_state: expected nothing, got {sorted(state)[:3]}.")


def seeded(seed: int, step: int, slot: int) -> torch.Generator:
    """A generator that is a function of its arguments and unlike any neighbour's."""
    digest = hashlib.sha256(f"{seed} {step} {slot}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def stratified(count: int, highest: int, generator: torch.Generator) -> torch.Tensor:
    """`count` timesteps, one from each equal share of 1 to `highest`."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return 1 + (strata * highest).long().clamp(max=highest - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Some rows of a batch."""

    latents: torch.Tensor
    condition: Condition
    full_condition: Condition | None


def pieces_of(batch: Batch, size: int) -> Iterator[tuple[int, Piece]]:
    """A large batch in forwards of at most `size`, with the number of the first sample."""
    full = getattr(batch, "full_condition", None)
    for first in range(0, len(batch.latents), size):
        rows = slice(first, first + size)
        yield (
            first,
            Piece(
                latents=batch.latents[rows],
                condition={key: value[rows] for key, value in batch.condition.items()},
                full_condition=None if full is None else {key: value[rows] for key, value in full.items()},
            ),
        )
