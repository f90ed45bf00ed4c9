"""Blind votes: which of two pictures is better, before anybody knows who drew it; the tally and its CSV.

A ballot is one pair of a contest, its sides by chance; a vote is a ballot that was cast, and stays for the session.
Turns values into HTML text and CSV; knows no gradio.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from random import Random
from typing import Any, Literal

from studio.types import GenerationRequest
from studio.ui.compare.view import Picture, ShownContest, contest_html
from studio.ui.windows_view import plural

Side = Literal["left", "right", "tie"]
SIDES: tuple[Side, ...] = ("left", "right", "tie")
CHOICES = (("left", "Left is better", "1"), ("tie", "A tie", "0"), ("right", "Right is better", "2"))
SETTINGS = ("model", "accelerator", "accelerator_strength", "steps", "guidance")
COLUMNS = (
    "time", "prompt", "negative_prompt", "seed", "width", "height", "left", "right", "winner", "winner_side",
    *(f"{side}_{name}" for side in ("left", "right") for name in SETTINGS),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """Which contestants stand at the left and at the right, and what was voted."""

    left: int
    right: int
    winner: Side | None = None


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A cast ballot: when (ISO 8601, UTC), who stood where, with which settings, and which side won."""

    time: str
    names: tuple[str, str]
    requests: tuple[GenerationRequest, GenerationRequest]
    winner: Side

    @property
    def winner_name(self) -> str:
        """Who won; `tie` where nobody did."""
        return "tie" if self.winner == "tie" else self.names[SIDES.index(self.winner)]

    def row(self) -> dict[str, Any]:
        """The CSV's columns."""
        common = self.requests[0]
        named = {name: getattr(common, name) for name in ("prompt", "negative_prompt", "seed", "width", "height")}
        settings = {
            f"{side}_{name}": _setting(request, name)
            for side, request in zip(("left", "right"), self.requests, strict=True)
            for name in SETTINGS
        }
        return {
            "time": self.time, **named, "left": self.names[0], "right": self.names[1], "winner": self.winner_name,
            "winner_side": self.winner, **settings,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one contestant fared: votes it took part in, won, and ended as a tie."""

    name: str
    num_votes: int
    num_won: int
    num_tied: int

    @property
    def share(self) -> float:
        """Won over all, a tie counting half."""
        return (self.num_won + self.num_tied / 2) / self.num_votes


def _setting(request: GenerationRequest, name: str) -> Any:
    if name == "guidance":
        return "-".join(f"{scale:g}" for scale in request.guidance.scales)
    return getattr(request, name)


def new_ballot(pair: tuple[int, int], random: Random) -> Ballot:
    """The pair's sides by chance."""
    left, right = random.sample(sorted(pair), 2)
    return Ballot(left=left, right=right)


def cast(ballot: Ballot, side: Side, shown: ShownContest) -> Vote:
    """What was voted, as it is kept."""
    pictures = (shown.picture(ballot.left), shown.picture(ballot.right))
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Vote(
        time=now,
        names=(called(pictures[0]), called(pictures[1])),
        requests=(pictures[0].request, pictures[1].request),
        winner=side,
    )


def called(picture: Picture) -> str:
    """A contestant's name in tallies, the same in every contest with the same settings."""
    return f"{picture.name}, {picture.settings}"


def tally(votes: Sequence[Vote]) -> list[Standing]:
    """Everybody who took part, the best share first."""
    names = dict.fromkeys(name for vote in votes for name in vote.names)
    found = []
    for name in names:
        taken = [vote for vote in votes if name in vote.names]
        won, tied = sum(vote.winner_name == name for vote in taken), sum(vote.winner == "tie" for vote in taken)
        found.append(Standing(name=name, num_votes=len(taken), num_won=won, num_tied=tied))
    return sorted(found, key=lambda each: -each.share)


def votes_csv(votes: Sequence[Vote]) -> bytes:
    """One row a vote, UTF-8."""
    file = io.StringIO()
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    table.writerows(vote.row() for vote in votes)
    return file.getvalue().encode()


# --- as pictures ------------------------------------------------------------------------------------------------------


def vote_html(shown: ShownContest, ballot: Ballot) -> str:
    """The two pictures without their names and the three choices, or, once voted, with them."""
    sides = [("Left", shown.picture(ballot.left), "left"), ("Right", shown.picture(ballot.right), "right")]
    cards = [_side_html(side, picture, ballot, key) for side, picture, key in sides]
    pictures = contest_html(cards, shown.pictures[0].request)
    below = _choices_html() if ballot.winner is None else _outcome_html(shown, ballot)
    return f'<div class="ballot">{pictures}{below}</div>'


def _side_html(side: str, picture: Picture, ballot: Ballot, key: str) -> str:
    is_open = ballot.winner is None
    # Before the vote nothing that can be read or heard tells who is who.
    alt = f"{side} picture (seed {picture.request.seed})" if is_open else f"{side}: {picture.alt}"
    words = side if is_open else picture.title
    won = " won" if ballot.winner == key else ""
    frame = f'<div class="duel-frame"><img class="result" src="{picture.source}" alt="{escape(alt)}"></div>'
    label = side if is_open else f"{side}: {picture.title}"
    return (
        f'<article class="duel-card blind{won}" aria-label="{escape(label)}">{frame}'
        f'<p class="side-name">{escape(words)}</p></article>'
    )


def _choices_html() -> str:
    buttons = "".join(
        f'<button type="button" class="pill" data-pick="vote-{side}" data-key="{key}">{words} <kbd>{key}</kbd></button>'
        for side, words, key in CHOICES
    )
    return f'<div class="choices" role="group" aria-label="Your vote">{buttons}</div>'


def _outcome_html(shown: ShownContest, ballot: Ballot) -> str:
    if ballot.winner == "tie":
        words = "A tie."
    else:
        words = f"You chose {shown.picture(ballot.left if ballot.winner == 'left' else ballot.right).title}."
    return f'<p class="outcome" role="status">{escape(words)}</p>'


def tally_html(votes: Sequence[Vote]) -> str:
    """Counts and shares of the session so far."""
    if not votes:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(each.name)}</th><td>{each.num_won}</td><td>{each.num_tied}</td>'
        f'<td>{each.num_votes}</td><td class="share" style="--share:{each.share:.3f}">{each.share:.0%}</td></tr>'
        for each in tally(votes)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Won", "Tied", "Votes", "Share"))
    words = f"{plural(len(votes), 'vote')} in this session; a tie counts half."
    return (
        f'<div class="numbers tally"><table><caption>{words}</caption>'
        f'<thead><tr><th scope="col">Contestant</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
