"""Curves as small inline pictures: an SVG stretched over its place, with its numbers as plain text around it.

The lines are drawn in a 100 x 100 box that the page stretches, so a chart is as wide as its place and its text keeps
its size on a phone; colours are css variables, so it follows dark mode. No script, no library, no request. Values that
are not finite leave a gap. This module does not know gradio, nor what the curves mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MOST_POINTS = 400
MOST_HINTS = 60
LOG_FROM_RATIO = 30.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve; `colour` is css, a `faint` one stands behind, a `dashed` one is a level to compare with."""

    xs: Sequence[float]
    ys: Sequence[float]
    colour: str
    label: str = ""
    faint: bool = False
    dashed: bool = False


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most so many points: means of equal runs of points, each at its run's last x."""
    size = math.ceil(len(xs) / most) if xs else 1
    if size == 1:
        return list(xs), list(ys)
    places = range(0, len(xs), size)
    means = [_mean([y for y in ys[i : i + size] if math.isfinite(y)]) for i in places]
    return [xs[min(i + size, len(xs)) - 1] for i in places], means


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def smoothed(ys: Sequence[float], share: float = 1 / 12) -> list[float]:
    """A running average that looks back over about `share` of the points, unbiased from the first one on."""
    keep = 1 - 2 / (max(4.0, share * len(ys)) + 1)
    total = weight = 0.0
    result = []
    for y in ys:
        if math.isfinite(y):
            total, weight = keep * total + (1 - keep) * y, keep * weight + 1 - keep
        result.append(total / weight if weight else math.nan)
    return result


def chart_html(lines: Sequence[Line], *, summary: str, x_end: float, unit: str = "step", small: bool = False) -> str:
    """A chart of these lines from 0 to `x_end`; `summary` is what it says to who cannot see it."""
    values = [y for line in lines for y in line.ys if math.isfinite(y)]
    if not values:
        return f'<div class="chart{" small" if small else ""} waiting"><span>No values yet.</span></div>'
    scale = _Scale.of(values)
    ticks = scale.ticks(3 if small else 4)
    rules = "".join(f'<path d="M0 {scale.place(tick):.2f}H100"/>' for tick in ticks)
    names = "".join(f'<span style="top:{scale.place(tick):.2f}%">{number(tick)}</span>' for tick in ticks)
    paths = "".join(_path(line, scale, x_end) for line in sorted(lines, key=lambda line: not line.faint))
    return (
        f'<div class="chart{" small" if small else ""}"><div class="chart-y" aria-hidden="true">{names}</div>'
        f'<div class="chart-plot"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(summary)}"><g class="rules">{rules}</g>{paths}</svg>{_hints(lines, x_end, unit)}</div>'
        f'<div class="chart-x" aria-hidden="true"><span>0</span><span>{unit} {x_end:,.0f}</span></div></div>'
    )


def _path(line: Line, scale: _Scale, x_end: float) -> str:
    parts, pen_up = [], True
    for x, y in zip(line.xs, line.ys, strict=True):
        if not math.isfinite(y):
            pen_up = True
            continue
        parts.append(f"{'M' if pen_up else 'L'}{100 * x / max(x_end, 1e-9):.2f} {scale.place(y):.2f}")
        pen_up = False
    if len(parts) == 1:  # a single point is a dot: a line of no length with round ends
        parts.append("h0")
    kind = "faint" if line.faint else "dashed" if line.dashed else "line"
    return f'<path class="{kind}" style="stroke:{line.colour}" d="{"".join(parts)}"/>'


def _hints(lines: Sequence[Line], x_end: float, unit: str) -> str:
    """Invisible columns whose titles tell the values under the pointer, of the lines that have a label."""
    named = [line for line in lines if line.label and line.xs]
    if not named:
        return ""
    every = math.ceil(len(named[0].xs) / MOST_HINTS)
    places = range(len(named[0].xs) - 1, -1, -every)[::-1]
    columns = "".join(_hint(named, i, x_end, unit, 100 / max(len(places), 8)) for i in places)
    return f'<div class="chart-hints" aria-hidden="true">{columns}</div>'


def _hint(lines: Sequence[Line], index: int, x_end: float, unit: str, width: float) -> str:
    x = lines[0].xs[index]
    told = ", ".join(f"{line.label} {number(line.ys[min(index, len(line.ys) - 1)])}" for line in lines)
    left = 100 * x / max(x_end, 1e-9) - width / 2
    return f'<i style="left:{left:.2f}%;width:{width:.2f}%" title="{escape(f"{unit} {x:,.0f}: {told}")}"></i>'


def number(value: float) -> str:
    """Three digits that matter: `0.0312`, `1.5e-05`, `12`."""
    return f"{value:.3g}"


@dataclass(frozen=True)
class _Scale:
    """From a value to its height in the box, 0 at the top; logarithmic where the values span decades."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        low, high = min(values), max(values)
        if low > 0 and high / low > LOG_FROM_RATIO:
            return cls(math.log10(low), math.log10(high), True)
        room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        return cls(max(0.0, low - room) if low >= 0 else low - room, high + room, False)

    def place(self, value: float) -> float:
        at = math.log10(value) if self.log and value > 0 else self.low if self.log else value
        return 100 * (1 - (at - self.low) / ((self.high - self.low) or 1))

    def ticks(self, count: int) -> list[float]:
        """Round values inside the range, about so many."""
        if self.log:
            whole = [10.0**power for power in range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)]
            if len(whole) >= 2:
                return whole[:: math.ceil(len(whole) / count)]
            return [10**self.low, 10**self.high]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
