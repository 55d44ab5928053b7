"""The map of strata and small grey images as SVG. Pure.

Colours come from classes, so that they follow the reader's theme; the words beside say the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from loraland.report.wording import plain
from loraland.strata.record import Picture

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 380, 14, 44, 12  # CSS pixels


def strata_map(picture: Picture, worst: int | None, worst_name: str | None) -> Markup:
    """Held-out examples: across how surely they are right, up what else varies.

    The worst stratum is drawn last, in a colour of its own; wrong answers are crosses.
    """
    points = picture.points
    across, up = [x for x, *_ in points], [point[1] for point in points]
    low, high = min([0.0, *across]), max([0.0, *across])
    bottom, top = min([0.0, *up]), max([0.0, *up])

    def at(x: float, y: float) -> tuple[float, float]:
        right = (x - low) / ((high - low) or 1) * (WIDTH - 2 * LEFT)
        above = (y - bottom) / ((top - bottom) or 1) * (HEIGHT - BOTTOM - TOP)
        return round(LEFT + right, 1), round(HEIGHT - BOTTOM - above, 1)

    ordered = sorted(points, key=lambda point: point[2] == worst)
    marks = [_mark(*at(x, y), right=right, worst=n == worst) for x, y, n, right in ordered]
    zero = at(0.0, 0.0)[0]
    wrong = sum(not right for *_, right in points)
    told = f"{len(points)} held-out examples by margin, {wrong} of them answered wrong"
    if worst is not None:
        told += f"; {sum(n == worst for _, _, n, _ in points)} are in stratum {worst_name}"
    return Markup(
        '<svg class="map" role="img" aria-label="{told}" viewBox="0 0 {w} {h}">'
        '<line class="zero" x1="{zero}" x2="{zero}" y1="{top}" y2="{base}"/>{marks}'
        '<text x="{left}" y="{text}">{low}</text>'
        '<text x="{zero}" y="{text}" text-anchor="middle">0</text>'
        '<text x="{right}" y="{text}" text-anchor="end">{high}</text>'
        '<text x="{left}" y="{under}">\N{LEFTWARDS ARROW} wrong</text>'
        '<text x="{right}" y="{under}" text-anchor="end">right \N{RIGHTWARDS ARROW}</text></svg>'
    ).format(
        told=told,
        w=WIDTH,
        h=HEIGHT,
        zero=zero,
        top=TOP,
        base=HEIGHT - BOTTOM,
        marks=Markup("").join(marks),
        left=LEFT,
        right=WIDTH - LEFT,
        text=HEIGHT - 24,
        under=HEIGHT - 4,
        low=plain(low, 1),
        high=plain(high, 1),
    )


def _mark(x: float, y: float, *, right: bool, worst: bool) -> Markup:
    kind = "worst" if worst else "other"
    if right:
        return Markup('<circle class="{}" cx="{}" cy="{}" r="3"/>').format(kind, x, y)
    return Markup('<path class="{} wrong" d="M{} {}l6 6m0-6l-6 6"/>').format(
        kind, round(x - 3, 1), round(y - 3, 1)
    )


def shares_axis() -> Markup:
    """The ends of an axis from 0 to 1, as the head of a column of tracks."""
    return Markup(
        '<svg class="axis" aria-hidden="true" height="16"><text x="0" y="12">0</text>'
        '<text x="100%" y="12" text-anchor="end">1</text></svg>'
    )


def grey_image(pixels: Sequence[Sequence[float]], told: str) -> Markup:
    """A small image, 0 black to 1 white; equal neighbours of a row are one rectangle."""
    parts = []
    for y, row in enumerate(pixels):
        start = 0
        for x in range(1, len(row) + 1):
            if x == len(row) or row[x] != row[start]:
                level = round(255 * row[start])
                parts.append(
                    Markup('<rect x="{}" y="{}" width="{}" height="1" fill="{}"/>').format(
                        start, y, x - start, f"#{level:02x}{level:02x}{level:02x}"
                    )
                )
                start = x
    return Markup(
        '<svg class="pixels" role="img" aria-label="{}" viewBox="0 0 {} {}" '
        'shape-rendering="crispEdges">{}</svg>'
    ).format(told, len(pixels[0]) if pixels else 0, len(pixels), Markup("").join(parts))
