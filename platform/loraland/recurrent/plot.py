"""Draws lines over steps as one self-contained SVG, light and dark. Pure.

Told panels of named lines; the vertical scale is linear, or logarithmic for what vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 420, 260  # of a panel, in CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 42
LEGEND_LINE = 18
FLOOR = 1e-18  # of a logarithmic scale: below, a line lies on the bottom
COLOURS = 4  # classes l0 to l3

_STYLE = """
svg{font:12px system-ui,sans-serif;fill:#222;background:#fff}
.rule{stroke:#ddd}.title{font-weight:600}polyline{fill:none;stroke-width:2}
.l0{stroke:#1d4ed8}.l1{stroke:#c2410c}.l2{stroke:#1b7f4b}.l3{stroke:#7c3aed}
.l1{stroke-dasharray:7 3}.l2{stroke-dasharray:2 3}.l3{stroke-dasharray:9 3 2 3}
@media(prefers-color-scheme:dark){svg{fill:#ddd;background:#16181c}.rule{stroke:#3a3d44}
.l0{stroke:#93c5fd}.l1{stroke:#fb923c}.l2{stroke:#4ade80}.l3{stroke:#c4b5fd}}
"""


class Line(NamedTuple):
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]  # (x, y)


class Panel(NamedTuple):
    """One plot."""

    title: str
    across: str  # what x is
    up: str  # what y is
    lines: Sequence[Line]
    logarithmic: bool = False


def draw(panels: Sequence[Panel]) -> str:
    """Panels side by side, each on its own scale with its own legend.

    Raises ValueError where a panel has no point, or more lines than there are colours.
    """
    for panel in panels:
        if not any(line.points for line in panel.lines):
            raise ValueError(f"there is nothing to draw in '{panel.title}': no line has a point")
        if len(panel.lines) > COLOURS:
            raise ValueError(f"'{panel.title}' has {len(panel.lines)} lines; at most {COLOURS}")
    rows = max(len(panel.lines) for panel in panels)
    width, height = WIDTH * len(panels), HEIGHT + rows * LEGEND_LINE + 8
    parts = Markup("").join(_panel(panel, n * WIDTH) for n, panel in enumerate(panels))
    label = "; ".join(f"{panel.title}: {panel.up} over {panel.across}" for panel in panels)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" width="{w}" '
        'height="{h}" viewBox="0 0 {w} {h}"><style>{style}</style>{parts}</svg>\n'
    ).format(label=label, w=width, h=height, style=Markup(_STYLE), parts=parts)


class _Scale(NamedTuple):
    """Where values of one panel fall."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool

    @classmethod
    def of(cls, panel: Panel) -> _Scale:
        points = [point for line in panel.lines for point in line.points]
        xs, ys = [x for x, _ in points], [max(y, FLOOR) for _, y in points]
        if panel.logarithmic:
            low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
            return cls(low, max(high, low + 1), min(xs), max(xs), True)
        top = max([y for _, y in points] + [1e-12])
        return cls(0.0, top * 1.05, min(xs), max(xs), False)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.first) / ((self.last - self.first) or 1)
        value = math.log10(max(y, FLOOR)) if self.logarithmic else y
        up = (value - self.low) / (self.high - self.low)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    def levels(self) -> list[tuple[float, str]]:
        """Values with rules, and what stands beside them."""
        if self.logarithmic:
            step = max(1, round((self.high - self.low) / 5))
            powers = range(int(self.low), int(self.high) + 1, step)
            return [(10.0**power, f"1e{power}") for power in powers]
        return [(self.high * n / 4, f"{self.high * n / 4:.2g}") for n in range(5)]


def _panel(panel: Panel, left: int) -> Markup:
    scale = _Scale.of(panel)
    parts = [Markup('<text class="title" x="{}" y="18">{}</text>').format(LEFT, panel.title)]
    for value, told in scale.levels():
        y = scale.at(scale.first, value)[1]
        parts.append(
            Markup(
                '<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, told)
        )
    for x, anchor in ((scale.first, "start"), (scale.last, "end")):
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
                scale.at(x, 1)[0], HEIGHT - BOTTOM + 16, anchor, f"{x:g}"
            )
        )
    middle = (LEFT + WIDTH - RIGHT) / 2, (HEIGHT - BOTTOM + TOP) / 2
    parts.append(
        Markup(
            '<text x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format(middle[0], HEIGHT - 10, panel.across, middle[1], panel.up)
    )
    for n, line in enumerate(panel.lines):
        places = " ".join(f"{x},{y}" for x, y in (scale.at(*point) for point in line.points))
        y = HEIGHT + n * LEGEND_LINE + 4
        parts.append(
            Markup(
                '<polyline class="l{n}" points="{places}"/>'
                '<polyline class="l{n}" points="{a},{y} {b},{y}"/>'
                '<text x="{c}" y="{d}">{name}</text>'
            ).format(
                n=n, places=places, a=LEFT, b=LEFT + 26, y=y, c=LEFT + 32, d=y + 4, name=line.name
            )
        )
    return Markup('<g transform="translate({} 0)">{}</g>').format(left, Markup("").join(parts))
