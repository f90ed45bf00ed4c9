"""The table below the pictures: each measure with what it means, each contestant's value, the best marked softly.

Where there is no number, a dash stands for it, and why. Turns values into HTML text; knows no gradio and measures
nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from studio.comparing.numbers import EXPLAINED
from studio.pixels import MAX_PSNR
from studio.ui.compare.view import Picture, ShownContest, time_in_words
from studio.ui.feedback import bytes_in_words

CALLS_EXPLAINED = "How often the network is asked; a step with guidance asks twice."
MAX_ROUNDS_SHOWN = 9


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure: `value` for comparing (`None` where there is none), `words` for reading, `note` in small below."""

    key: str
    title: str
    explained: str
    value: Callable[[Picture], float | None]
    words: Callable[[Picture], str]
    note: Callable[[Picture], str] = lambda _: ""
    is_higher_better: bool = False


def _psnr_words(picture: Picture) -> str:
    psnr = picture.numbers.psnr or 0.0
    return "identical" if psnr >= MAX_PSNR else f"{psnr:.1f} dB"


def _adherence_words(picture: Picture) -> str:
    found = picture.numbers.adherence
    return "" if found is None else f"{found.num_found} of {found.num_asked}"


def _missing(picture: Picture) -> str:
    found = picture.numbers.adherence
    return f"missing: {', '.join(found.missing)}" if found is not None and found.missing else ""


def _rounds(picture: Picture) -> str:
    rounds = picture.seconds_rounds[:MAX_ROUNDS_SHOWN]
    return " · ".join(map(time_in_words, rounds)) if rounds else "first pass, with previews"


ROWS = (
    Row(
        key="latent_error", title="Latent error", explained=EXPLAINED["latent_error"],
        value=lambda each: each.numbers.latent_error, words=lambda each: f"{each.numbers.latent_error:.3f}",
    ),
    Row(
        key="psnr", title="PSNR", explained=EXPLAINED["psnr"], value=lambda each: each.numbers.psnr,
        words=_psnr_words, is_higher_better=True,
    ),
    Row(
        key="adherence", title="Kept to the prompt", explained=EXPLAINED["adherence"],
        value=lambda each: None if each.numbers.adherence is None else each.numbers.adherence.share,
        words=_adherence_words, note=_missing, is_higher_better=True,
    ),
    Row(
        key="clip_score", title="CLIP score", explained=EXPLAINED["clip_score"],
        value=lambda each: each.numbers.clip_score, words=lambda each: f"{each.numbers.clip_score:.1f}",
        is_higher_better=True,
    ),
    Row(
        key="seconds", title="Time", explained=EXPLAINED["seconds"], value=lambda each: each.seconds,
        words=lambda each: time_in_words(each.seconds), note=_rounds,
    ),
    Row(
        key="calls", title="Network calls", explained=CALLS_EXPLAINED,
        value=lambda each: each.plan.num_network_calls, words=lambda each: str(each.plan.num_network_calls),
    ),
    Row(
        key="memory_bytes", title="Memory", explained=EXPLAINED["memory_bytes"],
        value=lambda each: each.memory_bytes, words=lambda each: bytes_in_words(each.memory_bytes or 0),
    ),
)  # fmt: skip


def numbers_html(shown: ShownContest) -> str:
    """The table; a measure that could be taken of nobody, for want of a judge, is left out where another stands in."""
    pictures = shown.pictures
    heads = "".join(f'<th scope="col" title="{escape(each.title)}">{_head_html(each)}</th>' for each in pictures)
    rows = "".join(_row_html(row, pictures) for row in ROWS if _is_shown(row, pictures))
    return (
        f'<div class="numbers measured" style="--count:{len(pictures)}" role="region" aria-label="Numbers" '
        f'tabindex="0"><table><thead><tr><th scope="col">Measured</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _is_shown(row: Row, pictures: tuple[Picture, ...]) -> bool:
    if row.key not in ("adherence", "clip_score"):
        return True
    return any(row.value(each) is not None or row.key in each.why for each in pictures)


def _head_html(picture: Picture) -> str:
    return f'<b class="letter">{picture.letter}</b> <span>{escape(picture.name)}</span>'


def _row_html(row: Row, pictures: tuple[Picture, ...]) -> str:
    best = best_of(row, pictures)
    cells = "".join(_cell_html(row, each, is_best=each.index in best) for each in pictures)
    return f'<tr><th scope="row">{row.title}<small>{escape(row.explained)}</small></th>{cells}</tr>'


def _cell_html(row: Row, picture: Picture, *, is_best: bool) -> str:
    if row.value(picture) is None:
        why = picture.why.get(row.key, "not measured")
        return f"<td>–<small>{escape(why)}</small></td>"
    note = row.note(picture)
    small = f"<small>{escape(note)}</small>" if note else ""
    mark = ' class="best" title="the best here"' if is_best else ""
    return f"<td{mark}><span>{row.words(picture)}</span>{small}</td>"


def best_of(row: Row, pictures: tuple[Picture, ...]) -> set[int]:
    """Who has the best value of a measure, as it is read; nobody where all read alike, or only one has any."""
    measured = [each for each in pictures if row.value(each) is not None]
    if len({row.words(each) for each in measured}) < 2:
        return set()
    winner = (max if row.is_higher_better else min)(measured, key=lambda each: row.value(each) or 0.0)
    return {each.index for each in measured if row.words(each) == row.words(winner)}
