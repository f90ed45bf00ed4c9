"""A contest: who draws, and what is made equal among them.

All contestants have the prompt, the negative prompt, the seed (so the starting noise) and the canvas in common. What
else is equal is the person's choice: their steps, their network calls (guidance costs two a step), their time, or
nothing ("own": each as its authors recommend). The reference, the bare model in many steps, always keeps its own.
Knows no engine: what a number of steps costs is told by a `cost` function, what it takes by seconds measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from studio.checks import check_count, check_number
from studio.errors import InvalidRequest
from studio.types import MAX_STEPS, GenerationRequest

MIN_CONTESTANTS, MAX_CONTESTANTS = 2, 4
MAX_ROUNDS = 9
MAX_CALLS_BUDGET, MAX_SECONDS_BUDGET = 2 * MAX_STEPS, 3600.0
Equal = Literal["own", "steps", "calls", "time"]
CONTESTANT_FIELDS = ("model", "accelerator", "accelerator_strength", "steps", "guidance")

Cost = Callable[[GenerationRequest], int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Requests that differ in `CONTESTANT_FIELDS` alone, and how they are compared.

    `budget` is the steps, network calls or seconds that all have (`None` with "own"; for "time" also the first
    contestant's own time). `reference` is the index of the one all others are measured against. After a first pass,
    which is shown, come `rounds` timed ones without previews, in an order that turns. Raises `InvalidRequest`.
    """

    contestants: tuple[GenerationRequest, ...]
    equal: Equal = "own"
    budget: float | None = None
    reference: int | None = None
    rounds: int = 3

    def __post_init__(self) -> None:
        if not MIN_CONTESTANTS <= len(self.contestants) <= MAX_CONTESTANTS:
            expected = f"{MIN_CONTESTANTS} to {MAX_CONTESTANTS} of them"
            raise InvalidRequest("contestants", expected, len(self.contestants))
        if self.equal not in get_args(Equal):
            raise InvalidRequest("equal", f"one of {', '.join(get_args(Equal))}", self.equal)
        check_count("rounds", self.rounds, 0, MAX_ROUNDS)
        if self.reference is not None:
            check_count("reference", self.reference, 0, len(self.contestants) - 1)
        self._check_budget()
        common = {_common(each) for each in self.contestants}
        if len(common) > 1:
            raise InvalidRequest("contestants", "the same prompt, seed and canvas for all", "different ones")

    def _check_budget(self) -> None:
        if self.equal == "own":
            if self.budget is not None:
                raise InvalidRequest("budget", "nothing where each contestant has its own steps", self.budget)
        elif self.equal == "time":
            if self.budget is not None:
                check_number("budget", self.budget, 0.001, MAX_SECONDS_BUDGET)
        else:
            check_count("budget", self.budget, 1, MAX_STEPS if self.equal == "steps" else MAX_CALLS_BUDGET)

    @property
    def order(self) -> tuple[int, ...]:
        """The reference first, so that what is drawn after it can be measured at once."""
        indices = range(len(self.contestants))
        return tuple(sorted(indices, key=lambda index: index != self.reference))

    def round_order(self, number: int) -> tuple[int, ...]:
        """The order of a timed round, turned by one from round to round: nobody is always the first."""
        count = len(self.contestants)
        return tuple((number + index) % count for index in range(count))


def _common(request: GenerationRequest) -> tuple[Any, ...]:
    return (request.prompt, request.negative_prompt, request.seed, request.width, request.height)


def with_steps(comparison: Comparison, cost: Cost) -> Comparison:
    """The contest with what is equal made so: everyone but the reference in as many steps as `budget` allows.

    `cost` tells a request's network calls. Raises `InvalidRequest` where not even one step is within the budget.
    """
    if comparison.equal in ("own", "time"):
        return comparison
    budget = int(comparison.budget or 0)
    changed = []
    for index, request in enumerate(comparison.contestants):
        if index == comparison.reference:
            changed.append(request)
        elif comparison.equal == "steps":
            changed.append(replace_steps(request, budget))
        else:
            changed.append(_within_calls(request, budget, cost))
    return replace(comparison, contestants=tuple(changed))


def _within_calls(request: GenerationRequest, budget: int, cost: Cost) -> GenerationRequest:
    """The most steps whose network calls stay within the budget."""
    for steps in range(min(budget, MAX_STEPS), 0, -1):
        candidate = replace_steps(request, steps)
        if cost(candidate) <= budget:
            return candidate
    raise InvalidRequest(
        "budget", f"at least {cost(replace_steps(request, 1))} calls for {request.accelerator}", budget
    )


def steps_within(seconds: float, seconds_per_step: float, seconds_fixed: float) -> int:
    """How many steps fit into a time, beside what costs the same whatever the steps (decoding); at least one."""
    return max(1, min(MAX_STEPS, int((seconds - seconds_fixed) / seconds_per_step + 1e-9)))


def replace_steps(request: GenerationRequest, steps: int) -> GenerationRequest:
    """The same request in another number of steps; guidance per step becomes that of its first step."""
    guidance = request.guidance
    if guidance.per == "step" and len(guidance.scales) != steps:
        guidance = replace(guidance, scales=guidance.scales[:1], per="window")
    return replace(request, steps=steps, guidance=guidance)
