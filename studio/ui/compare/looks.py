"""Looking at a finished contest: the views, the blind vote, what can be taken away.

`Looks` turns the page's values into updates of the right side; what was drawn travels in the page's `shown` state. This
module does not know how pictures come to be.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import NotFound
from studio.ui.compare.layout import Parts
from studio.ui.compare.numbers import numbers_html
from studio.ui.compare.view import EMPTY, PAIR_VIEWS, PAIRED, Picture, ShownContest, grid_view_html
from studio.ui.compare.vote import SIDES, Vote, cast, new_ballot, tally_html, vote_html, votes_csv
from studio.ui.form import Updates, Values

if TYPE_CHECKING:
    from studio.services import Services


class Looks:
    """Ways to look at a contest, and what follows from clicks in it."""

    def __init__(self, services: Services, parts: Parts) -> None:
        self._services, self.parts = services, parts

    def cleared(self) -> Updates:
        """Nothing of an earlier contest."""
        parts = self.parts
        hidden = (parts.bar, parts.actions, parts.voting)
        return {
            **{each: gr.update(visible=False) for each in hidden},
            parts.numbers: "", parts.shown: None, parts.chosen: None, parts.ballots: {},
        }  # fmt: skip

    def show(self, shown: ShownContest, values: Values) -> Updates:
        """A contest that has just been drawn, in the view that stands on the page."""
        parts, pair = self.parts, shown.pair
        kept = (values[parts.left], values[parts.right])
        left, right = kept if kept[0] != kept[1] and all(map(shown.has, kept)) else (pair or (None, None))
        view = values[parts.view] if pair else "grid"
        now = {**values, parts.shown: shown, parts.ballots: {}, parts.left: left, parts.right: right, parts.view: view}
        updates, choices = self.look(now), [(each.title, each.index) for each in shown.pictures]
        updates[parts.left] |= {"choices": choices, "value": left}
        updates[parts.right] |= {"choices": choices, "value": right}
        return {**updates, parts.bar: gr.update(visible=pair is not None), parts.view: view, parts.shown: shown}

    def back(self, values: Values) -> Updates:
        """The contest that stood on the page before, or none."""
        parts, shown = self.parts, values[self.parts.shown]
        kept = {parts.ballots: values[parts.ballots], **self.look(values), parts.shown: shown}
        return {**kept, parts.bar: gr.update(visible=shown is not None and shown.pair is not None)}

    def look(self, values: Values) -> Updates:
        """The contest in the chosen view."""
        parts = self.parts
        shown: ShownContest | None = values[parts.shown]
        view, left, right = values[parts.view], values[parts.left], values[parts.right]
        if shown is None:
            return {**self.cleared(), parts.stage: EMPTY}
        is_paired = view in PAIRED and shown.has(left) and shown.has(right)
        updates: Updates = {
            # A blind pair's sides are not the fields'.
            parts.left: gr.update(visible=is_paired, label="One of them" if view == "vote" else "Left"),
            parts.right: gr.update(visible=is_paired, label="The other" if view == "vote" else "Right"),
            parts.actions: gr.update(visible=shown.picture(shown.chosen).history_id is not None),
            parts.chosen: shown.picture(shown.chosen).history_id,
            parts.voting: gr.update(visible=False),
            parts.numbers: numbers_html(shown),
        }
        if is_paired and left == right:
            return {**updates, parts.stage: _same_html(shown.picture(left))}
        if is_paired and view == "vote":
            return {**updates, **self._look_blind(values, shown, (left, right))}
        stage = PAIR_VIEWS[view](shown, left, right) if is_paired else grid_view_html(shown)
        return {**updates, parts.stage: stage}

    def _look_blind(self, values: Values, shown: ShownContest, pair: tuple[int, int]) -> Updates:
        """Two pictures without their names, until the vote."""
        parts, ballots, votes = self.parts, dict(values[self.parts.ballots]), values[self.parts.votes]
        key = tuple(sorted(pair))
        ballot = ballots.setdefault(key, new_ballot(pair, SystemRandom()))
        is_open = ballot.winner is None
        return {
            parts.stage: vote_html(shown, ballot),
            parts.ballots: ballots,
            parts.voting: gr.update(visible=bool(votes) or not is_open),
            parts.next_blind: gr.update(visible=not is_open),
            parts.download_votes: gr.update(visible=bool(votes)),
            parts.actions: gr.update(visible=False),
            parts.numbers: tally_html(votes) + ("" if is_open else numbers_html(shown)),
        }

    def pick(self, values: Values, choice: str) -> Updates:
        """A button of the stage: a picture to choose, or a vote."""
        shown: ShownContest | None = values[self.parts.shown]
        kind, _, which = choice.partition("-")
        if shown is not None and kind == "card" and which.isdecimal() and shown.has(int(which)):
            now = replace(shown, chosen=int(which))
            return {self.parts.shown: now, **self.look({**values, self.parts.shown: now})}
        if shown is not None and kind == "vote" and which in SIDES:
            return self._vote(values, shown, which)
        return {self.parts.stage: gr.skip()}

    def _vote(self, values: Values, shown: ShownContest, side: Any) -> Updates:
        """Count a vote, once for each pair of a contest, and say who was who."""
        parts, ballots = self.parts, dict(values[self.parts.ballots])
        key = tuple(sorted((values[parts.left], values[parts.right])))
        ballot = ballots.get(key)
        if ballot is None or ballot.winner is not None:
            return {parts.words: gr.skip()}
        ballots[key] = replace(ballot, winner=side)
        votes = (*values[parts.votes], cast(ballot, side, shown))
        now = {**values, parts.ballots: ballots, parts.votes: votes}
        return {**self.look(now), parts.ballots: ballots, parts.votes: votes}

    def export_all(self, shown: ShownContest | None) -> Path:
        """The originals of all pictures."""
        pictures = shown.pictures if shown else ()
        return self._services.history.zip([each.history_id for each in pictures if each.history_id])

    def export_votes(self, votes: tuple[Vote, ...]) -> Path:
        """The session's votes as CSV. Raises `NotFound` where there are none."""
        if not votes:
            raise NotFound("Nobody has voted in this session yet.")
        return self._services.history.export_file("votes.csv", votes_csv(votes))


def _same_html(picture: Picture) -> str:
    return (
        f'<div class="stage empty slim"><p>{picture.letter} stands on both sides: choose another contestant for one of '
        f"them.</p></div>"
    )
