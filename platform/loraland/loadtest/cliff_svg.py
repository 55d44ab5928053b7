"""Draws cliffs as one self-contained SVG, light and dark: milliseconds over working set / slots.

Told lines with their names; knows no server. `benchmarks/cliff.py` draws with it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from loraland.loadtest.cliff import Line

WIDTH, HEIGHT = 420, 300  # of a panel, in CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 30, 44
LEGEND_LINE = 18
MOST_TICKS = 6

_STYLE = """
svg{font:12px system-ui,sans-serif;fill:#222;background:#fff}
.rule{stroke:#ddd}.hit{stroke:#1b7f4b}.miss{stroke:#c2410c}.all{stroke:#1d4ed8}
polyline{fill:none;stroke-width:2}.dashed{stroke-dasharray:5 4}
circle.hit{fill:#1b7f4b}circle.miss{fill:#c2410c}circle.all{fill:#1d4ed8}
.title{font-weight:600}
@media(prefers-color-scheme:dark){svg{fill:#ddd;background:#16181c}.rule{stroke:#3a3d44}
.hit{stroke:#4ade80}.miss{stroke:#fb923c}.all{stroke:#93c5fd}
circle.hit{fill:#4ade80}circle.miss{fill:#fb923c}circle.all{fill:#93c5fd}}
"""


class Panel(NamedTuple):
    """One plot."""

    title: str
    lines: Sequence[Line]


def draw(panels: Sequence[Panel], unit: str = "first token, ms") -> str:
    """Panels side by side on one scale, with one legend. Raises ValueError without any point."""
    points = [point for panel in panels for line in panel.lines for point in line.points]
    if not points:
        raise ValueError("there is nothing to draw: no line has a point")
    scale = _Scale.over(points)
    names = {line.name: line for panel in panels for line in panel.lines}
    columns = max(1, WIDTH * len(panels) // 200)
    rows = math.ceil(len(names) / columns)
    width, height = WIDTH * len(panels), HEIGHT + rows * LEGEND_LINE + 8
    parts = [_panel(panel, n * WIDTH, scale, unit) for n, panel in enumerate(panels)]
    parts += [
        _key(line, LEFT + n % columns * 190, HEIGHT + n // columns * LEGEND_LINE + 8)
        for n, line in enumerate(names.values())
    ]
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" width="{w}" '
        'height="{h}" viewBox="0 0 {w} {h}"><style>{style}</style>{parts}</svg>\n'
    ).format(
        label=f"{unit} over working set in slots", w=width, h=height,
        style=Markup(_STYLE), parts=Markup("").join(parts),
    )  # fmt: skip


class _Scale(NamedTuple):
    """Where values fall in a panel: logarithmic across, linear up from 0."""

    xs: tuple[float, ...]
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, points: Sequence[tuple[float, float]]) -> _Scale:
        most = max(y for _, y in points) or 1.0
        rough = 10 ** math.floor(math.log10(most / MOST_TICKS))
        step = next(rough * n for n in (1, 2, 5, 10, 20) if rough * n * MOST_TICKS >= most)
        count = math.ceil(round(most / step, 9))
        return cls(tuple(sorted({x for x, _ in points})), tuple(n * step for n in range(count + 1)))

    def x(self, value: float) -> float:
        low, high = math.log2(self.xs[0]), math.log2(self.xs[-1])
        share = (math.log2(value) - low) / (high - low) if high > low else 0.5
        return round(LEFT + 12 + share * (WIDTH - LEFT - RIGHT - 24), 1)

    def y(self, value: float) -> float:
        share = value / self.ticks[-1]
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _panel(panel: Panel, left: int, scale: _Scale, unit: str) -> Markup:
    parts = [
        Markup('<text class="title" x="{}" y="18">{}</text>').format(LEFT, panel.title),
        *(_level(value, scale.y(value)) for value in scale.ticks),
        *(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}x</text>').format(
                scale.x(value), HEIGHT - BOTTOM + 16, f"{value:g}"
            )
            for value in scale.xs
        ),
        Markup('<text x="{}" y="{}" text-anchor="middle">working set, in slots</text>').format(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10
        ),
        Markup('<text transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>')
        .format((HEIGHT - BOTTOM + TOP) / 2, unit),
        *(_curve(line, scale) for line in panel.lines),
    ]  # fmt: skip
    return Markup('<g transform="translate({} 0)">{}</g>').format(left, Markup("").join(parts))


def _level(value: float, y: float) -> Markup:
    return Markup(
        '<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, f"{value:g}")


def _curve(line: Line, scale: _Scale) -> Markup:
    places = [(scale.x(x), scale.y(y)) for x, y in line.points]
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
            line.kind, *place, f"{line.name} at {x:g}x: {y:.0f} ms"
        )
        for place, (x, y) in zip(places, line.points, strict=True)
    )
    return Markup('<polyline class="{}" points="{}"/>{}').format(
        _class(line), " ".join(f"{x},{y}" for x, y in places), dots
    )


def _key(line: Line, x: int, y: int) -> Markup:
    return Markup(
        '<polyline class="{}" points="{},{} {},{}"/><text x="{}" y="{}">{}</text>'
    ).format(_class(line), x, y, x + 26, y, x + 32, y + 4, line.name)


def _class(line: Line) -> str:
    return f"{line.kind} dashed" if line.dashed else line.kind
