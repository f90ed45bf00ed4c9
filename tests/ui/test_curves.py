"""Curves as inline pictures: the right places, gaps for what is no number, nothing larger than it needs to be."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from studio.ui.curves import Line, chart_html, smoothed, thinned


def points(html: str, kind: str = "line") -> list[tuple[float, float]]:
    path = re.search(rf'<path class="{kind}"[^>]* d="([^"]*)"', html)
    assert path
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path[1])]


def test_a_falling_curve_falls_from_left_to_right() -> None:
    html = chart_html([Line(xs=[0, 50, 100], ys=[3.0, 2.0, 1.0], colour="red")], summary="falls", x_end=200)
    found = points(html)
    assert [x for x, _ in found] == [0, 25, 50]
    heights = [y for _, y in found]
    assert heights == sorted(heights)
    assert all(0 < y < 100 for y in heights)


def test_a_level_stands_where_its_value_is() -> None:
    lines = [
        Line(xs=[0, 10], ys=[4.0, 2.0], colour="red"),
        Line(xs=[0, 10], ys=[3.0, 3.0], colour="red", dashed=True),
    ]
    html = chart_html(lines, summary="", x_end=10)
    (_, top), (_, bottom) = points(html)
    (_, level), _ = points(html, "dashed")
    assert level == pytest.approx((top + bottom) / 2, abs=0.02)


def test_what_is_no_number_is_a_gap_and_nothing_at_all_says_so() -> None:
    html = chart_html([Line(xs=[0, 1, 2], ys=[1.0, math.nan, 2.0], colour="red")], summary="", x_end=2)
    assert len(re.findall("M", re.search(r'class="line"[^>]* d="([^"]*)"', html)[1])) == 2  # pyright: ignore
    assert "nan" not in html
    assert "No values yet" in chart_html([Line(xs=[0], ys=[math.inf], colour="red")], summary="", x_end=1)


def test_one_point_is_a_dot_and_a_flat_curve_has_a_place() -> None:
    assert "h0" in chart_html([Line(xs=[0], ys=[1.0], colour="red")], summary="", x_end=10)
    assert points(chart_html([Line(xs=[0, 1], ys=[0.0, 0.0], colour="red")], summary="", x_end=1))


def test_values_over_decades_are_drawn_by_their_logarithm() -> None:
    html = chart_html([Line(xs=[0, 1, 2], ys=[1.0, 0.01, 0.0001], colour="red")], summary="", x_end=2)
    heights = [y for _, y in points(html)]
    assert heights == pytest.approx([0, 50, 100])


@pytest.mark.parametrize(("low", "high"), [(0.0213, 0.0227), (1.0, 29.0), (0.0, 1e-9), (-3.0, 5.0), (9e8, 1e9)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    html = chart_html([Line(xs=[0, 1], ys=[low, high], colour="red")], summary="", x_end=1)
    places = [float(each) for each in re.findall(r'<span style="top:([-\d.]+)%', html)]
    assert 2 <= len(places) <= 7
    assert all(-0.01 <= place <= 100.01 for place in places)


def test_it_is_well_formed_and_escapes_what_it_says() -> None:
    line = Line(xs=[0, 1], ys=[1.0, 2.0], colour="red", label="<b>")
    html = chart_html([line], summary='a "<script>"', x_end=1)
    ElementTree.fromstring(html)
    assert "<script>" not in html


def test_a_million_steps_are_a_few_points_that_keep_their_mean() -> None:
    xs, ys = list(range(1, 1_000_001)), [1.0, 3.0] * 500_000
    thin_xs, thin_ys = thinned(xs, ys)
    assert len(thin_xs) == len(thin_ys) <= 400
    assert thin_xs[-1] == 1_000_000
    assert all(value == pytest.approx(2.0) for value in thin_ys)
    html = chart_html([Line(xs=thin_xs, ys=thin_ys, colour="red", label="loss")], summary="", x_end=1_000_000)
    assert len(html) < 30_000


def test_smoothing_is_unbiased_from_the_first_point_and_skips_gaps() -> None:
    assert smoothed([2.0] * 50) == pytest.approx([2.0] * 50)
    assert smoothed([2.0, math.nan, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    wave = [1.0 + (-1) ** i for i in range(200)]
    assert max(smoothed(wave)[50:]) < 1.4
