"""Where numbers fall on an axis, and lifts on a diverging scale of colours. Pure numbers.

A step of the scale is a name, `d-4` to `d4`; the style sheet gives it a colour, light or dark. The
hues are blue and orange, which people who see red and green alike tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

STEPS = (0.02, 0.1, 0.25, 0.5)  # absolute lifts at which the colour changes
TICK_DISTANCES = (0.05, 0.1, 0.25, 0.5)
MOST_TICKS = 5  # that fit above a narrow column


def step(lift: float) -> str:
    """The name of the colour of a lift; `d0` for one that is next to nothing."""
    size = sum(abs(lift) >= edge for edge in STEPS)
    return f"d{size if lift > 0 else -size}"


class Axis(NamedTuple):
    """A line of lifts from low to high, 0 among them."""

    low: float
    high: float
    ticks: tuple[float, ...]  # ends included

    def at(self, value: float) -> float:
        """The place of a value in percent of the line; beyond an end, that end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)


def axis_over(values: Iterable[float]) -> Axis:
    """An axis that holds all values and 0, with round ends and at most MOST_TICKS ticks."""
    known = [0.0, *values]
    least, most = min(known), max(known)
    for distance in TICK_DISTANCES:
        first = math.floor(round(least / distance, 6))
        last = max(math.ceil(round(most / distance, 6)), first + 1)
        if last - first < MOST_TICKS:
            break
    ticks = tuple(round(n * distance, 6) for n in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)
