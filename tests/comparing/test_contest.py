"""Fairness by construction: what is common, what is made equal, who is drawn first."""

from __future__ import annotations

from collections import Counter

import pytest

from studio.comparing.contest import Comparison, replace_steps, steps_within, with_steps
from studio.errors import InvalidRequest
from studio.types import GenerationRequest, Guidance


def request(steps: int = 4, scale: float = 3.0, **more) -> GenerationRequest:
    return GenerationRequest(prompt="a cube", steps=steps, guidance=Guidance.of(scale), seed=7, **more)


def calls(each: GenerationRequest) -> int:
    return each.steps * (1 if each.guidance.scales[0] == 1 else 2)


def test_equal_calls_give_the_unguided_twice_the_steps_and_leave_the_reference_alone() -> None:
    contest = Comparison(
        contestants=(request(), request(scale=1.0), request(steps=50)), equal="calls", budget=8, reference=2
    )
    assert [each.steps for each in with_steps(contest, calls).contestants] == [4, 8, 50]


def test_equal_steps() -> None:
    contest = Comparison(contestants=(request(), request(steps=9), request(steps=50)), equal="steps", budget=6)
    assert [each.steps for each in with_steps(contest, calls).contestants] == [6, 6, 6]


def test_a_budget_too_small_for_a_single_step_is_refused() -> None:
    contest = Comparison(contestants=(request(), request(scale=1.0)), equal="calls", budget=1)
    with pytest.raises(InvalidRequest, match="budget: expected at least 2 calls"):
        with_steps(contest, calls)


def test_steps_that_fit_into_a_time() -> None:
    assert steps_within(1.0, 0.1, 0.2) == 8
    assert steps_within(0.01, 0.1, 0.2) == 1
    assert steps_within(1000.0, 0.1, 0.2) == 50


def test_the_reference_is_drawn_first_and_nobody_is_always_first_when_timed() -> None:
    contest = Comparison(contestants=(request(1), request(2), request(3)), reference=2, rounds=3)
    assert contest.order == (2, 0, 1)
    rounds = [contest.round_order(number) for number in range(3)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds)
    for place in range(3):
        assert Counter(each[place] for each in rounds) == {0: 1, 1: 1, 2: 1}


def test_guidance_per_step_survives_only_where_its_steps_do() -> None:
    own = GenerationRequest(prompt="", steps=2, guidance=Guidance(scales=(5.0, 1.0), per="step"))
    assert replace_steps(own, 2).guidance == own.guidance
    assert replace_steps(own, 4).guidance == Guidance.of(5.0)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"contestants": (request(),)}, "contestants: expected 2 to 4"),
        ({"contestants": (request(),) * 5}, "contestants: expected 2 to 4"),
        ({"contestants": (request(), request(width=256))}, "the same prompt, seed and canvas"),
        ({"equal": "luck"}, "equal: expected one of own, steps, calls, time"),
        ({"equal": "steps"}, "budget: expected a whole number from 1 to 50"),
        ({"equal": "calls", "budget": 2.5}, "budget: expected a whole number"),
        ({"equal": "time", "budget": -1.0}, "budget: expected"),
        ({"budget": 4}, "budget: expected nothing"),
        ({"reference": 2}, "reference: expected"),
        ({"rounds": 10}, "rounds: expected"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(more: dict, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Comparison(**{"contestants": (request(), request(8)), **more})
