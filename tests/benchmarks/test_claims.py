"""Verdicts follow the numbers: the same claim with the numbers turned round has the opposite word."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.paper import claims, claims_trained
from benchmarks.paper.document import Heading, Table, Text, to_html, to_markdown
from benchmarks.paper.room import mean_interval, share_difference
from benchmarks.paper.shelf import Row, Shelf


def apart(value: float) -> dict[str, float]:
    """A difference whose interval is one to each side."""
    return {"value": value, "low": value - 1, "high": value + 1}


def with_steps(own: float, rival: float) -> dict[str, Any]:
    return {"differences": {"perflow: 8 less 4 steps": apart(own), "lcm: 8 less 4 steps": apart(rival)}}


@pytest.mark.parametrize(
    ("own", "rival", "word"),
    [(-3, 3, "reproduced"), (-3, -3, "partly"), (3, 3, "partly"), (3, -3, "not reproduced"),
     (-0.5, 0.5, "not reproduced")],
)  # fmt: skip
def test_more_steps_are_judged_beyond_the_intervals(own: float, rival: float, word: str) -> None:
    found = claims.more_steps(with_steps(own, rival))
    assert found.word == word
    assert f"{own:+.2f}" in found.reason
    assert "9.46" in found.published


def test_without_lcm_nothing_is_said_of_it() -> None:
    found = claims.more_steps({"differences": {"perflow: 8 less 4 steps": apart(-3)}})
    assert found.word == "not measured"


def with_diversity(own: float, lcm: float) -> dict[str, Any]:
    rows = [{"id": name, "of_teacher": apart(value)} for name, value in (("p", own), ("l", lcm))]
    return {"setting": {"perflow": "p", "lcm": "l"}, "diversity": rows}


def test_diversity_is_near_only_when_it_is_near() -> None:
    assert claims.diversity(with_diversity(0.97, 0.7)).word == "reproduced"
    assert claims.diversity(with_diversity(0.97, 1.0)).word == "partly"
    assert claims.diversity(with_diversity(0.6, 0.5)).word == "partly"
    assert claims.diversity(with_diversity(0.6, 0.95)).word == "not reproduced"


def test_the_claim_beyond_the_paper_needs_ratio_and_every_rival() -> None:
    def evidence(more: float, rival: float) -> dict[str, Any]:
        return {
            "table": [{"fd": {"teacher": {"value": 40.0}}}],
            "differences": {claims.BEFORE_TEACHER: apart(more)},
            "race": [{"method": "r", "perflow less it": None}, {"method": "l", "perflow less it": apart(rival)}],
        }

    assert claims.beyond(evidence(0.9, -5)).word == "reproduced"
    assert claims.beyond(evidence(1.1, -5)).word == "partly"
    assert claims.beyond(evidence(0.9, -0.5)).word == "partly"
    assert claims.beyond(evidence(6.0, 0.2)).word == "not reproduced"
    assert claims.beyond({**evidence(0.9, -5), "race": []}).word == "not measured"


def arm(name: str, before: float, after: float, windows: int = 4) -> dict[str, Any]:
    def point(value: float) -> dict[str, Any]:
        some = {str(n): {"median": value, "all": value} for n in {windows, 4, 8}}
        return {"paired": some, "paired_guided": some}

    return {"arm": name, "num_time_windows": windows, "num_steps": 150, "points": [point(before), point(after)]}


def test_what_was_not_trained_is_not_measured_and_says_by_which_command() -> None:
    words = {found.claim: found for found in claims_trained.verdicts({})}
    assert {found.word for found in words.values()} == {"not measured"}
    assert sum("python -m benchmarks.ablations --arms" in found.reason for found in words.values()) == 3


def test_arms_are_compared_by_their_ends_and_their_way() -> None:
    ahead = {"ablations": [arm("B-K4-seed0", 0.2, 0.1), arm("A-K4-seed0", 0.4, 0.3)]}
    behind = {"ablations": [arm("B-K4-seed0", 0.4, 0.3), arm("A-K4-seed0", 0.2, 0.1)]}
    words = [
        next(found.word for found in claims_trained.verdicts(each) if "[A]" in found.claim) for each in (ahead, behind)
    ]
    assert words == ["reproduced", "not reproduced"]


def test_more_windows_are_better_only_if_they_are() -> None:
    def word(two: float, four: float, eight: float) -> str:
        rows = [arm("B-K2-seed0", 1, two, 2), arm("B-K4-seed0", 1, four), arm("B-K8-seed0", 1, eight, 8)]
        return next(found.word for found in claims_trained.verdicts({"ablations": rows}) if "K = 2" in found.claim)

    assert word(0.3, 0.2, 0.1) == "reproduced"
    assert word(0.3, 0.2, 0.25) == "partly"
    assert word(0.1, 0.2, 0.3) == "not reproduced"


def test_errors_may_not_grow_and_likeness_may_not_fall_in_transfer() -> None:
    def word(measure: str, few: float) -> str:
        row = {"name": "x", "measure": measure, "follows": {"original, 50": 10.0, "ΔW, 4": few}}
        return claims_trained.transfer([row]).word

    assert [word("edge F1", few) for few in (12.0, 9.5, 8.0)] == ["reproduced", "reproduced", "not reproduced"]
    assert [word("joint error, px", few) for few in (8.0, 10.5, 12.0)] == ["reproduced", "reproduced", "not reproduced"]


def test_paired_shares_know_that_pictures_belong_together() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(400) < 0.5
    better = first | (rng.random(400) < 0.1)
    found = share_difference(better, first)
    assert 0 < found["low"] < found["value"] < found["high"]
    apart_ = mean_interval(rng.permutation(better).astype(float) - first.astype(float))
    assert apart_["high"] - apart_["low"] > found["high"] - found["low"]


def test_a_row_is_made_once_and_again_when_what_decides_it_changes(tmp_path) -> None:
    made = []

    def make() -> Row:
        made.append(1)
        return Row(numbers={"fd": 1.5}, arrays={"features": np.arange(6, dtype=np.float32).reshape(2, 3)})

    for shelf in (Shelf(folder=tmp_path), Shelf(folder=tmp_path)):
        row = shelf.row({"weights": "abc", "steps": 4}, make)
        assert row.numbers == {"fd": 1.5}
        assert row.arrays["features"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert len(made) == 1
    Shelf(folder=tmp_path).row({"weights": "abd", "steps": 4}, make)
    assert len(made) == 2
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(each["decided by"]["weights"] for each in kept) == ["abc", "abd"]


def test_a_document_is_the_same_in_both_forms_and_safe(tmp_path) -> None:
    blocks = [
        Heading(text="A < B"),
        Text(text="**Bold** and `code`"),
        Table(head=("x",), rows=[("1",)], marks=["partly"]),
    ]
    assert to_markdown(blocks) == "## A < B\n\n**Bold** and `code`\n\n| x |\n|---|\n| 1 |\n"
    page = to_html(blocks, "T")
    assert "<h2>A &lt; B</h2>" in page
    assert "<strong>Bold</strong> and <code>code</code>" in page
    assert '<tr class="partly"><td>1</td></tr>' in page
