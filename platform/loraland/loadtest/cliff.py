"""The cliff: time to first token as the working set of adapters grows past the slots. Pure.

As long as all adapters that are asked fit on the device, each is a hit. Beyond that, misses wait
for a load and for somebody else's slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loraland.errors import InvalidConfiguration
from loraland.loadtest.summary import Figures, Times

MOST_SHARES, MOST_SHARE = 20, 64.0


class Point(NamedTuple):
    """One working set."""

    share: float  # of the slots, as asked for
    adapters: int  # that were asked
    figures: Figures


def shares_of(text: str) -> tuple[float, ...]:
    """Working sets over slots, from a list such as 0.5,1,2,4. Raises InvalidConfiguration."""
    try:
        shares = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        shares = ()
    if not 1 <= len(shares) <= MOST_SHARES or not all(0 < s <= MOST_SHARE for s in shares):
        raise InvalidConfiguration(
            f"'{text[:80]}' is no list of working sets; give up to {MOST_SHARES} shares of the "
            f"slots, each above 0 and at most {MOST_SHARE:g}, such as 0.5,1,2,4"
        )
    return shares


def working_sets(shares: Sequence[float], slots: int, adapters: int) -> list[tuple[float, int]]:
    """Each share with its number of adapters, at least one.

    Raises InvalidConfiguration when more are needed than there are.
    """
    if slots < 1:
        raise InvalidConfiguration(f"slots is {slots}; a cliff needs at least one")
    sets = [(share, max(1, round(share * slots))) for share in shares]
    needed = max(count for _, count in sets)
    if needed > adapters:
        raise InvalidConfiguration(
            f"a working set of {max(shares):g} x {slots} slots needs {needed} adapters, "
            f"{adapters} are asked; give smaller shares, or make some with --synthetic {needed}"
        )
    return sets


class Line(NamedTuple):
    """One curve of the plot."""

    name: str
    kind: str  # "hit", "miss" or "all"; decides the colour
    dashed: bool
    points: tuple[tuple[float, float], ...]  # working set over slots, milliseconds


def lines_of(points: Sequence[Point]) -> list[Line]:
    """Median and p95 of hits and misses; of all requests where the server tells no hits."""
    told = any(point.figures.hits + point.figures.misses for point in points)
    kinds = ("hit", "miss") if told else ("all",)
    lines = []
    for kind in kinds:
        for name, dashed in (("p50", False), ("p95", True)):
            curve = [
                (point.share, getattr(times, f"{name}_ms"))
                for point in points
                if (times := _times(point.figures, kind)) is not None
            ]
            if curve:
                lines.append(Line(f"{kind}, {name}", kind, dashed, tuple(curve)))
    return lines


def _times(figures: Figures, kind: str) -> Times | None:
    return {"hit": figures.ttft_hit, "miss": figures.ttft_miss, "all": figures.ttft}[kind]
