"""Did a picture keep to its prompt: what a prompt asks for in a judged world's words, and how much of it was seen.

A judge (studio.networks.judge) is a small classifier of one family's world. Its `Vocabulary` lies beside its weights
(labels.json), so nothing here knows Tabletop. `asked_for` reads a prompt, `Seen` is what the judge makes of a picture,
`adherence` compares them. What a prompt leaves unsaid is not judged; relations between things are not either.
Knows no torch and no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Words = Mapping[str, tuple[str, ...]]
ARTICLES = frozenset({"a", "an", "the", "and"})


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The labels a judge knows, in its order, and the words that mean them."""

    shapes: Words
    colours: tuple[str, ...]
    materials: Words
    floors: Words
    skies: Words

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Vocabulary:
        """The inverse of `to_json`. Raises `KeyError` for a missing part."""
        words = {name: {k: tuple(v) for k, v in values[name].items()} for name in _WORDED}
        return cls(colours=tuple(values["colours"]), **words)

    def to_json(self) -> dict[str, Any]:
        """Plain lists and objects."""
        words = {name: {k: list(v) for k, v in getattr(self, name).items()} for name in _WORDED}
        return {"colours": list(self.colours), **words}

    def pair(self, shape: str, colour: str) -> int:
        """Where a judge's `pairs` tell of this shape in this colour."""
        return list(self.shapes).index(shape) * len(self.colours) + self.colours.index(colour)


_WORDED = ("shapes", "materials", "floors", "skies")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a prompt asks for: things as (shape, colour), materials as (shape, material), floor and sky if named."""

    things: tuple[tuple[str, str], ...] = ()
    materials: tuple[tuple[str, str], ...] = ()
    floor: str | None = None
    sky: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What the judge makes of one picture: logits by label, and the `features` in which pictures are compared."""

    pairs: np.ndarray
    surfaces: np.ndarray
    floor: np.ndarray
    sky: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Adherence:
    """How many of the asked attributes were found; `missing` names the others, for a person."""

    num_asked: int
    num_found: int
    missing: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Found over asked, in [0, 1]."""
        return self.num_found / self.num_asked


def asked_for(prompt: str, vocabulary: Vocabulary) -> Asked | None:
    """What can be judged of a prompt; `None` where it names no coloured thing of this world."""
    text = " ".join(re.findall(r"[a-z]+", prompt.lower()))
    words = text.split()
    shapes = {word: shape for shape, known in vocabulary.shapes.items() for word in known}
    materials = {word: name for name, known in vocabulary.materials.items() for word in known}
    things, surfaces = [], []
    for phrase in _phrases(words, shapes):
        shape = shapes[phrase[-1]]
        things += [(shape, word) for word in phrase if word in vocabulary.colours][-1:]
        surfaces += [(shape, materials[word]) for word in phrase if word in materials][-1:]
    if not things:
        return None
    return Asked(
        things=tuple(dict.fromkeys(things)),
        materials=tuple(dict.fromkeys(surfaces)),
        floor=_phrase_in(text, vocabulary.floors),
        sky=_phrase_in(text, vocabulary.skies),
    )


def _phrases(words: Sequence[str], shapes: Mapping[str, str]) -> list[Sequence[str]]:
    """Each noun of a shape with the words before it, back to an article or the noun before."""
    stops = [-1, *(i for i, word in enumerate(words) if word in ARTICLES or word in shapes)]
    return [words[before + 1 : noun + 1] for before, noun in pairwise(stops) if words[noun] in shapes]


def _phrase_in(text: str, labels: Words) -> str | None:
    """The label whose longest phrase occurs in the text."""
    hits = [(len(phrase), label) for label, known in labels.items() for phrase in known if f" {phrase} " in f" {text} "]
    return max(hits)[1] if hits else None


def adherence(asked: Asked, seen: Seen, vocabulary: Vocabulary) -> Adherence:
    """Each thing, material, floor and sky that was asked for counts one.

    Of n things asked for, those among the judge's n likeliest pairs are found; a material where it is the likeliest of
    its shape; floor and sky where they are the likeliest.
    """
    count = len(asked.things)
    likeliest = set(np.argsort(-seen.pairs, kind="stable")[:count].tolist())
    surfaces = seen.surfaces.reshape(len(vocabulary.shapes), len(vocabulary.materials))
    shapes, materials = list(vocabulary.shapes), list(vocabulary.materials)
    checks = [(f"{colour} {shape}", vocabulary.pair(shape, colour) in likeliest) for shape, colour in asked.things]
    for shape, material in asked.materials:
        found = int(surfaces[shapes.index(shape)].argmax()) == materials.index(material)
        checks.append((f"{material} {shape}", found))
    places = (("floor", asked.floor, vocabulary.floors, seen.floor), ("sky", asked.sky, vocabulary.skies, seen.sky))
    for name, label, labels, logits in places:
        if label is not None:
            checks.append((f"{label} {name}", int(logits.argmax()) == list(labels).index(label)))
    missing = tuple(name for name, found in checks if not found)
    return Adherence(num_asked=len(checks), num_found=len(checks) - len(missing), missing=missing)
