"""What to say where a model has no ControlNet or no IP-Adapter: beside the fields, on sending a picture, on drawing.

This module does not know what a control does, nor where its fields stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from studio.errors import InvalidRequest

if TYPE_CHECKING:
    from studio.services import ControlStatus

KINDS = {
    "controlnet": (
        "ControlNet", "a drawing cannot follow a map",
        "train one in the Train tab, or choose Stable Diffusion 1.5 or XL, whose published ones can be downloaded",
    ),
    "ip_adapter": (
        "IP-Adapter", "a drawing cannot refer to a picture",
        "choose Stable Diffusion 1.5 or XL, whose published one can be downloaded",
    ),
}  # fmt: skip


def of_kind(found: Sequence[ControlStatus], kind: str) -> list[ControlStatus]:
    """Those of one kind."""
    return [each for each in found if each.spec.kind == kind]


def lack_in_words(kind: str, title: str) -> str:
    """The sentence for a model that has none of a kind: what that means, what to do."""
    name, meaning, ways = KINDS[kind]
    return f"No {name} for {title} is here yet, so {meaning}: {ways}."


def lack_html(found: Sequence[ControlStatus], title: str) -> str:
    """The sentences of every kind that a model lacks; nothing where it lacks none."""
    lacking = [lack_in_words(kind, title) for kind in KINDS if not of_kind(found, kind)]
    return "".join(f'<p class="facts"><span>{escape(words)}</span></p>' for words in lacking)


def off_or_lacking(found: Sequence[ControlStatus], kind: str, title: str) -> InvalidRequest:
    """Why a picture cannot be followed as it stands there: nothing is chosen for it, or there is nothing to choose."""
    field = "control" if kind == "controlnet" else "reference_adapter"
    name, _, ways = KINDS[kind]
    if of_kind(found, kind):
        return InvalidRequest(field, f"a choice of {name} beside the picture", "Off")
    return InvalidRequest(field, f"a model that has one ({ways})", f"{title}, for which no {name} is here")
