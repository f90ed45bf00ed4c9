"""Aspect buckets: shapes of about the same area, so that pictures are cropped little and a batch has one shape.

A plan says where every picture goes and how many each bucket holds. A bucket that cannot fill a batch gives its
pictures to the neighbour nearest in shape, or, where that would crop too much, keeps them and fills its batches by
repetition; either way the plan says so, and no picture is lost.
Sides are in pixels, aspect is width / height. Knows nothing of files; area is the resolution squared.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from studio.errors import InvalidRequest

Size = tuple[int, int]

MAX_ASPECT = 2.0
MAX_MOVE = math.log(1.34)  # a move may crop about a quarter more


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One shape. `count` pictures train at it, `moved_in` of them from emptied neighbours; `repeats` says that they
    are fewer than a batch and occur more than once in it."""

    width: int
    height: int
    count: int
    moved_in: int = 0
    repeats: bool = False

    @property
    def size(self) -> Size:
        return self.width, self.height


@dataclass(frozen=True, kw_only=True)
class BucketPlan:
    """`assignment[i]` is the bucket of picture i; `words` are the sentences a person should read."""

    buckets: tuple[Bucket, ...]
    assignment: tuple[int, ...]
    words: tuple[str, ...] = ()


def size_multiple(resolution: int) -> int:
    """The multiple sides keep: 64, as Stable Diffusion's UNets like it, and 8 for pictures too small for that."""
    return 64 if resolution >= 256 else 8


def bucket_sizes(resolution: int, multiple: int, *, max_aspect: float = MAX_ASPECT) -> tuple[Size, ...]:
    """The shapes whose sides are multiples and whose area is nearest the resolution's, from tall to wide.

    The square is always among them. Raises `InvalidRequest`.
    """
    if multiple < 1 or resolution < multiple or resolution % multiple:
        raise InvalidRequest("resolution", f"a multiple of {multiple}", resolution)
    if max_aspect < 1:
        raise InvalidRequest("max_aspect", "at least 1", max_aspect)
    area, found = resolution * resolution, {(resolution, resolution)}
    shortest = math.ceil(resolution / math.sqrt(max_aspect) / multiple) * multiple
    for short in range(shortest, resolution, multiple):
        long = max(multiple, round(area / short / multiple) * multiple)
        if long / short <= max_aspect:
            found |= {(short, long), (long, short)}
    return tuple(sorted(found, key=_aspect))


def plan_buckets(
    sizes: Sequence[Size], resolution: int, *, multiple: int, batch_size: int, max_aspect: float = MAX_ASPECT
) -> BucketPlan:
    """Where each picture goes, so that every bucket in use can fill a batch, or is said to repeat itself."""
    shapes = bucket_sizes(resolution, multiple, max_aspect=max_aspect)
    aspects = [math.log(_aspect(shape)) for shape in shapes]
    places = [_nearest(aspects, math.log(_aspect(size))) for size in sizes]
    target, words = _moves(Counter(places), aspects, shapes, batch_size)
    used = sorted(set(target.values()))
    number = {shape: index for index, shape in enumerate(used)}
    final = [target[place] for place in places]
    counts, moved = Counter(final), Counter(there for here, there in zip(places, final, strict=True) if here != there)
    buckets = tuple(
        Bucket(width=shapes[shape][0], height=shapes[shape][1], count=counts[shape], moved_in=moved[shape],
               repeats=counts[shape] < batch_size)
        for shape in used
    )  # fmt: skip
    words += [
        f"{bucket.width} x {bucket.height} holds {_pictures(bucket.count)} and a batch {batch_size}: they repeat in it."
        for bucket in buckets
        if bucket.repeats
    ]
    return BucketPlan(buckets=buckets, assignment=tuple(number[place] for place in final), words=tuple(words))


def _aspect(size: Size) -> float:
    return size[0] / size[1]


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"


def _nearest(aspects: Sequence[float], aspect: float) -> int:
    """The index of the nearest of sorted aspects."""
    place = bisect.bisect_left(aspects, aspect)
    around = [index for index in (place - 1, place) if 0 <= index < len(aspects)]
    return min(around, key=lambda index: abs(aspects[index] - aspect))


def _moves(
    counts: Counter[int], aspects: Sequence[float], shapes: Sequence[Size], batch_size: int
) -> tuple[dict[int, int], list[str]]:
    """Where each used shape's pictures end up: the smallest bucket that is too small moves first, to the nearest one.

    Who has moved once moves on with its host, so that a chain of sparse buckets gathers.
    """
    target = {shape: shape for shape in counts}
    held = Counter(counts)
    words: list[str] = []
    settled: set[int] = set()
    while sparse := [shape for shape in held if held[shape] < batch_size and shape not in settled]:
        here = min(sparse, key=lambda shape: (held[shape], shape))
        guests = [shape for shape, there in target.items() if there == here]
        near = [
            shape
            for shape in held
            if shape != here and all(abs(aspects[shape] - aspects[each]) <= MAX_MOVE for each in guests)
        ]
        if not near:
            settled.add(here)
            continue
        there = min(near, key=lambda shape: (abs(aspects[shape] - aspects[here]), -held[shape], shape))
        words.append(
            f"{shapes[here][0]} x {shapes[here][1]} held {_pictures(held[here])}, fewer than a batch of {batch_size}: "
            f"moved to {shapes[there][0]} x {shapes[there][1]}."
        )
        target |= {shape: there for shape in guests}
        held[there] += held.pop(here)
        settled.discard(there)
    return target, words
