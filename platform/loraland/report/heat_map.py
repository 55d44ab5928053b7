"""The heat map of lifts as SVG: a row per task, a column per base, means at the edges.

Text stays text, and colours are classes of the style sheet, so that the figure follows the reader's
theme. Names come from outside and are escaped by Markup. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from loraland.evaluation.leaderboard import Marginal, Row
from loraland.report.scale import step
from loraland.report.wording import SIGNS, VERDICTS, signed, span

COLUMN, LINE, GAP = 92, 44, 8  # CSS pixels, as all lengths here
LETTER = 7.0  # of a name at 13 px, and a little more
NAME = 11  # letters of a name in a column's head
HEAD_LINE = 16


class HeatCell(NamedTuple):
    """One field of the heat map."""

    row: Row | None  # None: not finished
    state: str  # shown where there is no row
    link: str  # of the page's part about it


def heat_map(
    tasks: Sequence[str],
    bases: Sequence[str],
    cell: Callable[[str, str], HeatCell],
    of_task: Callable[[str], Marginal | None],
    of_base: Callable[[str], Marginal | None],
) -> Markup:
    """A row per task, a column per base; means on the right and below where there are several."""
    left = int(LETTER * max(map(len, [*tasks, "all tasks"]))) + 12
    heads = [_broken(base) for base in bases]
    top = HEAD_LINE * max(len(lines) for lines in [*heads, ["all"]]) + 10
    across, down = len(bases) > 1, len(tasks) > 1
    width = left + COLUMN * (len(bases) + across) + (GAP if across else 0)
    height = top + LINE * (len(tasks) + down) + (GAP if down else 0)
    xs = [left + COLUMN * n for n in range(len(bases))]
    ys = [top + LINE * n for n in range(len(tasks))]
    last_x, last_y = left + COLUMN * len(bases) + GAP, top + LINE * len(tasks) + GAP
    parts = [_head(lines, x, top) for lines, x in zip(heads, xs, strict=True)]
    parts += [_label(task, left, y) for task, y in zip(tasks, ys, strict=True)]
    parts += [
        _field(cell(base, task), base, task, x, y)
        for task, y in zip(tasks, ys, strict=True)
        for base, x in zip(bases, xs, strict=True)
    ]
    if across:
        parts += [_head(["all bases"], last_x, top)]
        parts += [_mean(of_task(task), last_x, y) for task, y in zip(tasks, ys, strict=True)]
    if down:
        parts += [_label("all tasks", left, last_y)]
        parts += [_mean(of_base(base), x, last_y) for base, x in zip(bases, xs, strict=True)]
    return Markup(
        '<svg class="heat" role="group" aria-label="Lift over the base, a row per task and a '
        'column per base" width="{w}" height="{h}" viewBox="0 0 {w} {h}">{parts}</svg>'
    ).format(w=width, h=height, parts=Markup("\n").join(parts))


def _broken(name: str) -> list[str]:
    """A name in lines that fit above a column, broken after hyphens where that is possible."""
    lines = [""]
    for part in name.replace("-", "-\0").split("\0"):
        pieces = [part[n : n + NAME] for n in range(0, len(part), NAME)]
        for piece in pieces:
            if len(lines[-1]) + len(piece) > NAME and lines[-1]:
                lines.append("")
            lines[-1] += piece
    return lines


def _head(lines: Sequence[str], x: float, top: float) -> Markup:
    first = top - 10 - HEAD_LINE * (len(lines) - 1)
    spans = Markup("").join(
        Markup('<tspan x="{}" y="{}">{}</tspan>').format(
            x + COLUMN / 2, first + HEAD_LINE * n, line
        )
        for n, line in enumerate(lines)
    )
    return Markup('<text class="name" text-anchor="middle">{}</text>').format(spans)


def _label(name: str, left: float, y: float) -> Markup:
    return Markup('<text class="name" x="{}" y="{}" text-anchor="end">{}</text>').format(
        left - 12, y + LINE / 2 + 4, name
    )


def _field(cell: HeatCell, base: str, task: str, x: float, y: float) -> Markup:
    if cell.row is None:
        inside = Markup(
            '{}<text class="state" x="{}" y="{}" text-anchor="middle">{}</text>'
        ).format(_box("gap", x, y), x + COLUMN / 2, y + LINE / 2 + 4, cell.state)
        told = f"{base} on {task}: {cell.state}"
    else:
        duel = cell.row.against_base
        lift, verdict = duel.lift, duel.verdict
        inside = _numbers(lift.mean, lift.low, lift.high, x, y, SIGNS[verdict])
        told = (
            f"{base} on {task}: lift {signed(lift.mean)}, {span(lift.low, lift.high)}, "
            f"{VERDICTS[verdict]}"
        )
    return Markup('<a href="#{}" aria-label="{}"><title>{}</title>{}</a>').format(
        cell.link, told, told, inside
    )


def _mean(marginal: Marginal | None, x: float, y: float) -> Markup:
    if marginal is None:
        return Markup("")
    return _numbers(marginal.lift, marginal.lift_low, marginal.lift_high, x, y, "")


def _numbers(
    lift: float, low: float | None, high: float | None, x: float, y: float, sign: str
) -> Markup:
    middle = x + COLUMN / 2
    return Markup(
        '{box}<text class="lift {step}" x="{x}" y="{y}" text-anchor="middle">{lift}</text>'
        '<text class="bounds {step}" x="{x}" y="{below}" text-anchor="middle">{span}</text>'
    ).format(
        box=_box(step(lift), x, y),
        step=step(lift),
        x=middle,
        y=y + 18,
        below=y + 33,
        lift=f"{signed(lift, 2)} {sign}".rstrip(),
        span=span(low, high),
    )


def _box(kind: str, x: float, y: float) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="3"/>').format(
        kind, x + 1, y + 1, COLUMN - 2, LINE - 2
    )
