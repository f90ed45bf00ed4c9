"""Aspect buckets: near the asked area, fair to every picture, and honest about small ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.datasets.buckets import MAX_MOVE, bucket_sizes, plan_buckets
from studio.errors import InvalidRequest

SIZES = st.lists(st.tuples(st.integers(32, 4000), st.integers(32, 4000)), max_size=80)


@pytest.mark.parametrize(("resolution", "multiple"), [(64, 8), (128, 8), (128, 16), (512, 64), (768, 64), (1024, 64)])
def test_sizes_are_multiples_of_about_the_area(resolution: int, multiple: int) -> None:
    sizes = bucket_sizes(resolution, multiple)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes) >= 3
    assert list(sizes) == sorted(sizes, key=lambda size: size[0] / size[1])
    for width, height in sizes:
        assert width % multiple == 0
        assert height % multiple == 0
        assert abs(width * height / resolution**2 - 1) < 0.5 * multiple / min(width, height) + 1e-9
        assert 0.5 <= width / height <= 2
        assert (height, width) in sizes


def test_the_usual_sizes_are_there() -> None:
    assert {(512, 512), (448, 576), (384, 704), (704, 384)} <= set(bucket_sizes(512, 64))
    assert {(1024, 1024), (896, 1152), (768, 1344)} <= set(bucket_sizes(1024, 64))


@given(SIZES, st.sampled_from([(64, 8), (128, 8), (512, 64)]), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_no_picture_is_lost_and_small_buckets_are_told(
    sizes: list[tuple[int, int]], shape: tuple[int, int], batch_size: int
) -> None:
    plan = plan_buckets(sizes, shape[0], multiple=shape[1], batch_size=batch_size)
    assert len(plan.assignment) == len(sizes)
    assert sum(bucket.count for bucket in plan.buckets) == len(sizes)
    told = "\n".join(plan.words)
    alone = plan_buckets(sizes, shape[0], multiple=shape[1], batch_size=1)
    for number, bucket in enumerate(plan.buckets):
        assert bucket.count == plan.assignment.count(number) > 0
        assert bucket.repeats == (bucket.count < batch_size)
        if bucket.repeats:
            assert f"{bucket.width} x {bucket.height} holds {bucket.count} picture" in told
    for here, there in zip(alone.assignment, plan.assignment, strict=True):
        one, other = alone.buckets[here], plan.buckets[there]
        move = abs(math.log(one.width / one.height) - math.log(other.width / other.height))
        assert move <= MAX_MOVE + 1e-9
        if one.size != other.size:
            assert f"{one.width} x {one.height} held" in told
    assert sum(bucket.moved_in for bucket in plan.buckets) == sum(
        alone.buckets[here].size != plan.buckets[there].size
        for here, there in zip(alone.assignment, plan.assignment, strict=True)
    )


@given(SIZES)
@settings(max_examples=60, deadline=None)
def test_with_batches_of_one_every_picture_is_in_the_nearest_bucket(sizes: list[tuple[int, int]]) -> None:
    plan = plan_buckets(sizes, 512, multiple=64, batch_size=1)
    shapes = [math.log(width / height) for width, height in bucket_sizes(512, 64)]
    for (width, height), number in zip(sizes, plan.assignment, strict=True):
        bucket, aspect = plan.buckets[number], math.log(width / height)
        nearest = min(abs(aspect - shape) for shape in shapes)
        assert abs(abs(aspect - math.log(bucket.width / bucket.height)) - nearest) < 1e-9
    assert plan.words == ()


def test_a_small_bucket_moves_to_its_neighbour_and_says_so() -> None:
    plan = plan_buckets([(512, 512)] * 10 + [(576, 448)], 512, multiple=64, batch_size=4)
    assert [(bucket.size, bucket.count, bucket.moved_in) for bucket in plan.buckets] == [((512, 512), 11, 1)]
    assert plan.words == ("576 x 448 held 1 picture, fewer than a batch of 4: moved to 512 x 512.",)


def test_a_far_one_repeats_rather_than_being_cut_to_pieces() -> None:
    plan = plan_buckets([(512, 512)] * 10 + [(1000, 500)], 512, multiple=64, batch_size=4)
    assert [(bucket.count, bucket.repeats) for bucket in plan.buckets] == [(10, False), (1, True)]
    assert plan.words == ("704 x 384 holds 1 picture and a batch 4: they repeat in it.",)


@pytest.mark.parametrize(("resolution", "multiple"), [(100, 64), (0, 64), (64, 0), (63, 64)])
def test_a_resolution_off_the_grid_is_refused(resolution: int, multiple: int) -> None:
    with pytest.raises(InvalidRequest, match="resolution: expected a multiple"):
        bucket_sizes(resolution, multiple)
