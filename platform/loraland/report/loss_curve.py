"""The losses of a run over its updates as SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from loraland.adapters.card import CurvePoint
from loraland.report.wording import plain

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 170, 36, 24, 8  # CSS pixels
MOST_POINTS = 120  # of a curve; longer ones are averaged over as many stretches


def loss_curve(curve: Sequence[CurvePoint], best_step: int) -> Markup:
    """Losses over updates: of training as a line, of validation as dots on a dashed line."""
    trained = thinned([(point.step, point.train_loss) for point in curve])
    checked = [(p.step, p.validation_loss) for p in curve if p.validation_loss is not None]
    heights = [loss for _, loss in [*trained, *checked]]
    low, high = min(heights), max(heights)
    first, last = curve[0].step, curve[-1].step

    def at(step_: float, loss: float) -> tuple[float, float]:
        across = (step_ - first) / ((last - first) or 1)
        up = (loss - low) / ((high - low) or 1)
        x = LEFT + across * (WIDTH - LEFT - 10)
        return round(x, 1), round(HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP), 1)

    parts = [_rule(loss, at(first, loss)[1]) for loss in dict.fromkeys((low, high))]
    parts += [_tick(n, at(n, low)[0]) for n in dict.fromkeys((first, last))]
    if first < best_step < last:
        parts.append(_best(at(best_step, low)[0]))
    parts.append(_path("train", [at(*point) for point in trained]))
    parts.append(_path("validation", [at(*point) for point in checked]))
    parts += [
        Markup('<circle class="validation" cx="{}" cy="{}" r="3"/>').format(*at(*point))
        for point in thinned(checked)
    ]
    told = (
        f"Loss over updates {first} to {last}: training from {plain(trained[0][1])} to "
        f"{plain(trained[-1][1])}"
    )
    if checked:
        told += f", validation from {plain(checked[0][1])} to {plain(checked[-1][1])}"
    return Markup(
        '<svg class="curve" role="img" aria-label="{told}" viewBox="0 0 {w} {h}">{parts}</svg>'
    ).format(told=told, w=WIDTH, h=HEIGHT, parts=Markup("").join(parts))


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS points; each of them the mean of a stretch of the curve."""
    if len(points) <= MOST_POINTS:
        return [(float(x), y) for x, y in points]
    edges = [n * len(points) // MOST_POINTS for n in range(MOST_POINTS + 1)]
    stretches = [points[a:b] for a, b in pairwise(edges)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in stretches
    ]


def _rule(loss: float, y: float) -> Markup:
    return Markup(
        '<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(LEFT, WIDTH - 10, y, y, LEFT - 6, y + 4, plain(loss, 2))


def _tick(step_: int, x: float) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        x, HEIGHT - 8, "start" if x == LEFT else "end", f"{step_:,}"
    )


def _best(x: float) -> Markup:
    return Markup(
        '<line class="best" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
        '<text x="{x}" y="{text}" text-anchor="middle">best</text>'
    ).format(x=x, top=TOP, bottom=HEIGHT - BOTTOM, text=HEIGHT - 8)


def _path(kind: str, points: Sequence[tuple[float, float]]) -> Markup:
    steps = " ".join(f"{x},{y}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, steps)
