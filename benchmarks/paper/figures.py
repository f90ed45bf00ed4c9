"""The report's pictures, of the evidence alone; in the colours of the time windows, noise violet to data amber."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas
from PIL import Image

from benchmarks.paper.document import Figure
from studio.ui.theme import INK, LINE, MUTED, window_colour

NUM_WINDOWS = 4
DASHES = ("-", "--", "-.", ":")
STYLE: Any = {
    "font.size": 9, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK, "xtick.color": MUTED,
    "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False, "grid.color": LINE, "axes.grid": True,
    "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip


def colour(place: int, count: int) -> str:
    """Of the `place`-th of `count` things, along the house's scale."""
    return window_colour(place, count)


def all_figures(evidence: dict[str, Any], shown: dict[str, np.ndarray], folder: Path) -> dict[str, Figure]:
    """Drawn into the folder, by name; `shown` has a few pictures `[n, 3, H, W]` uint8 of each method."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        found = {
            "pictures": _pictures(shown, folder / "pictures.png"),
            "sweep": _sweep(evidence, folder / "sweep.png"),
            "steps": _steps(evidence, folder / "steps.png"),
            "references": _references(evidence, folder / "references.png"),
            "windows": _windows(evidence, folder / "windows.png"),
            "diversity": _diversity(evidence, folder / "diversity.png"),
        }
        if evidence.get("ablations"):
            found["ablations"] = _ablations(evidence["ablations"], folder / "ablations.png")
    return found


def _saved(canvas: Canvas, path: Path, words: str) -> Figure:
    canvas.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
    return Figure(path=path, words=words)


def _methods(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Names by id, in order."""
    return {row["id"]: row["method"] for row in rows}


def _sweep(evidence: dict[str, Any], path: Path) -> Figure:
    rows, names = evidence["sweep"], _methods(evidence["sweep"])
    counts = sorted({row["steps"] for row in rows})
    canvas = Canvas(figsize=(4.2 * len(counts) + 1.5, 3.2))
    for place, steps in enumerate(counts):
        axes = canvas.add_subplot(1, len(counts), place + 1, title=f"{steps} steps", xlabel="CFG", ylabel="FD")
        for number, (id, name) in enumerate(names.items()):
            own = [row for row in rows if (row["id"], row["steps"]) == (id, steps)]
            points = [row["guidance"] for row in own], [row["fd"] for row in own]
            axes.plot(*points, DASHES[number % 4], marker="o", ms=3, color=colour(number, len(names)), label=name)
    canvas.axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return _saved(canvas, path, "FD to teacher samples by CFG; every method then stands at its lowest point.")


def _steps(evidence: dict[str, Any], path: Path) -> Figure:
    rows = evidence["table"]
    names, canvas = _methods(rows[:-1]), Canvas(figsize=(6.4, 3.4))
    axes = canvas.add_subplot(xlabel="steps", ylabel="FD to teacher samples", xscale="log")
    for number, (id, name) in enumerate(names.items()):
        own = sorted((row for row in rows[:-1] if row["id"] == id), key=lambda row: row["steps"])
        found = [row["fd"]["teacher"] for row in own]
        low, high = ([abs(each["value"] - each[side]) for each in found] for side in ("low", "high"))
        axes.errorbar([row["steps"] * (1 + 0.015 * (number - len(names) / 2)) for row in own],
                      [each["value"] for each in found], yerr=[low, high], fmt=DASHES[number % 4], marker="o", ms=3,
                      lw=1, capsize=2, color=colour(number, len(names)), label=name)  # fmt: skip
    axes.axhline(rows[-1]["fd"]["teacher"]["value"], color=MUTED, lw=1, ls=":")
    ticks = sorted({row["steps"] for row in rows[:-1]})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return _saved(canvas, path, "FD to teacher samples by steps, with 95 % intervals; dotted: the teacher at 25 steps.")


def _references(evidence: dict[str, Any], path: Path) -> Figure:
    rows = [row for row in evidence["table"] if row["steps"] == 4] + [evidence["table"][-1]]
    kinds = ("train", "held_out", "teacher")
    canvas = Canvas(figsize=(7.4, 3.2))
    axes = canvas.add_subplot(ylabel="FD")
    for place, kind in enumerate(kinds):
        spots = np.arange(len(rows)) + 0.27 * (place - 1)
        values = [row["fd"][kind]["value"] for row in rows]
        axes.bar(spots, values, 0.25, color=colour(place, len(kinds)), label=f"to {kind.replace('_', '-')}")
    axes.set_xticks(range(len(rows)), [f"{row['method']}, {row['steps']}" for row in rows], rotation=20, ha="right")
    axes.legend(fontsize=7, ncols=3)
    return _saved(canvas, path, "FD to the three references: 4 steps, and the teacher at 25.")


def _windows(evidence: dict[str, Any], path: Path) -> Figure:
    rows, canvas = evidence["windows"], Canvas(figsize=(8.6, 3.2))
    for place, (key, label) in enumerate((("errors", "error at the end"), ("bends", "bend"))):
        axes = canvas.add_subplot(1, 2, place + 1, ylabel=label)
        for window in range(NUM_WINDOWS):
            spots = np.arange(len(rows)) + 0.2 * (window - 1.5)
            values = [row[key][window] for row in rows]
            axes.bar(spots, values, 0.18, color=window_colour(window, NUM_WINDOWS), label=f"window {window + 1}")
        names = [f"{row['method']}, CFG {row['target']:g}" for row in rows]
        axes.set_xticks(range(len(rows)), names, rotation=25, ha="right")
    canvas.axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return _saved(canvas, path, "Window by window: one step from the true path, and how bent paths are.")


def _diversity(evidence: dict[str, Any], path: Path) -> Figure:
    rows, canvas = evidence["diversity"], Canvas(figsize=(5.6, 2.8))
    axes = canvas.add_subplot(xlabel="% of the teacher's")
    for place, row in enumerate(rows):
        share = row["of_teacher"]
        error = [[100 * (share["value"] - share["low"])], [100 * (share["high"] - share["value"])]]
        axes.barh(place, 100 * share["value"], 0.6, xerr=error, color=colour(place, len(rows)), ecolor=MUTED)
    axes.set_yticks(range(len(rows)), [f"{row['method']}, {row['steps']}" for row in rows])
    axes.axvline(100, color=MUTED, lw=1, ls=":")
    return _saved(canvas, path, "Mean distance between the pictures of one prompt, with 95 % intervals over prompts.")


def _ablations(arms: list[dict[str, Any]], path: Path) -> Figure:
    canvas = Canvas(figsize=(7.8, 3.2))
    for place, (kind, guided) in enumerate((("paired", False), ("paired_guided", True))):
        label = f"paired error at 8 steps, CFG {3 if guided else 1}"
        axes = canvas.add_subplot(1, 2, place + 1, xlabel="training steps", ylabel=label)
        for number, arm in enumerate(arms):
            own = [(point["step"], point[kind]["8"]["median"]) for point in arm["points"] if "8" in point[kind]]
            if own:
                axes.plot(*zip(*own, strict=True), DASHES[number % 4], marker="o", ms=3,
                          color=colour(number, len(arms)), label=arm["arm"])  # fmt: skip
    canvas.axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return _saved(canvas, path, "The arms' curves: error to the teacher's ODE from the same noise.")


def _pictures(shown: dict[str, np.ndarray], path: Path) -> Figure:
    """Methods as rows, prompts as columns; saved as they are, without a plot around them."""
    rows = [np.concatenate(list(each), axis=2) for each in shown.values()]
    grid = np.concatenate(rows, axis=1).transpose(1, 2, 0)
    Image.fromarray(grid).save(path)
    return Figure(path=path, words=f"The same prompts from the same noise. From above: {'; '.join(shown)}.")
