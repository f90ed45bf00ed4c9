"""Contests on the page: from the fields' values to a stream of updates, at most one per session.

A contest is an iterator of events; each becomes an update of the page, so a picture stands there as soon as it is
drawn. Closing the iterator stops the work; what was drawn by then stays. This module does not know how pictures are
made, nor what is fair: it shows what `Services.comparisons` says.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.comparing.contest import Comparison, replace_steps
from studio.comparisons import ComparisonResult, Drawing, Entry
from studio.errors import InvalidRequest
from studio.types import MAX_IMAGES, MAX_SEED, StepPreview
from studio.ui.compare.fields import FieldActions
from studio.ui.compare.layout import Fields, Parts
from studio.ui.compare.looks import Looks
from studio.ui.compare.shown import Naming, shown_picture
from studio.ui.compare.stops import Stops
from studio.ui.compare.view import (
    EMPTY,
    EXAMPLE,
    LETTERS,
    Picture,
    ShownContest,
    blind_running_html,
    contest_html,
    done_card_html,
    failed_html,
    preview_card_html,
    waiting_card_html,
)
from studio.ui.feedback import event_in_words, failure_in_words
from studio.ui.form import Updates, Values
from studio.ui.plain_html import picked
from studio.ui.windows_view import plural

if TYPE_CHECKING:
    import threading

    from studio.services import Services

BUSY = "Something of this tab is being drawn already: cancel it first."


@dataclass(kw_only=True, eq=False)
class _Running:
    """What has happened in a contest so far; `cards` are the HTML of its contestants."""

    comparison: Comparison
    naming: Naming
    is_blind: bool
    cards: list[str]
    entries: dict[int, Entry] = field(default_factory=dict)


class Contest:
    """Contests on the page, at most one per session: from the fields' values to a stream of updates."""

    def __init__(self, services: Services, fields: Fields, parts: Parts, stops: Stops) -> None:
        self.services, self.fields, self.parts = services, fields, parts
        self.act, self.looks = FieldActions(fields, services), Looks(services, parts)
        self.stops = stops

    @property
    def inputs(self) -> set[Any]:
        """Everything `draw` reads."""
        return {*self.fields.inputs, *self.parts.looking}

    @property
    def outputs(self) -> list[Any]:
        """Everything `draw` may change."""
        fields = self.fields
        return [*self.parts.outputs, fields.compare, fields.cancel, *fields.error_places]

    # --- drawing ---

    def draw(self, values: Values, session: gr.Request) -> Iterator[Updates]:
        """Updates from the click to the numbers, or to the sentence that says why there are none."""
        is_blind = values[self.parts.view] == "vote" and values[self.parts.shown] is not None
        yield from self._draw(values, session, lambda: self._asked(values), is_blind=is_blind)

    def draw_blind(self, values: Values, session: gr.Request) -> Iterator[Updates]:
        """The same contestants on another seed, out of sight until the vote, and without timed rounds."""
        seed = secrets.randbelow(MAX_SEED - MAX_IMAGES)
        asked = partial(self._asked, values, seed=seed, rounds=0)
        yield from self._draw(values, session, asked, is_blind=True)

    def _asked(self, values: Values, **changes: Any) -> Comparison:
        if not (values[self.fields.prompt] or "").strip():
            raise InvalidRequest("prompt", "some words on what to draw, or an example from below", "nothing")
        return self.act.comparison(values, **changes)

    def _draw(
        self, values: Values, session: gr.Request, ask: Callable[[], Comparison], *, is_blind: bool
    ) -> Iterator[Updates]:  # fmt: skip
        with self.stops.enter(session.session_hash) as stop:
            if stop is None:
                yield {self.parts.words: BUSY}
                return
            try:
                comparison = ask()
                yield {**self.act.errors(None), **self._begin(comparison, is_blind)}
                yield from self._work(comparison, values, stop, is_blind)
            except InvalidRequest as error:
                yield {**self.act.errors(error), **self._idle(), **self.looks.back(values)}
            except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
                yield {**self._idle(), **self.looks.cleared(), self.parts.stage: failed_html(failure_in_words(error))}

    def pick(self, values: Values, event: gr.EventData, session: gr.Request) -> Iterator[Updates]:
        """A button of the stage: the example of the empty page, a picture, a vote."""
        choice = picked(event)
        if choice != "example":
            yield self.looks.pick(values, choice)
            return
        prompt = (values[self.fields.prompt] or "").strip() or EXAMPLE
        yield {self.fields.prompt: prompt}
        yield from self.draw({**values, self.fields.prompt: prompt}, session)

    def cancel(self, session: gr.Request) -> Updates:
        """Cancel or Esc: the work ends within one step."""
        if not self.stops.stop(session.session_hash):
            return {self.fields.cancel: gr.skip()}
        return {self.fields.cancel: gr.update(value="Stopping…", interactive=False)}

    def _work(
        self, comparison: Comparison, values: Values, stop: threading.Event, is_blind: bool
    ) -> Iterator[Updates]:  # fmt: skip
        naming = Naming.of(self.services, comparison)
        cards = [self._waiting(comparison, naming, index) for index in range(len(comparison.contestants))]
        run = _Running(comparison=comparison, naming=naming, is_blind=is_blind, cards=cards)
        with closing(self.services.comparisons.run(comparison)) as events:  # pyright: ignore[reportArgumentType]
            for event in events:
                if isinstance(event, ComparisonResult):
                    run.entries = {entry.index: entry for entry in event.entries}
                    yield self._finish(run, values, " ".join((_summary(event), *event.warnings)))
                    return
                if stop.is_set():
                    break
                yield self._entered(run, event) if isinstance(event, Entry) else self._drawn(run, event)
        yield self._stopped(run, values)

    def _waiting(self, comparison: Comparison, naming: Naming, index: int, *, is_next: bool = False) -> str:
        request, is_reference = comparison.contestants[index], index == comparison.reference
        title = naming.title(request)
        if comparison.equal == "time" and not is_reference:
            title = f"{naming.name(request)}|as many steps as the time allows"
        return waiting_card_html(index, title, is_reference=is_reference, is_next=is_next)

    def _drawn(self, run: _Running, event: Drawing) -> Updates:
        """A step, a wait or a load of somebody."""
        words = {self.parts.words: _words(run, event)}
        request = run.comparison.contestants[event.index]
        if event.round > 0 or run.is_blind:
            return words
        is_reference = event.index == run.comparison.reference
        if isinstance(event.event, StepPreview):
            if run.comparison.equal == "time":
                request = replace_steps(request, event.event.num_steps)  # known since the pace was measured
            windows = self.services.plan(request).windows
            card = preview_card_html(
                event.index, run.naming.title(request), event.event, windows, is_reference=is_reference
            )
        else:
            card = self._waiting(run.comparison, run.naming, event.index, is_next=True)
        run.cards[event.index] = card
        return {**words, self.parts.stage: contest_html(run.cards, request, busy=True)}

    def _entered(self, run: _Running, entry: Entry) -> Updates:
        """Somebody's picture is there."""
        run.entries[entry.index] = entry
        if run.is_blind:
            total = len(run.comparison.contestants)
            return {self.parts.stage: blind_running_html(len(run.entries), total, entry.request)}
        picture = self._picture(run, entry)
        run.cards[entry.index] = done_card_html(picture, is_reference=entry.index == run.comparison.reference)
        return {self.parts.stage: contest_html(run.cards, entry.request, busy=True)}

    def _picture(self, run: _Running, entry: Entry) -> Picture:
        return shown_picture(self.services, entry, run.naming, run.entries, run.comparison.reference)

    def _stopped(self, run: _Running, values: Values) -> Updates:
        """Cancelled: what is there stays, and nothing else."""
        if not run.entries:
            return {
                **self._idle(), **self.looks.cleared(), self.parts.stage: EMPTY,
                self.parts.words: "Cancelled. Nothing was drawn.",
            }  # fmt: skip
        count, total = len(run.entries), len(run.comparison.contestants)
        rest = "times are of the first pass" if count == total else "the gallery has what was drawn"
        return self._finish(run, values, f"Cancelled after {count} of {plural(total, 'picture')}: {rest}.")

    def _finish(self, run: _Running, values: Values, words: str) -> Updates:
        pictures = tuple(self._picture(run, run.entries[index]) for index in sorted(run.entries))
        reference = run.comparison.reference
        shown = ShownContest(
            pictures=pictures, reference=reference,
            chosen=next((each.index for each in pictures if each.index != reference), pictures[0].index),
        )  # fmt: skip
        return {**self._idle(), **self.looks.show(shown, values), self.parts.words: words}

    def _begin(self, comparison: Comparison, is_blind: bool) -> Updates:
        naming = Naming.of(self.services, comparison)
        count = len(comparison.contestants)
        request = comparison.contestants[0]
        cards = [self._waiting(comparison, naming, index) for index in range(count)]
        stage = blind_running_html(0, count, request) if is_blind else contest_html(cards, request, busy=True)
        return {
            **self.looks.cleared(),
            self.fields.compare: gr.update(visible=False),
            self.fields.cancel: gr.update(visible=True, value="Cancel", interactive=True),
            self.parts.stage: stage,
            self.parts.words: "Starting…",
        }

    def _idle(self) -> Updates:
        fields = self.fields
        return {
            fields.compare: gr.update(visible=True), fields.cancel: gr.update(visible=False), self.parts.words: "",
        }  # fmt: skip


def _words(run: _Running, event: Drawing) -> str:
    """Who draws what right now, for the line under the pictures."""
    told = event_in_words(event.event)  # pyright: ignore[reportArgumentType]  # results come as entries
    if run.is_blind:
        return f"Drawing out of sight: {len(run.entries)} of {len(run.comparison.contestants)} pictures are there."
    name = LETTERS[event.index]
    if event.round == 0:
        return f"{name}: {told}"
    if run.entries:
        return f"Timing, round {event.round} of {run.comparison.rounds}: {name}, out of sight. {told}"
    return f"Measuring the pace of {name}, drawing {event.round} of 2. {told}"


def _summary(result: ComparisonResult) -> str:
    first = result.entries[0].request
    rounds = result.comparison.rounds
    timed = f"{plural(rounds, 'timed round')}" if rounds else "no timed rounds"
    return f"{plural(len(result.entries), 'picture')} from seed {first.seed}, {timed}."
