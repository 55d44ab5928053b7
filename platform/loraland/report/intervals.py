"""An interval on an axis as SVG that is as wide as its column of a table.

Places are percents, so that nothing is squeezed on a narrow screen. The numbers stand beside it in
the table; the drawing is hidden from screen readers. Pure.
"""

from __future__ import annotations

from markupsafe import Markup

from loraland.evaluation.leaderboard import Verdict
from loraland.evaluation.statistics import Interval
from loraland.report.scale import Axis
from loraland.report.wording import signed


def interval_track(interval: Interval | None, verdict: Verdict | None, axis: Axis) -> Markup:
    """An interval with its mean on the axis, as wide as its column; decoration beside numbers."""
    parts = [
        Markup('<line class="{kind}" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>').format(
            kind="zero" if tick == 0 else "tick", x=axis.at(tick)
        )
        for tick in axis.ticks
    ]
    if interval is not None:
        low, mean, high = (axis.at(v) for v in (interval.low, interval.mean, interval.high))
        parts += [
            Markup('<line class="span" x1="{low}%" x2="{high}%" y1="50%" y2="50%"/>').format(
                low=low, high=high
            ),
            Markup('<circle class="mean" cx="{mean}%" cy="50%" r="4.5"/>').format(mean=mean),
        ]
    return Markup(
        '<svg class="track {verdict}" aria-hidden="true" height="26">{parts}</svg>'
    ).format(verdict=verdict or "untested", parts=Markup("").join(parts))


def axis_track(axis: Axis) -> Markup:
    """The ends of an axis and its 0, as the head of a column of tracks."""
    parts = []
    for tick in axis.ticks:
        place = axis.at(tick)
        is_end = place in (0, 100)
        if tick != 0 and not (is_end and abs(place - axis.at(0)) > 25):
            continue
        anchor = "start" if place < 8 else "end" if place > 92 else "middle"
        shown = signed(tick, 2).rstrip("0").rstrip(".") if tick else "0"
        parts.append(
            Markup('<text x="{x}%" y="12" text-anchor="{anchor}">{shown}</text>').format(
                x=place, anchor=anchor, shown=shown
            )
        )
    return Markup('<svg class="axis" aria-hidden="true" height="16">{parts}</svg>').format(
        parts=Markup("").join(parts)
    )
