"""Verdicts on what needs trainings: read from the results of `python -m benchmarks.ablations`; and the transfer table.

The paired error (median over noises of the latent RMSE to the teacher's ODE) is what arms are compared by: it means the
same for every K, head and method.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.paper import published
from benchmarks.paper.claims import Evidence, Verdict, missing, told, word_of

COMMAND = "python -m benchmarks.ablations"
NEAR = 0.1
REFERENCE = "B-K4-seed0"
LOWER_IS_BETTER = ("error", "angle")


def verdicts(evidence: Evidence) -> Iterator[Verdict]:
    """In the report's order."""
    arms = {row["arm"]: row for row in evidence.get("ablations") or []}
    yield sync_and_fixed(arms, evidence)
    yield parameterisation(arms)
    yield number_of_windows(arms)
    yield transfer(evidence.get("transfer"))


def last(arm: dict[str, Any], steps: int, *, guided: bool = False) -> float:
    """An arm's paired error at its end."""
    return arm["points"][-1]["paired_guided" if guided else "paired"][str(steps)]["median"]


def first(arm: dict[str, Any], steps: int, *, guided: bool = False) -> float:
    """The same before its first step."""
    return arm["points"][0]["paired_guided" if guided else "paired"][str(steps)]["median"]


def _lacking(arms: dict[str, Any], names: tuple[str, ...], claim: str, quoted: str) -> Verdict | None:
    absent = [name for name in names if name not in arms]
    if not absent:
        return None
    return missing(claim, quoted, f"Not trained yet: {', '.join(absent)} (`{COMMAND} --arms {' '.join(absent)}`).")


def sync_and_fixed(arms: dict[str, Any], evidence: Evidence) -> Verdict:
    claim = "CFG-fixed reaches the guided teacher in half the calls; CFG-sync stays free of the scale and as near"
    if lack := _lacking(arms, (REFERENCE, "fixed-K4-seed0"), claim, published.NOT_QUOTED):
        return lack
    sync, fixed = arms[REFERENCE], arms["fixed-K4-seed0"]
    before = {name: first(arm, 4, guided=True) for name, arm in (("sync", sync), ("fixed", fixed))}
    after = {name: last(arm, 4, guided=True) for name, arm in (("sync", sync), ("fixed", fixed))}
    reason = (
        f"Paired error at 4 steps against the teacher at CFG 3, before and after {sync['num_steps']} steps: CFG-sync "
        f"(8 calls) {before['sync']:.3f} to {after['sync']:.3f}, CFG-fixed (4 calls) {before['fixed']:.3f} to "
        f"{after['fixed']:.3f}. {_shipped(evidence)}"
    )
    held = after["fixed"] < before["fixed"], after["sync"] < before["sync"], after["sync"] <= after["fixed"]
    return Verdict(claim=claim, published=published.NOT_QUOTED, word=word_of(*held), reason=reason)


def _shipped(evidence: Evidence) -> str:
    """The same on the weights that ship, where both kinds do."""
    found = evidence.get("differences", {}).get(f"fixed less {evidence.get('setting', {}).get('sync')}, 4 steps")
    if not found:
        return ""
    return f"Shipped weights, FD to teacher samples at 4 steps, fixed less sync: {told(found)}."


def parameterisation(arms: dict[str, Any]) -> Verdict:
    claim = "Parameterisation [B] converges faster than [A]"
    if lack := _lacking(arms, (REFERENCE, "A-K4-seed0"), claim, published.CONVERGENCE):
        return lack
    one, other = arms[REFERENCE], arms["A-K4-seed0"]
    pairs = list(zip(_curve(one), _curve(other), strict=False))
    held = [b < a for b, a in pairs]
    reason = (
        f"[B] is ahead at {sum(held)} of {len(held)} points; paired error at 4 steps from {pairs[0][0]:.3f} to "
        f"{pairs[-1][0]:.3f} under [B], from {pairs[0][1]:.3f} to {pairs[-1][1]:.3f} under [A], whose output layer "
        f"starts re-scaled. {_spread(arms)}"
    )
    return Verdict(claim=claim, published=published.CONVERGENCE, word=word_of(held[-1], all(held)), reason=reason)


def _curve(arm: dict[str, Any]) -> list[float]:
    return [point["paired"]["4"]["median"] for point in arm["points"]]


def _spread(arms: dict[str, Any]) -> str:
    """What another training seed changes: the measure of whether a difference means anything."""
    seeds = [last(row, 4) for name, row in arms.items() if name.startswith("B-K4-seed")]
    if len(seeds) < 2:
        return "One training seed each."
    return f"{len(seeds)} training seeds of [B] end between {min(seeds):.3f} and {max(seeds):.3f}."


def number_of_windows(arms: dict[str, Any]) -> Verdict:
    claim = "With more windows (K = 2, 4, 8) the same training comes nearer to the teacher"
    names = ("B-K2-seed0", REFERENCE, "B-K8-seed0")
    if lack := _lacking(arms, names, claim, published.NOT_QUOTED):
        return lack
    rows = [arms[name] for name in names]
    at_eight = [last(row, 8) for row in rows]
    own = [last(row, row["num_time_windows"]) for row in rows]
    reason = (
        f"Paired error at 8 steps for K = 2, 4, 8: {', '.join(f'{value:.3f}' for value in at_eight)}; at one step a "
        f"window: {', '.join(f'{value:.3f}' for value in own)}. {_spread(arms)}"
    )
    held = at_eight[1] < at_eight[0], at_eight[2] < at_eight[1]
    return Verdict(claim=claim, published=published.NOT_QUOTED, word=word_of(*held), reason=reason)


def transfer(rows: list[dict[str, Any]] | None) -> Verdict:
    claim = "ΔW carries over to conditioned workflows, which follow their pictures as well in 4 steps as in 50"
    measured = [row for row in rows or [] if {"original, 50", "ΔW, 4"} <= set(row.get("follows") or {})]
    if not measured:
        return missing(claim, published.WORKFLOWS, "No transfer table yet (`python -m benchmarks.transfer`).")
    held, parts = [], []
    for row in measured:
        whole, few = row["follows"]["original, 50"], row["follows"]["ΔW, 4"]
        is_error = any(word in row["measure"] for word in LOWER_IS_BETTER)
        held.append(few <= (1 + NEAR) * whole if is_error else few >= (1 - NEAR) * whole)
        parts.append(f"{row['name']} {few:.3g} of {whole:.3g}")
    reason = f"Within {NEAR:.0%} in {sum(held)} of {len(held)} workflows, ΔW at 4 against the original at 50: "
    reason += f"{'; '.join(parts)}."
    return Verdict(claim=claim, published=published.WORKFLOWS, word=word_of(*held), reason=reason)
