"""A training run as the page shows it: where it stands in words, its curves, its windows, its numbers, and its end.

All functions turn a run's digest into HTML text; every string from outside is escaped. Window curves wear the windows'
colours, each beside the untrained student's level: a curve below its dashed line has learnt something.
This module does not know gradio, folders or processes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from studio.runs.config import METHODS, TrainingConfig
from studio.runs.digest import RunDigest, error_ratio
from studio.runs.events import Failed, Finished, Stopped, Validated
from studio.ui.curves import Line, chart_html, number, smoothed, thinned
from studio.ui.feedback import bytes_in_words
from studio.ui.theme import window_colour

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
RUNNING = ("starting", "running", "stopping")
LIVE = ("queued", *RUNNING)
STATES = {
    "queued": "Waiting for the device",
    "starting": "Starting",
    "running": "Training",
    "stopping": "Stopping: a checkpoint is written first",
    "stopped": "Stopped",
    "finished": "Finished",
    "failed": "Failed",
    "interrupted": "Interrupted",
}


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How a run's process stands, as the jobs tell it; `words` is a reason or a place in the queue."""

    name: str
    words: str = ""


# --- in words ---------------------------------------------------------------------------------------------------


def duration_in_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


def phase_in_words(state: RunState, digest: RunDigest) -> str:
    """What is going on right now, in a few words."""
    if state.name == "running" and digest.paused:
        return "Paused: the device is with someone else"
    if state.name in ("starting", "running") and digest.phase is not None and not state.words:
        share = "" if digest.phase.fraction is None else f" {digest.phase.fraction:.0%}"
        words = digest.phase.words
        return f"{words[:1].upper()}{words[1:]}{share}"
    if state.name == "finished" or not state.words:
        return STATES.get(state.name, state.name)
    return f"{STATES.get(state.name, state.name)}: {state.words}"


def progress_in_words(digest: RunDigest, config: TrainingConfig) -> str:
    """`step 120 of 400, 1.8 s a step, about 8 min left`."""
    words = [f"step {digest.step:,} of {digest.num_steps or config.num_steps:,}"]
    if digest.seconds_per_step is not None:
        words.append(f"{digest.seconds_per_step:.3g} s a step")
    if digest.eta_seconds is not None and digest.step:
        words.append(f"about {duration_in_words(digest.eta_seconds)} left")
    return ", ".join(words)


def outcome_in_words(digest: RunDigest) -> str:
    """Whether the student does better than it began, in a sentence; empty before the first measurement."""
    if isinstance(digest.end, Finished) and digest.end.words:
        return digest.end.words
    ratio, finished = digest.error_ratio, isinstance(digest.end, Finished)
    if ratio is None:
        return ""
    share = f"{abs(1 - ratio):.1%}"
    when = "" if finished or not digest.validated else f" at step {digest.validated[-1].step:,}"
    if ratio < 1:
        return f"On held-out pictures the student's endpoint error{when} is {share} below the untrained student's."
    if ratio == 1:
        return f"On held-out pictures the student{when} is exactly as good as the untrained one."
    return (
        f"On held-out pictures the student's endpoint error{when} is {share} above the untrained student's: "
        + ("this run made it worse. A lower learning rate, or more steps, is the first thing to try."
           if finished else "often so in the first steps; it has to come down.")
    )  # fmt: skip


# --- as pictures ------------------------------------------------------------------------------------------------


def head_html(config: TrainingConfig, state: RunState, digest: RunDigest) -> str:
    """Name, what is learnt, where it stands, the progress bar and how long it will take."""
    share = min(1.0, digest.step / max(1, digest.num_steps or config.num_steps))
    words, student = progress_in_words(digest, config), "LoRA" if config.student == "lora" else "all weights"
    facts = (
        METHODS[config.method].split(":")[0].split(" (")[0], f"base {config.base.id}",
        f"pictures {config.dataset.title or config.dataset.id}", student,
    )  # fmt: skip
    width = f"width:{100 * share:.2f}%;background-size:{100 / max(share, 0.01):.0f}% 100%"
    return (
        f'<header class="run-head"><h2>{escape(config.name)}</h2>'
        f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p></header>'
        f'<p class="run-phase {escape(state.name)}"><i aria-hidden="true"></i>'
        f"<b>{escape(phase_in_words(state, digest))}</b><span>{escape(words)}</span></p>"
        f'<div class="run-bar" role="progressbar" aria-label="{escape(words)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * share:.0f}"><i style="{width}"></i></div>'
        f"{_warnings_html(digest)}{end_html(digest, state)}"
    )


def _warnings_html(digest: RunDigest) -> str:
    """The last few things a person should know; the same sentence once."""
    latest = list({each.words: each for each in digest.warnings}.values())[-3:]
    if not latest:
        return ""
    rows = "".join(f"<li>step {each.step:,}: {escape(each.words)}</li>" for each in latest)
    return f'<ul class="run-warnings" role="status">{rows}</ul>'


def end_html(digest: RunDigest, state: RunState) -> str:
    """The end as a card: better or worse than untrained, or why it ended."""
    if isinstance(digest.end, Finished):
        ratio, better = digest.error_ratio, digest.end.beats_untrained
        if better is None and ratio is not None:
            better = ratio < 1
        kind = {True: "better", False: "worse", None: ""}[better]
        words = outcome_in_words(digest) or "The result is exported."
        before = "before" if ratio is None else "untrained"
        title = {True: f"Better than {before}", False: f"Not better than {before}", None: "Done"}[better]
        return f'<div class="run-end {kind}"><h3>{title}</h3><p>{escape(words)}</p></div>'
    if isinstance(digest.end, Failed) and state.name not in LIVE:
        kept = f"The last good checkpoint is that of step {digest.end.step:,}; Resume goes on from there."
        return (
            f'<div class="run-end failed" role="alert"><h3>This run ended with an error</h3>'
            f"<p>{escape(digest.end.reason)}</p>{f'<p>{kept}</p>' if digest.end.step else ''}</div>"
        )
    if isinstance(digest.end, Stopped) and state.name not in LIVE:
        return f'<div class="run-end"><p>Stopped at step {digest.end.step:,}. Resume goes on exactly there.</p></div>'
    return ""


def windows_html(digest: RunDigest, config: TrainingConfig) -> str:
    """Held-out endpoint error of each time window since step 0, in its colour, beside the untrained student's level."""
    if not digest.validated:
        return _section("Held-out error, window by window", "", '<div class="chart waiting"><span>'
                        "Measured on pictures kept out of training, from step 0 on.</span></div>")  # fmt: skip
    count = len(digest.validated[-1].endpoint_errors)
    cells = "".join(_window_html(digest.validated, window, count, config.num_steps) for window in range(count))
    legend = (
        "Pictures kept out of training; noise to picture from left to right. The dashed line is the untrained student."
    )
    return _section(
        "Held-out error, window by window",
        f"{outcome_in_words(digest)} {legend}" if not isinstance(digest.end, Finished) else legend,
        f'<div class="window-charts">{cells}</div>',
    )


def _window_html(validated: Sequence[Validated], window: int, count: int, x_end: float) -> str:
    rows = [each for each in validated if len(each.endpoint_errors) == count and len(each.untrained) == count]
    xs, ys = [each.step for each in rows], [each.endpoint_errors[window] for each in rows]
    if not rows:
        return ""
    level, colour = rows[-1].untrained[window], window_colour(window, count)
    ratio = error_ratio((ys[-1],), (level,))
    change = "" if ratio is None else f"{ratio - 1:+.1%}"
    summary = f"Window {window + 1} of {count}: held-out error {number(ys[-1])}, untrained {number(level)}"
    lines = [
        Line(xs=xs, ys=ys, colour=colour, label="error"),
        Line(xs=(0, x_end), ys=(level, level), colour=colour, dashed=True),
    ]
    kind = "better" if ratio is not None and ratio < 1 else "worse"
    return (
        f'<figure class="window-chart" style="--w:{colour}"><figcaption><b>window {window + 1}</b>'
        f"<span>{number(ys[-1])}</span><em class={kind}>{change}</em></figcaption>"
        f"{chart_html(lines, summary=summary, x_end=x_end, small=True)}</figure>"
    )


def loss_html(digest: RunDigest, config: TrainingConfig) -> str:
    """The loss, raw and smoothed."""
    xs, ys = thinned(digest.steps, digest.losses)
    smooth = smoothed(ys)
    summary = f"Training loss, smoothed {number(smooth[-1])} at step {xs[-1]:.0f}" if xs else "Training loss"
    lines = [
        Line(xs=xs, ys=smooth, colour="var(--curve)", label="smoothed"),
        Line(xs=xs, ys=ys, colour="var(--curve)", label="raw", faint=True),
    ]
    return _section("Loss", "Smoothed, with the raw values behind it.",
                    chart_html(lines, summary=summary, x_end=config.num_steps))  # fmt: skip


def numbers_html(digest: RunDigest, config: TrainingConfig) -> str:
    """Learning rate and memory as small curves, and the numbers of the last step."""
    last = digest.last
    if last is None:
        return ""
    cells = [
        ("learning rate", f"{last.learning_rate:.2e}", _spark(digest, digest.learning_rates, config.num_steps)),
        ("memory", bytes_in_words(last.memory_bytes), _spark(digest, digest.memory_bytes, config.num_steps)),
        ("speed", f"{last.samples_per_second:.3g} samples/s", ""),
        ("gradient norm", number(last.gradient_norm), ""),
    ]
    if digest.checkpoints:
        saved = digest.checkpoints[-1]
        cells.append(("last checkpoint", f"step {saved.step:,}, {bytes_in_words(saved.bytes)}", ""))
    if digest.started is not None:
        count = digest.started.num_processes
        where = digest.started.device if count == 1 else f"{digest.started.device}, {count} processes"
        cells.append(("device", where, ""))
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd>{spark}</div>" for name, value, spark in cells)
    return f'<dl class="run-numbers">{rows}</dl>'


def _spark(digest: RunDigest, values: Sequence[float], x_end: float) -> str:
    xs, ys = thinned(digest.steps, values, 80)
    top = max(ys) or 1.0
    points = "L".join(f"{100 * x / max(1.0, x_end):.1f} {96 - 90 * y / top:.1f}" for x, y in zip(xs, ys, strict=True))
    path = f'<path class="line" style="stroke:var(--curve)" d="M{points}{"h0" if len(xs) == 1 else ""}"/>'
    return f'<svg class="spark" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{path}</svg>'


def log_html(text: str) -> str:
    """The tail of what the process itself said."""
    text = _ANSI.sub("", text)
    if not text.strip():
        return '<p class="facts"><span>The process has said nothing yet.</span></p>'
    return f'<pre class="run-log" tabindex="0" aria-label="The log\'s tail">{escape(text)}</pre>'


def _section(title: str, words: str, content: str) -> str:
    note = f"<p>{escape(words)}</p>" if words else ""
    return f'<section class="run-section"><h3>{title}</h3>{note}{content}</section>'
