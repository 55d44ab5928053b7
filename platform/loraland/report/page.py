"""The report as one HTML file that asks nothing of any network.

Told the content; the template says what stands where. Its own style and script are the only ones
that the page lets a browser use, by their hashes.
"""

from __future__ import annotations

from jinja2 import Environment
from markupsafe import Markup

from loraland.evaluation.leaderboard import BASE, Marginal
from loraland.evaluation.statistics import Interval
from loraland.report import wording
from loraland.report.answers import Answers, as_json
from loraland.report.content import CellPage, Content
from loraland.report.excerpt import OUTCOMES, RIGHT
from loraland.report.heat_map import HeatCell, heat_map
from loraland.report.intervals import axis_track, interval_track
from loraland.report.loss_curve import loss_curve
from loraland.report.origins import commit_of, commit_words, data_of_tasks, making, packages_of
from loraland.report.scale import axis_over
from loraland.report.shell import OURS, asset, environment, policy

FEW = 40  # cells whose intervals are unfolded when the page opens


def render_html(content: Content) -> str:
    """The whole page."""
    template = _environment().get_template("report.html")
    board, script = content.board, asset("report.js")
    style = asset("tokens.css") + asset("report.css")  # the web pages have the same tokens
    by_base: dict[str, list[CellPage]] = {}
    for cell in content.cells:
        by_base.setdefault(cell.row.base, []).append(cell)
    return template.render(
        content=content,
        board=board,
        style=style,
        script=script,
        policy=policy(style, script),
        heat=_heat(content) if board.rows else "",
        by_base=by_base,
        rivals=[name for name in board.opponents if name != BASE],
        everything=next(iter(board.of_kind("all")), None),
        mean_axis=axis_over(_ends(board.marginals)),
        lift_axis=axis_over(v for row in board.rows for v in row.against_base.lift),
        answers=Answers(content.cells),
        data=data_of_tasks(content.cells),
        making=making(content.cells),
        few=len(board.rows) <= FEW,
        words=as_json({"outcomes": OUTCOMES, "right": RIGHT}),
    )


def _environment() -> Environment:
    found = environment(OURS)
    found.filters |= {
        "plain": wording.plain,
        "signed": wording.signed,
        "bounds": wording.bounds,
        "p_value": wording.p_value,
        "day": wording.day,
        "commit": commit_of,
        "packages": packages_of,
    }
    found.globals |= {
        "span": wording.span,
        "share": wording.share,
        "signs": wording.SIGNS,
        "verdicts": wording.VERDICTS,
        "right": RIGHT,
        "interval_track": interval_track,
        "axis_track": axis_track,
        "loss_curve": loss_curve,
        "mean_interval": _interval,
        "commit_words": commit_words,
    }
    return found


def _heat(content: Content) -> Markup:
    found = {(cell.row.base, cell.row.task): cell for cell in content.cells}
    states = {(one.base, one.task): one.state for one in content.unfinished}
    means = {(one.kind, one.name): one for one in content.board.marginals}

    def cell(base: str, task: str) -> HeatCell:
        page = found.get((base, task))
        if page is None:
            return HeatCell(None, states.get((base, task), "missing"), "unfinished")
        return HeatCell(page.row, "done", f"cell-{page.id}")

    return heat_map(
        content.tasks,
        content.bases,
        cell,
        of_task=lambda name: means.get(("task", name)),
        of_base=lambda name: means.get(("base", name)),
    )


def _interval(one: Marginal) -> Interval | None:
    if one.lift_low is None or one.lift_high is None:
        return None
    return Interval(one.lift, one.lift_low, one.lift_high)


def _ends(marginals: tuple[Marginal, ...]) -> list[float]:
    ends = [(one.lift, one.lift_low, one.lift_high) for one in marginals]
    return [value for three in ends for value in three if value is not None]
