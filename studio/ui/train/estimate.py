"""What a run will cost before it starts: time, memory, disk and money as measured by a preflight, in plain words, and
the command lines for machines with more than one GPU.

Nothing here is guessed: a number stands here because two steps and one sample were run. This module does not know
gradio, nor how the preflight runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from studio.runs.commands import CommandLine
from studio.runs.config import TrainingConfig
from studio.runs.preflight import PreflightReport
from studio.ui.feedback import bytes_in_words
from studio.ui.train.view import duration_in_words

NOT_YET = (
    '<p class="facts"><span>The estimate runs two real steps and draws one sample on this machine: then it says '
    "whether the run fits, how long it takes and what it costs.</span></p>"
)


def estimate_html(report: PreflightReport, config: TrainingConfig, hourly_rate: float | None) -> str:
    """What was measured, or why the run cannot work."""
    cells = [
        ("whole run", report.seconds_total is not None and f"about {duration_in_words(report.seconds_total or 0)}"),
        ("a step", report.seconds_per_step is not None and f"{report.seconds_per_step:.3g} s"),
        ("a sample grid", report.seconds_per_sample is not None and f"{report.seconds_per_sample:.3g} s"),
        ("memory", _memory(report)),
        ("disk", _disk(report)),
        ("cost", _cost(report, hourly_rate)),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in cells if value)
    notes = [*(("refusal", each) for each in report.refusals), *(("note", each) for each in report.notes)]
    said = "".join(f'<li class="{kind}">{escape(words)}</li>' for kind, words in notes)
    head = (
        f"{config.num_steps:,} steps on {report.device}, measured just now"
        if report.is_possible
        else "This run cannot work as it is"
    )
    kind = "estimate" if report.is_possible else "estimate refused"
    alert = "" if report.is_possible else ' role="alert"'
    return (
        f'<div class="{kind}"{alert}><b>{escape(head)}</b>{f"<dl>{rows}</dl>" if rows else ""}'
        f"{f'<ul>{said}</ul>' if said else ''}</div>"
    )


def _memory(report: PreflightReport) -> str:
    if report.peak_memory_bytes is None:
        return ""
    of = "" if report.device_memory_bytes is None else f" of {bytes_in_words(report.device_memory_bytes)}"
    return f"{bytes_in_words(report.peak_memory_bytes)}{of}"


def _disk(report: PreflightReport) -> str:
    if not report.disk_needed_bytes:
        return ""
    return f"{bytes_in_words(report.disk_needed_bytes)} of {bytes_in_words(report.disk_free_bytes)} free"


def _cost(report: PreflightReport, hourly_rate: float | None) -> str:
    if not hourly_rate or (cost := report.cost(hourly_rate)) is None:
        return ""
    return f"{cost:,.2f} at {hourly_rate:g} an hour"


def waiting_html() -> str:
    """While it is measured."""
    words = "Two real steps and one sample on this machine; a minute or so."
    return f'<div class="estimate" role="status"><b>Measuring…</b><p>{words}</p></div>'


def commands_html(ways: Sequence[CommandLine]) -> str:
    """The command lines for other machines, each with what to know before."""
    return "".join((
        '<p class="facts"><span>RUN is the run\'s folder, with its config.json in it, below the studio\'s data '
        "folder.</span></p>", *map(_way_html, ways),
    ))  # fmt: skip


def _way_html(way: CommandLine) -> str:
    lines = escape("\n".join(way.lines))
    note = f'<p class="facts"><span>{escape(way.note)}</span></p>' if way.note else ""
    return f'<div class="way"><h4>{escape(way.title)}</h4><pre class="command" tabindex="0">{lines}</pre>{note}</div>'


def stale_html() -> str:
    """Something was changed after the estimate."""
    words = "Something was changed since the estimate: measure again, or start without one."
    return f'<p class="facts"><span>{words}</span></p>'
