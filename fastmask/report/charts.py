"""Bar charts as numbers for the page's SVG: widths in percent, so that a chart fits any screen; heights in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .overview import PLACES, Bin, Place

HEIGHT = 150
"""Pixels of the tallest bar."""
TICKS = 6
"""Most numbers below a chart, about."""
LINES = 4
"""Most lines across a chart, besides the ground."""


class Bar(NamedTuple):
    """A rectangle: left edge and width in percent, height in pixels."""

    left: float
    width: float
    height: float


class Chart(NamedTuple):
    """What is drawn.

    Attributes:
        label: what it shows, in words; height: of the plot.
        bars: from left to right.
        lines: horizontal ones, (pixels above the ground, text).
        ticks: below, (left in percent, where the text stands, text).
        limit: a vertical line, (left in percent, text); None for none.
    """

    label: str
    height: int
    bars: list[Bar]
    lines: list[tuple[float, str]]
    ticks: list[tuple[float, str, str]]
    limit: tuple[float, str] | None = None


def shares_chart(shares: Sequence[int]) -> Chart:
    """Return the sentences by their share of masked tokens: none, then equal steps to 100 %."""
    slots, steps = len(shares), len(shares) - 1
    ticks = [(50 / slots, "middle", "none")]
    ticks += [(100 * (1 + steps * part / 4) / slots, "end" if part == 4 else "middle", f"{part / 4:.0%}")
              for part in (1, 2, 3, 4)]  # fmt: skip
    label = "Histogram: sentences by the share of their tokens that is masked"
    return Chart(label, HEIGHT, *_bars(shares), ticks)


def importance_chart(bins: Sequence[Bin], threshold: float | None, *, masked: bool) -> Chart:
    """Return the tokens, all or masked ones, by their importance."""
    edges = [one.low for one in bins] + [bins[-1].high]
    known = [edge for edge in edges if edge is not None]
    width = known[1] - known[0] if len(known) > 1 else 1.0
    step = width * 2 ** math.ceil(math.log2(max(1.0, len(bins) / (TICKS - 1))))

    def left(value: float) -> float:
        """Return where a value is; what is beyond the chart, at its end."""
        place = (value - known[0]) / width + (edges[0] is None) if known else 0.0
        return 100 * min(max(place / len(bins), 0.0), 1.0)

    ticks = [(left(edge), _anchor(left(edge)), number(edge)) for edge in known if edge % step == 0]
    of = "masked tokens" if masked else "scored tokens"
    limit = None if threshold is None else (left(threshold), f"threshold {threshold:g}")
    values = [one.masked if masked else one.tokens for one in bins]
    return Chart(f"Histogram: {of} by their importance", HEIGHT * 2 // 3, *_bars(values, HEIGHT * 2 // 3), ticks, limit)


def places_chart(places: Sequence[Place]) -> Chart:
    """Return the share of tokens that is masked, by position; the last one stands for all from there on."""
    values, last = [one.masked / one.tokens for one in places], PLACES + 1
    ticks = [(100 * (k + 0.5) / len(places), "middle", f"{one.position}{'+' * (one.position == last)}")
             for k, one in enumerate(places) if one.position in (1, last) or one.position % 10 == 0]  # fmt: skip
    if len(ticks) > 2 and ticks[-1][2] == f"{last}+":
        del ticks[-2]  # too near to be read
    return Chart("Bar chart: share of tokens that is masked, by position in the sentence", HEIGHT,
                 *_bars(values, shares=True), ticks)  # fmt: skip


def number(value: float) -> str:
    """Return a number with a minus sign in few characters."""
    return f"{value:.4g}".replace("-", "−")


def _bars(
    values: Sequence[float], height: int = HEIGHT, shares: bool = False
) -> tuple[list[Bar], list[tuple[float, str]]]:
    """Return the bars of some values, and horizontal lines at round numbers."""
    slot, most = 100 / len(values), max(values)
    scale = height / most if most else 0.0
    bars = [Bar(round((k + 0.08) * slot, 3), round(0.84 * slot, 3), round(max(value * scale, value and 1.0), 1))
            for k, value in enumerate(values)]  # fmt: skip
    step = _round_step(most / LINES, shares)
    count = int(most / step) if most else 0
    texts = (f"{100 * k * step:.3g}%" if shares else f"{k * step:,.0f}" for k in range(count + 1))
    lines = [(round(k * step * scale, 1), text) for k, text in enumerate(texts)]
    return bars, lines


def _round_step(least: float, shares: bool) -> float:
    """Return the next number of 1, 2, 5, 10, ...; of counts a whole one."""
    least = least if shares else max(least, 1)
    if least <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(least))
    return next(size * k for k in (1, 2, 5, 10) if size * k >= least * 0.999999)


def _anchor(left: float) -> str:
    return "start" if left < 3 else "end" if left > 97 else "middle"


class Scale(NamedTuple):
    """A line of numbers, from ``low`` to ``high``, with one at each ``step``."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        """Return a scale for some values, with round numbers at its ends."""
        least, most = min(values), max(values)
        step = _round_step((most - least or abs(most) or 1.0) / LINES, shares=True)
        low, high = math.floor(least / step), math.ceil(most / step)
        return cls(low * step, max(high, low + 1) * step, step)

    def at(self, value: float) -> float:
        """Return where a value is, in percent."""
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0), 2)

    @property
    def ticks(self) -> list[tuple[float, str, str]]:
        """Return the numbers on it: left in percent, where the text stands, text."""
        found = (self.low + k * self.step for k in range(round((self.high - self.low) / self.step) + 1))
        return [(self.at(one), _anchor(self.at(one)), number(round(one, 9))) for one in found]


class Lines(NamedTuple):
    """What is drawn of lines.

    Attributes:
        label: what they show, in words; height: of the plot.
        lines: horizontal ones, (pixels below the top, text); ticks: as of ``Chart``.
        series: (class, points "x,y x,y ..." in percent from the left and the top).
    """

    label: str
    height: int
    lines: list[tuple[float, str]]
    ticks: list[tuple[float, str, str]]
    series: list[tuple[str, str]]


def lines_chart(label: str, height: int, found: Sequence[Sequence[tuple[float, float]]]) -> Lines:
    """Return a chart of the lines of a method and its control, each as points from left to right."""
    across, up = (Scale.of([point[k] for points in found for point in points]) for k in (0, 1))
    series = [(kind, " ".join(f"{across.at(x):g},{100 - up.at(y):g}" for x, y in points))
              for kind, points in zip(("arm", "control"), found, strict=False)]  # fmt: skip
    lines = [(round(height * (1 - left / 100), 1), text) for left, _, text in up.ticks]
    return Lines(label, height, lines, across.ticks, series[::-1])
