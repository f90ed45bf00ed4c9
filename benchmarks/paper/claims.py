"""Evidence -> verdicts: each claim of the paper with a word and a reason that is made of the numbers.

"reproduced" where the numbers say so beyond their 95 % intervals (where there are any), "partly" where only some do,
"not reproduced" where none does, "not measured" where what it needs is missing. Evidence is plain JSON
(`benchmarks.paper.report` says what is in it). Knows no network and no picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.paper import published

Word = Literal["reproduced", "partly", "not reproduced", "not measured"]
Evidence = dict[str, Any]
FEW, MOST_RATIO = 4, 1.05
BEFORE_TEACHER = "perflow less the teacher's many steps"  # the name of a difference
NO_RACER = "No PeRFlow of its rivals' size is there to race with them."
NEAR = 0.1  # of 100 %: how near is "near the teacher's"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim as it is tested here, what the authors published of it, and how it stands."""

    claim: str
    published: str
    word: Word
    reason: str


def word_of(*held: bool) -> Word:
    """Of the parts of a claim."""
    return "reproduced" if all(held) else "partly" if any(held) else "not reproduced"


def verdicts(evidence: Evidence) -> Iterator[Verdict]:
    """Those that need no training; see `claims_trained` for the others."""
    yield more_steps(evidence)
    yield domain_shift(evidence)
    yield diversity(evidence)
    yield straight(evidence)
    yield fifth_step(evidence)
    yield dynamic(evidence)
    yield negative(evidence)
    yield fine_tuned(evidence)
    yield beyond(evidence)


def told(difference: dict[str, float], unit: str = "") -> str:
    """A difference with its interval, as text."""
    sign = "+" if difference["value"] >= 0 else ""
    return f"{sign}{difference['value']:.2f}{unit} [{difference['low']:.2f}, {difference['high']:.2f}]"


def points(difference: dict[str, float]) -> str:
    """A difference of shares in percentage points."""
    return told({name: 100 * value for name, value in difference.items()}, " points")


def is_below(difference: dict[str, float]) -> bool:
    """Whether the first is smaller, beyond the interval."""
    return difference["high"] < 0


def is_above(difference: dict[str, float]) -> bool:
    """Whether the first is larger, beyond the interval."""
    return difference["low"] > 0


def missing(claim: str, quoted: str, what: str) -> Verdict:
    """Nothing to judge by."""
    return Verdict(claim=claim, published=quoted, word="not measured", reason=what)


def more_steps(evidence: Evidence) -> Verdict:
    claim = "Quality rises with steps for PeRFlow and falls for LCM"
    found = evidence["differences"]
    own = next((value for name, value in found.items() if name.startswith("perflow: ")), None)
    rival = next((value for name, value in found.items() if name.startswith("lcm: ")), None)
    if own is None or rival is None:
        return missing(claim, published.STEPS, "LCM's weights are not there.")
    reason = f"FD to teacher samples, 8 steps less 4: PeRFlow {told(own)}, LCM {told(rival)}."
    return Verdict(claim=claim, published=published.STEPS, word=word_of(is_below(own), is_above(rival)), reason=reason)


def domain_shift(evidence: Evidence) -> Verdict:
    claim = "PeRFlow's domain shift is smaller than LCM's"
    lcm = evidence["setting"]["lcm"]
    found = {name: value for name, value in evidence["differences"].items() if name.startswith(f"perflow less {lcm},")}
    if not found:
        return missing(claim, published.SHIFT, "LCM's weights are not there.")
    parts = ", ".join(f"{name.split(', ')[1]} {told(value)}" for name, value in found.items())
    word = word_of(*map(is_below, found.values()))
    return Verdict(claim=claim, published=published.SHIFT, word=word,
                   reason=f"FD to teacher samples, PeRFlow less LCM: {parts}.")  # fmt: skip


def diversity(evidence: Evidence) -> Verdict:
    claim = "PeRFlow's diversity is near the teacher's, nearer than LCM's"
    rows = {row["id"]: row for row in evidence["diversity"]}
    own, lcm = rows[evidence["setting"]["perflow"]], rows.get(evidence["setting"]["lcm"])
    share = own["of_teacher"]["value"]
    reason = f"Of the teacher's mean distance between seeds: PeRFlow {_percent(own['of_teacher'])}"
    held = [abs(share - 1) <= NEAR]
    if lcm:
        reason += f", LCM {_percent(lcm['of_teacher'])}"
        held.append(abs(share - 1) < abs(lcm["of_teacher"]["value"] - 1))
    return Verdict(claim=claim, published=published.DIVERSITY, word=word_of(*held),
                   reason=f"{reason} (4 steps; near is within {NEAR:.0%}).")  # fmt: skip


def _percent(interval: dict[str, float]) -> str:
    return f"{interval['value']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"


def straight(evidence: Evidence) -> Verdict:
    claim = "Inside a window PeRFlow's path is straighter than the teacher's and one step ends nearer to it than DDIM's"
    own = next((row for row in evidence["windows"] if row["id"] == evidence["setting"]["perflow"]), None)
    if own is None:
        return missing(claim, published.NOT_QUOTED, "The shipped weights have other windows than four.")
    ddim = next(row for row in evidence["windows"] if (row["id"], row["target"]) == ("ddim", own["target"]))
    bends = [a < b for a, b in zip(own["bends"], ddim["bends"], strict=True)]
    ends = [a < b for a, b in zip(own["errors"], ddim["errors"], strict=True)]
    reason = (
        f"Straighter in {sum(bends)} of {len(bends)} windows (bend {_list(own['bends'])} against "
        f"{_list(ddim['bends'])}); nearer at the end in {sum(ends)} ({_list(own['errors'])} against "
        f"{_list(ddim['errors'])})."
    )
    return Verdict(claim=claim, published=published.NOT_QUOTED, word=word_of(*bends, *ends), reason=reason)


def _list(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def fifth_step(evidence: Evidence) -> Verdict:
    claim = "5 steps are better than 4 for scenes with two things, when the extra step goes to the noisiest window"
    found = evidence["fifth_step"]
    gain, place, fd = found["5 less 4"], found["5 less 5 with the extra one last"], found["fd, 5 less 4"]
    reason = (
        f"Both things right, 5 steps less 4: {points(gain)}; less 5 with the extra step in the last window: "
        f"{points(place)}; FD to teacher samples, 5 less 4: {told(fd)}."
    )
    held = is_above(gain), is_above(place), is_below(fd)
    return Verdict(claim=claim, published=published.NOT_QUOTED, word=word_of(*held), reason=reason)


def dynamic(evidence: Evidence) -> Verdict:
    claim = "Dynamic CFG (strong in the first window) is better than the best constant scale"
    held, parts = [], []
    for found in evidence["dynamic"]:
        fd, things = found["fd, dynamic less constant"], found["things, dynamic less constant"]
        falling, constant = (
            "-".join(f"{scale:.3g}" for scale in found[name]["scales"]) for name in ("best_dynamic", "best_constant")
        )
        parts.append(
            f"{found['method']}, {falling} less {constant}: FD to teacher samples {told(fd)}, things right "
            f"{points(things)}."
        )
        held += [is_below(fd), is_above(things)]
    return Verdict(claim=claim, published=published.GUIDANCE, word=word_of(*held), reason=" ".join(parts))


def negative(evidence: Evidence) -> Verdict:
    claim = "PeRFlow obeys negative prompts as the teacher does"
    rows = {row["id"]: row for row in evidence["negative"]}
    own = rows[evidence["setting"]["sync"] or evidence["setting"]["perflow"]]
    teacher = rows[evidence["setting"]["teacher"]]
    parts = [
        f"{row['method']} ({row['steps']} steps, CFG {row['guidance']:g}) {row['without']:.0%} to {row['with']:.0%}"
        for row in evidence["negative"]
    ]
    drop, whole = own["without"] - own["with"], teacher["without"] - teacher["with"]
    return Verdict(claim=claim, published=published.NEGATIVE, word=word_of(drop > 0, drop >= 0.8 * whole),
                   reason=f"Skies named in the negative prompt that are still there: {', '.join(parts)}.")  # fmt: skip


def fine_tuned(evidence: Evidence) -> Verdict:
    claim = "On a separately fine-tuned base ΔW is better than LCM's LoRA on it"
    found = evidence["styled"]
    fd = found["perflow less lcm"]
    if fd is None:
        return missing(claim, published.FINE_TUNES, "LCM's weights are not there.")
    own, lcm = found["rows"][0], found["rows"][1]
    reason = (
        f"4 steps, FD to the fine-tuned base's own 25-step samples, PeRFlow less LCM: {told(fd)}; PSNR to its pictures "
        f"from the same noise: {own['psnr_db']:.1f} dB against {lcm['psnr_db']:.1f}."
    )
    word = word_of(is_below(fd), own["psnr_db"] > lcm["psnr_db"])
    return Verdict(claim=claim, published=published.FINE_TUNES, word=word, reason=reason)


def beyond(evidence: Evidence) -> Verdict:
    claim = (
        "Beyond the paper: at 4 steps PeRFlow is within 1.05 of the teacher's own 25-step FD, and at equal calls "
        "clearly below every rival of equal training"
    )
    if not evidence["race"]:
        return missing(claim, published.NOT_QUOTED, NO_RACER)
    floor, more = evidence["table"][-1]["fd"]["teacher"]["value"], evidence["differences"][BEFORE_TEACHER]
    allowed = (MOST_RATIO - 1) * floor
    rivals = {row["method"]: row["perflow less it"] for row in evidence["race"] if row["perflow less it"]}
    parts = ", ".join(f"{name} {told(value)}" for name, value in rivals.items())
    reason = (
        f"FD is {1 + more['value'] / floor:.2f} times the teacher's own ({floor:.2f} at 25 steps): {told(more)}, where "
        f"{allowed:+.2f} is allowed. The race, {FEW} steps at CFG 1, PeRFlow's LoRA less {parts}."
    )
    word = word_of(more["high"] <= allowed, *map(is_below, rivals.values()))
    return Verdict(claim=claim, published=published.NOT_QUOTED, word=word, reason=reason)
