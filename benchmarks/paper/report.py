"""From the evidence to the document.

Evidence, plain JSON: `setting` (what was used: sizes, seeds, hashes, machine), `sweep`, `table` (the teacher's row
last), `floors`, `race`, `differences`, `cost`, `paired`, `windows`, `diversity`, `negative`, `fifth_step`, `dynamic`,
`styled`, and, where their files are, `ablations` and `transfer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.paper import claims, claims_trained, published
from benchmarks.paper.claims import FEW, Evidence, Verdict, told
from benchmarks.paper.document import Block, Figure, Heading, Table, Text

TITLE = "PeRFlow's evidence, re-made on Tabletop"
KINDS = {"train": "train", "held_out": "held-out", "teacher": "teacher"}


def blocks(evidence: Evidence, figures: dict[str, Figure]) -> Iterator[Block]:
    """The whole report."""
    setting = evidence["setting"]
    yield Heading(text=TITLE, level=1)
    yield Text(text=_opening(setting))
    if setting["quick"]:
        yield Text(text="**Quick: the sets are far too small to mean anything. This shows only that all of it works.**")
    yield from _verdicts(evidence)
    yield figures["pictures"]
    yield from _table_one(evidence, figures)
    yield from _race(evidence)
    yield from _deck(evidence)
    yield from _sweep(evidence, figures)
    yield from _paths(evidence, figures)
    yield from _habits(evidence, figures)
    yield from _styled(evidence)
    yield from _trained(evidence, figures)
    yield from _how(evidence)


def _opening(setting: dict[str, Any]) -> str:
    return (
        f"The claims of PeRFlow (arXiv 2405.07510) tested on this project's built-in world with the shipped weights, "
        f"by `{setting['command']}`. All is at 128 x 128, in the features of a judge of this world: values cannot "
        "be compared with the authors' (512 x 512, Inception), directions can. Their figures are from the "
        f"{published.SOURCE}."
    )


def all_verdicts(evidence: Evidence) -> list[Verdict]:
    """In order."""
    return [*claims.verdicts(evidence), *claims_trained.verdicts(evidence)]


def _verdicts(evidence: Evidence) -> Iterator[Block]:
    found = all_verdicts(evidence)
    yield Heading(text="Verdicts")
    yield Text(
        text="A word is given by rules on the numbers (benchmarks/paper/claims.py): reproduced where all parts of the "
        "claim hold, beyond 95 % intervals where there are any; partly where some do."
    )
    yield Table(
        head=("claim", "verdict", "why", "published"),
        rows=[(each.claim, f"**{each.word}**", each.reason, each.published) for each in found],
        marks=[each.word.replace(" ", "-") for each in found],
    )


def _table_one(evidence: Evidence, figures: dict[str, Figure]) -> Iterator[Block]:
    setting = evidence["setting"]
    count = setting["num_pictures"]
    kinds = {setting["perflow"]: "perflow", setting["lcm"]: "lcm"}
    yield Heading(text="Table 1: three references")
    yield Text(
        text=f"{count} pictures of each method, at its best CFG, against {count} training scenes, {count} held-out "
        f"scenes, and {count} samples of the teacher at {setting['teacher_steps']} steps and CFG "
        f"{setting['guidance']:g} on other prompts. FD with 95 % intervals; few samples raise every FD, so compare "
        f"with the floors, which are of the same number. In brackets the authors' FID ({', '.join(_quoted_sets())})."
    )
    head = ["method", "steps", "CFG", *(f"FD, {name}" for name in KINDS.values()),
            *(f"KID, {name}" for name in KINDS.values()), "precision", "recall", "single", "double"]  # fmt: skip
    yield Table(head=head, rows=[_line(row, kinds.get(row["id"])) for row in evidence["table"]])
    yield Text(text="Floors: what two sets of the same kind score.")
    yield Table(
        head=("sets", "FD", "KID"),
        rows=[(name, _interval(each["fd"]), f"{each['kid']:.3f}") for name, each in evidence["floors"].items()],
    )
    yield figures["steps"]
    yield figures["references"]


def card_table(evidence: Evidence) -> Iterator[Block]:
    """The short of it, for the cards of the models: who comes how near to the teacher, at what cost."""
    setting = evidence["setting"]
    yield Text(
        text=f"{setting['num_pictures']} prompts of unseen scenes, half with one thing, half with two, each method at "
        f"its best CFG; FD in the judge's features to as many samples of the teacher ({setting['teacher_steps']} steps "
        f"of DPM-Solver++ at CFG {setting['guidance']:g}, other prompts), whose own row is the floor. "
        f"{setting['machine']}."
    )
    yield Table(
        head=("method", "steps", "CFG", "calls", "FD to the teacher", "single", "double"),
        rows=[(row["method"], str(row["steps"]), f"{row['guidance']:g}", str(row["calls"]),
               _interval(row["fd"]["teacher"]), f"{row['single']:.1%}", f"{row['double']:.1%}")
              for row in evidence["table"]],
    )  # fmt: skip


def _quoted_sets() -> list[str]:
    return [f"{KINDS[key]}: {name}" for key, name in published.REFERENCES.items()]


def _line(row: dict[str, Any], kind: str | None) -> list[str]:
    def fd(name: str) -> str:
        own = _interval(row["fd"][name])
        return own if kind is None else f"{own} ({published.fid(kind, row['steps'], name)})"

    shares = (f"{row[name]:.1%}" for name in ("precision", "recall", "single", "double"))
    return [row["method"], str(row["steps"]), f"{row['guidance']:g}", *map(fd, KINDS),
            *(f"{row['kid'][name]:.3f}" for name in KINDS), *shares]  # fmt: skip


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _race(evidence: Evidence) -> Iterator[Block]:
    setting, rows = evidence["setting"], evidence["race"]
    yield Heading(text="The race at equal calls")
    if not rows:
        yield Text(text=claims.NO_RACER)
        return
    yield Text(
        text=f"Methods trained alike, the same number of weights each, all at {FEW} steps and CFG 1: {FEW} network "
        f"calls a picture. {setting['num_raced']} pictures each, from the same prompts and noise; FD to the "
        f"{setting['num_pictures']} samples of the teacher that Table 1 has, with 95 % intervals: compare it within "
        "this table only. Differences are paired, so they are sharper than the distances: below zero PeRFlow is nearer."
    )
    yield Table(
        head=("method", "FD to teacher", "PeRFlow less it", "single", "double"),
        rows=[(row["method"], _interval(row["fd"]), told(row["perflow less it"]) if row["perflow less it"] else "",
               f"{row['single']:.1%}", f"{row['double']:.1%}") for row in rows],
    )  # fmt: skip


def _deck(evidence: Evidence) -> Iterator[Block]:
    yield Heading(text="Steps, calls, time, FD, adherence")
    yield Text(
        text="A network call is one row: CFG doubles it. Milliseconds are of one picture with its decoding, medians, "
        f"with nothing beside them (threads: {evidence['setting']['threads']}); a method's grids were drawn in turn."
    )
    rows = [
        (row["method"], str(row["steps"]), str(row["calls"]), _cost(evidence, row),
         f"{row['fd']['teacher']['value']:.2f}", f"{(row['single'] + row['double']) / 2:.1%}")
        for row in evidence["table"]
    ]  # fmt: skip
    yield Table(head=("method", "steps", "calls", "ms a picture", "FD to teacher", "things right"), rows=rows)


def _cost(evidence: Evidence, row: dict[str, Any]) -> str:
    key = f"{row['id']}, {row['steps']}"
    return f"{evidence['cost'][key]:.0f}"


def _sweep(evidence: Evidence, figures: dict[str, Figure]) -> Iterator[Block]:
    yield Heading(text="CFG, swept before anything was compared")
    scales = sorted({row["guidance"] for row in evidence["sweep"]})
    yield Text(
        text=f"{evidence['setting']['num_swept']} pictures a point; FD to as many teacher samples. Weights with "
        "guidance in them were swept as well."
    )
    keys = dict.fromkeys((row["id"], row["method"], row["steps"]) for row in evidence["sweep"])
    fd = {(row["id"], row["steps"], row["guidance"]): row["fd"] for row in evidence["sweep"]}
    rows = [(name, str(steps), *(f"{fd[id, steps, scale]:.2f}" for scale in scales)) for id, name, steps in keys]
    yield Table(head=("method", "steps", *(f"CFG {scale:g}" for scale in scales)), rows=rows)
    yield figures["sweep"]


def _paths(evidence: Evidence, figures: dict[str, Figure]) -> Iterator[Block]:
    setting = evidence["setting"]
    yield Heading(text="Against the teacher's own paths")
    yield Text(
        text=f"{setting['num_paired']} noises, each with its caption; the truth is the teacher's "
        f"{setting['reference_steps']}-step DDIM at the same CFG. Error: latent RMSE over the truth's RMS."
    )
    yield Table(
        head=("method", "steps", "CFG", "error", "its median", "PSNR, dB"),
        rows=[(row["method"], str(row["steps"]), f"{row['guidance']:g}", f"{row['error']:.3f}", f"{row['median']:.3f}",
               f"{row['psnr_db']:.1f}") for row in evidence["paired"]],
    )  # fmt: skip
    yield Text(
        text="Each window crossed in one step from the true path's point at its start: error at its end over the way. "
        "Bend: rectified flow's S (arXiv 2209.03003), relative; 0 is a straight line."
    )
    head = (
        "method",
        "CFG",
        *(f"error, window {k + 1}" for k in range(4)),
        *(f"bend, window {k + 1}" for k in range(4)),
    )
    yield Table(
        head=head,
        rows=[(row["method"], f"{row['target']:g}", *map("{:.3f}".format, (*row["errors"], *row["bends"])))
              for row in evidence["windows"]],
    )  # fmt: skip
    yield figures["windows"]


def _habits(evidence: Evidence, figures: dict[str, Figure]) -> Iterator[Block]:
    setting = evidence["setting"]
    yield Heading(text="Diversity, negative prompts, the fifth step, dynamic CFG")
    yield Text(text=f"{setting['num_diverse']} prompts from {setting['num_seeds']} noises each.")
    yield Table(
        head=("method", "steps", "CFG", "mean distance", "of the teacher's", "Vendi score"),
        rows=[(row["method"], str(row["steps"]), f"{row['guidance']:g}", f"{row['distance']:.2f}",
               f"{row['of_teacher']['value']:.0%}", f"{row['vendi']:.2f}") for row in evidence["diversity"]],
    )  # fmt: skip
    yield figures["diversity"]
    yield Text(text="Negative prompts: pictures in which the sky that was named is found, without and with naming it.")
    yield Table(
        head=("method", "steps", "CFG", "without", "with"),
        rows=[(row["method"], str(row["steps"]), f"{row['guidance']:g}", f"{row['without']:.0%}", f"{row['with']:.0%}")
              for row in evidence["negative"]],
    )  # fmt: skip
    fifth = evidence["fifth_step"]
    yield Text(text=f"PeRFlow on {setting['num_doubles']} scenes with two things, CFG {fifth['guidance']:g}:")
    yield Table(
        head=("steps", "both right", "FD to teacher samples"),
        rows=[(row["steps"], f"{row['double']:.1%}", f"{row['fd']:.2f}") for row in fifth["rows"]],
    )
    yield Text(text="4 steps, one CFG for all windows or one for each (noise end first):")
    yield Table(
        head=("method", "CFG", "FD to teacher samples", "single", "double"),
        rows=[(each["method"], "-".join(f"{scale:.3g}" for scale in row["scales"]), f"{row['fd']:.2f}",
               f"{row['single']:.1%}", f"{row['double']:.1%}") for each in evidence["dynamic"] for row in each["rows"]],
    )  # fmt: skip


def _styled(evidence: Evidence) -> Iterator[Block]:
    found = evidence["styled"]
    yield Heading(text="On a separately fine-tuned base")
    made = "was in the cache already" if found["was_there"] else f"was trained for {found['minutes']:g} minutes"
    yield Text(
        text=f"Old prints of the same world; the fine-tuned base {made} (UNet `{found['unet'][:12]}`). FD to "
        f"{evidence['setting']['num_styled']} of its own 25-step samples, PSNR to its pictures from the same noise."
    )
    yield Table(
        head=("method", "steps", "CFG", "FD", "PSNR, dB"),
        rows=[(row["method"], str(row["steps"]), f"{row['guidance']:g}", f"{row['fd']:.2f}",
               "" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}") for row in found["rows"]],
    )  # fmt: skip


def _trained(evidence: Evidence, figures: dict[str, Figure]) -> Iterator[Block]:
    yield Heading(text="Trained for this: [A] and [B], K, CFG-sync and CFG-fixed")
    arms = evidence.get("ablations")
    if not arms:
        yield Text(text=f"Not there yet: `{claims_trained.COMMAND}` trains the arms and writes their results.")
        return
    yield Text(
        text=f"Short trainings of the shipped base, {arms[0]['num_steps']} steps of {arms[0]['batch_size']} each, that "
        "differ in one thing. Median paired error to the teacher's ODE, before and after; at 8 steps, and at one step "
        f"a window. {arms[0]['machine']}."
    )
    yield Table(head=("arm", "asks for", "at 8 steps", "at K steps", "at 8 steps, CFG 3", "seconds"),
                rows=[_arm(arm) for arm in arms])  # fmt: skip
    yield figures["ablations"]


def _arm(arm: dict[str, Any]) -> list[str]:
    def change(kind: str, steps: int) -> str:
        ends = [arm["points"][place][kind].get(str(steps)) for place in (0, -1)]
        return " to ".join(f"{each['median']:.3f}" for each in ends if each)

    return [arm["arm"], arm["question"], change("paired", 8), change("paired", arm["num_time_windows"]),
            change("paired_guided", 8), f"{arm['seconds']:.0f}"]  # fmt: skip


def _how(evidence: Evidence) -> Iterator[Block]:
    setting = evidence["setting"]
    yield Heading(text="How this was made")
    yield Text(
        text="FD and KID are torchmetrics', on the judge's 160 features. Intervals are of a basic (reverse-percentile) "
        "bootstrap, the resamples' deviations taken from their own mean: resampling with replacement raises FD by "
        "about as much again as the finite sample did, so plain percentiles would lie above the estimate. Differences "
        "resample the same rows on both sides. Precision and recall: arXiv 1904.06991, k = 3."
    )
    rows = [("command", f"`{setting['command']}`"), ("machine", f"{setting['machine']}; {setting['time']}"),
            ("noise seed", str(setting["noise_seed"])), ("prompts", setting["prompts"])]  # fmt: skip
    rows += [(f"sha256, {name}", f"`{value}`") for name, value in setting["hashes"].items()]
    yield Table(head=("", ""), rows=rows)
