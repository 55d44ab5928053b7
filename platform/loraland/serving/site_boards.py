"""A leaderboard and the states of its cells as the pages read them. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from loraland.evaluation.leaderboard import Leaderboard, Marginal, Row
from loraland.evaluation.samples import Sample
from loraland.evaluation.statistics import Interval
from loraland.matrix.ledger import CellStatus
from loraland.report.content import REASONS
from loraland.report.excerpt import RIGHT, Pair, clipped
from loraland.report.scale import step
from loraland.serving.site_models import (
    Answer,
    Board,
    BoardCell,
    BoardMean,
    BoardResult,
    BoardTask,
    Bounds,
    Published,
    SamplePair,
)
from loraland.serving.site_tasks import values_of
from loraland.tasks.catalogue import get_task


def board_of(
    made: Leaderboard,
    statuses: Sequence[CellStatus],
    description: str,
    title: str,
    left_out: int,
) -> Board:
    """The board of a study whose cells stand as told."""
    rows = {(row.base, row.task): row for row in made.rows}
    tasks = [get_task(name) for name in dict.fromkeys(one.cell.task for one in statuses)]
    return Board(
        space=made.name,
        title=title,
        description=description,
        bases=list(dict.fromkeys(one.cell.base_name for one in statuses)),
        tasks=[BoardTask(name=t.name, category=t.category, metric=t.metric) for t in tasks],
        finished=len(made.rows),
        claims=[str(claim) for claim in made.claims] if made.rows else [],
        cells=[_cell(one, rows.get((one.cell.base_name, one.cell.task))) for one in statuses],
        means=[_mean(one) for one in made.marginals],
        left_out=left_out,
    )


def sample_pair(task: str, pair: Pair) -> SamplePair:
    """The two answers to an item, long texts cut in the middle."""
    ours = pair.ours
    try:
        row = json.loads(ours.row)
    except ValueError:
        row = {}
    return SamplePair(
        item=ours.item,
        outcome=pair.outcome,
        prompt=clipped(ours.prompt),
        target=clipped(ours.target),
        values=values_of(get_task(task).for_split("test"), row) if isinstance(row, dict) else None,
        adapter=_answer(ours),
        base=_answer(pair.theirs),
    )


def _cell(status: CellStatus, row: Row | None) -> BoardCell:
    cell, failure = status.cell, status.failure
    reason = REASONS.get(status.state)
    if status.state == "failed":
        reason = "failed; the record says no more"
    if failure is not None:
        reason = f"{failure.code}: {clipped(failure.message)}"
    return BoardCell(
        id=cell.id,
        base=cell.base_name,
        task=cell.task,
        state=status.state,
        reason=reason,
        attempts=None if failure is None else failure.attempts,
        failed=None if failure is None else failure.failed,
        result=None if row is None else _result(row),
    )


def _result(row: Row) -> BoardResult:
    duel = row.against_base
    return BoardResult(
        model=row.model,
        metric=row.metric,
        items=row.items,
        score=_bounds(row.score),
        base_score=_bounds(duel.score),
        lift=_bounds(duel.lift),
        step=step(duel.lift.mean),
        p_value=duel.adjusted_p,
        verdict=duel.verdict,
        detectable=duel.detectable,
        unparsable=row.unparsable,
        base_unparsable=row.base_unparsable,
        failures=row.failures,
        marks=list(row.marks),
        published=_published(row),
    )


def _published(row: Row) -> Published | None:
    told = {name.removeprefix("report "): value for name, value in row.overlays.items()}
    if not {"tuned", "base", "gpt-4"} <= told.keys():
        return None
    lift = round(told["tuned"] - told["base"], 3)  # as printed
    return Published(
        tuned=told["tuned"], base=told["base"], lift=lift, step=step(lift), gpt4=told["gpt-4"]
    )


def _mean(one: Marginal) -> BoardMean:
    return BoardMean(
        kind=one.kind,
        name=one.name,
        cells=one.cells,
        score=one.score,
        base_score=one.base_score,
        lift=Bounds(mean=one.lift, low=one.lift_low, high=one.lift_high),
        step=step(one.lift),
        better=one.better,
        worse=one.worse,
    )


def _bounds(interval: Interval) -> Bounds:
    return Bounds(mean=interval.mean, low=interval.low, high=interval.high)


def _answer(sample: Sample) -> Answer:
    return Answer(
        output=clipped(sample.output),
        parsed=None if sample.parsed is None else clipped(sample.parsed),
        score=sample.score,
        right=sample.score >= RIGHT,
        tokens=sample.tokens,
        finish_reason=sample.finish_reason,
        failure=None if sample.failure is None else clipped(sample.failure),
        secondary=dict(sample.secondary),
    )
