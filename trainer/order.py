"""Which pictures a step trains on: a pure function of (seed, step), so that resuming needs no memory.

The samples of one step, over all its forwards and processes, come from one bucket, so that they have one shape. A
bucket's samples follow its permutations, one an epoch, end to end: within an epoch every picture occurs once, and a
bucket smaller than a step begins its next epoch inside it. Which bucket a step takes is dealt from a deck that holds
each bucket in proportion to its pictures, shuffled anew each time.
Knows indices only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

DECK = 256


def drawn(*parts: object) -> int:
    """A number of 62 bits that is a function of its arguments and unlike that of any neighbour."""
    text = " ".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def share(*parts: object) -> float:
    """The same as a number in [0, 1)."""
    return drawn(*parts) / 2**62


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """`buckets` are groups of indices of one shape, `num_samples` how many a step needs."""

    buckets: Sequence[Sequence[int]]
    num_samples: int
    seed: int

    def indices(self, step: int) -> list[int]:
        """The `num_samples` indices of a step."""
        bucket, turn = self._dealt(step)
        members = self.buckets[bucket]
        first = turn * self.num_samples
        return [members[self._place(bucket, first + number)] for number in range(self.num_samples)]

    def epoch(self, step: int) -> float:
        """How often every picture has been seen when this step begins, on average."""
        return step * self.num_samples / sum(map(len, self.buckets))

    @cached_property
    def _deck(self) -> list[int]:
        total = sum(map(len, self.buckets))
        if len(self.buckets) == 1:
            return [0]
        shares = [max(1, round(DECK * len(members) / total)) for members in self.buckets]
        return [bucket for bucket, count in enumerate(shares) for _ in range(count)]

    def _dealt(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps it had before."""
        deck = self._deck
        round_number, place = divmod(step, len(deck))
        dealt = [deck[card] for card in permutation(len(deck), drawn(self.seed, "deck", round_number))[: place + 1]]
        return dealt[-1], round_number * deck.count(dealt[-1]) + dealt.count(dealt[-1]) - 1

    def _place(self, bucket: int, position: int) -> int:
        size = len(self.buckets[bucket])
        epoch, place = divmod(position, size)
        return permutation(size, drawn(self.seed, "epoch", epoch, bucket))[place]


@lru_cache(maxsize=64)
def permutation(size: int, key: int) -> tuple[int, ...]:
    """A permutation of `size` things by its key."""
    return tuple(torch.randperm(size, generator=torch.Generator().manual_seed(key)).tolist())
