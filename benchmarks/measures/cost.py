"""What a picture costs in milliseconds on this machine; network calls are studio.perflow.guidance's to count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")


def milliseconds(draws: Mapping[Name, Callable[[], Any]], num_rounds: int = 5) -> dict[Name, float]:
    """The median time of each, drawn in turn in every round, so that whatever else the machine does falls on all.

    Each is drawn once before, uncounted; the order turns from round to round.
    """
    for draw in draws.values():
        draw()
    spent: dict[Name, list[float]] = {name: [] for name in draws}
    for number in range(num_rounds):
        order = list(draws)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            start = time.perf_counter()
            draws[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(each) for name, each in spent.items()}
