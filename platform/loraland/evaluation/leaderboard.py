"""The matrix of a study: bases x tasks with scores, lifts and intervals, and what may be claimed.

Told the finished cells with their item scores; knows no storage, ledger, models or Ray. 'Adapter
beats base' is said only after correction over all comparisons of that kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, NamedTuple

from loraland.adapters.card import Score
from loraland.evaluation.comparison import Comparison, Means, Pairs, compare
from loraland.evaluation.significance import Correction, adjusted, resamples_for
from loraland.evaluation.statistics import CONFIDENCE, Interval, pooled_interval

Verdict = Literal["better", "worse", "undecided"]
ALPHA = round(1 - CONFIDENCE, 10)  # of all that is claimed
BASE = "base"  # the opponent that every adapter has
CORRECTIONS: dict[Correction, str] = {
    "holm": "Holm: the chance of any false claim",
    "bh": "Benjamini-Hochberg: the expected share of false claims",
}


class Judged(NamedTuple):
    """A finished cell as it comes in."""

    base: str
    task: str
    category: str
    model: str  # base/task@version
    score: Score
    opponents: Mapping[str, Pairs]  # `base` and endpoints by name, as far as samples are stored
    marks: tuple[str, ...] = ()


class Overlay(NamedTuple):
    """Figures of somebody else, shown beside ours and never tested against them."""

    name: str  # short, such as "report tuned"
    scores: Mapping[tuple[str, str], float]  # by base and task


class Duel(NamedTuple):
    """An adapter against one opponent on the same items."""

    ours: Interval  # score of the adapter
    score: Interval  # of the opponent
    lift: Interval  # adapter minus opponent
    units: int | None  # items that share no context; None without samples
    p_value: float | None  # None without samples: then nothing is claimed
    adjusted_p: float | None  # over all cells that met this opponent
    verdict: Verdict | None
    detectable: float | None  # least lift that this one comparison finds, at 80 % power
    detectable_corrected: float | None  # the same at the level of the correction's first step


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter."""

    base: str
    task: str
    category: str
    metric: str
    model: str
    items: int
    duels: Mapping[str, Duel]  # by opponent; always one with `base`
    unparsable: int
    base_unparsable: int
    failures: int
    marks: tuple[str, ...]
    overlays: Mapping[str, float]  # figures of others for this cell

    @property
    def against_base(self) -> Duel:
        """The comparison with its own base."""
        return self.duels[BASE]

    @property
    def score(self) -> Interval:
        """Of the adapter."""
        return self.against_base.ours


class Marginal(NamedTuple):
    """Some cells together, each with the same weight."""

    kind: Literal["all", "base", "task", "category"]
    name: str
    cells: int
    score: float
    base_score: float
    lift: float
    lift_low: float | None  # None when the samples of a cell are missing
    lift_high: float | None
    better: int  # cells whose adapter beats its base after correction
    worse: int


class Claim(NamedTuple):
    """How many adapters beat one opponent, after correction."""

    opponent: str
    better: int
    worse: int
    undecided: int
    untested: int  # cells without samples of both
    correction: Correction
    alpha: float
    uncorrected: int  # that would be called better without correction
    detectable: float | None  # least lift that the median comparison finds

    @property
    def tested(self) -> int:
        """Comparisons that the correction is over."""
        return self.better + self.worse + self.undecided

    def __str__(self) -> str:
        rule = f"{CORRECTIONS[self.correction]} is at most {self.alpha:.0%}"
        beaten = "their base" if self.opponent == BASE else self.opponent
        text = (
            f"{self.better} of {self.tested} adapters beat {beaten}, {self.worse} fall behind, "
            f"{self.undecided} are undecided ({rule}; uncorrected it would be {self.uncorrected})"
        )
        if self.detectable is not None:
            text += f"; the median comparison finds a lift of {self.detectable:.3f}, at 80 % power"
        if self.untested:
            text += f"; {self.untested} more have no samples and count for nothing"
        return text


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The finished cells of a study."""

    name: str
    cells: int  # of the study, finished or not
    rows: tuple[Row, ...]
    marginals: tuple[Marginal, ...]  # all, then bases, tasks and categories in their order
    claims: tuple[Claim, ...]  # against the base, then endpoints
    opponents: tuple[str, ...]
    overlays: tuple[str, ...]

    def of_kind(self, kind: str) -> list[Marginal]:
        """The marginals of one kind."""
        return [marginal for marginal in self.marginals if marginal.kind == kind]


def leaderboard(
    name: str,
    judged: Sequence[Judged],
    cells: int,
    *,
    correction: Correction = "holm",
    overlays: Sequence[Overlay] = (),
) -> Leaderboard:
    """The table of a study. `cells` is how many it has when it is finished."""
    opponents = tuple(dict.fromkeys([BASE, *(name for cell in judged for name in cell.opponents)]))
    duels = {one: _duels(one, judged, correction) for one in opponents}
    rows = tuple(
        Row(
            base=cell.base,
            task=cell.task,
            category=cell.category,
            metric=cell.score.metric,
            model=cell.model,
            items=cell.score.items,
            duels={one: found[n] for one, found in duels.items() if n in found},
            unparsable=cell.score.unparsable,
            base_unparsable=cell.score.base_unparsable,
            failures=cell.score.failures,
            marks=cell.marks,
            overlays={
                overlay.name: overlay.scores[cell.base, cell.task]
                for overlay in overlays
                if (cell.base, cell.task) in overlay.scores
            },
        )
        for n, cell in enumerate(judged)
    )
    return Leaderboard(
        name=name,
        cells=cells,
        rows=rows,
        marginals=tuple(_marginals(rows, judged)),
        claims=tuple(
            _claim(one, [row.duels.get(one) for row in rows], correction) for one in opponents
        ),
        opponents=opponents,
        overlays=tuple(overlay.name for overlay in overlays),
    )


def _duels(opponent: str, judged: Sequence[Judged], correction: Correction) -> dict[int, Duel]:
    """By number of the cell; of an endpoint only those cells that have its samples."""
    met = {
        n: cell.opponents[opponent] for n, cell in enumerate(judged) if opponent in cell.opponents
    }
    resamples = resamples_for(len(met), ALPHA)
    found = {
        n: compare(
            pairs,
            _known(judged[n].score) if opponent == BASE else None,
            resamples=resamples,
        )
        for n, pairs in met.items()
    }
    p_values = adjusted([one.test.p_value for one in found.values()], correction)
    duels = {
        n: _duel(comparison, p_value, len(found))
        for (n, comparison), p_value in zip(found.items(), p_values, strict=True)
    }
    if opponent == BASE:
        duels |= {n: _untested(cell.score) for n, cell in enumerate(judged) if n not in met}
    return duels


def _duel(found: Comparison, adjusted_p: float, tests: int) -> Duel:
    lift = found.means.lift
    better: Verdict = "better" if lift.mean > 0 else "worse"
    return Duel(
        ours=found.means.ours,
        score=found.means.theirs,
        lift=lift,
        units=found.units,
        p_value=found.test.p_value,
        adjusted_p=adjusted_p,
        verdict=better if adjusted_p <= ALPHA and lift.mean != 0 else "undecided",
        detectable=found.detectable(ALPHA),
        detectable_corrected=found.detectable(ALPHA / tests),
    )


def _untested(score: Score) -> Duel:
    known = _known(score)
    return Duel(*known, None, None, None, None, None, None)


def _known(score: Score) -> Means:
    return Means(
        Interval(score.mean, score.low, score.high),
        Interval(score.base_mean, score.base_low, score.base_high),
        Interval(score.lift, score.lift_low, score.lift_high),
    )


def _claim(opponent: str, duels: Sequence[Duel | None], correction: Correction) -> Claim:
    tested = [duel for duel in duels if duel is not None and duel.verdict is not None]
    verdicts = [duel.verdict for duel in tested]
    least = [duel.detectable for duel in tested if duel.detectable is not None]
    return Claim(
        opponent=opponent,
        better=verdicts.count("better"),
        worse=verdicts.count("worse"),
        undecided=verdicts.count("undecided"),
        untested=len(duels) - len(tested),
        correction=correction,
        alpha=ALPHA,
        uncorrected=sum(
            duel.p_value is not None and duel.p_value <= ALPHA and duel.lift.mean > 0
            for duel in tested
        ),
        detectable=median(least) if least else None,
    )


def _marginals(rows: Sequence[Row], judged: Sequence[Judged]) -> Iterable[Marginal]:
    if not rows:
        return
    pairs = [cell.opponents.get(BASE) for cell in judged]
    everything = list(range(len(rows)))
    yield _marginal("all", "all", everything, rows, pairs)
    for kind in ("base", "task", "category"):
        names = [str(getattr(row, kind)) for row in rows]
        for name in dict.fromkeys(names):
            members = [n for n in everything if names[n] == name]
            yield _marginal(kind, name, members, rows, pairs)


def _marginal(
    kind: Literal["all", "base", "task", "category"],
    name: str,
    members: Sequence[int],
    rows: Sequence[Row],
    pairs: Sequence[Pairs | None],
) -> Marginal:
    duels = [rows[n].against_base for n in members]
    low, high = _spread([(rows[n], pairs[n]) for n in members])
    return Marginal(
        kind=kind,
        name=name,
        cells=len(members),
        score=fmean(rows[n].score.mean for n in members),
        base_score=fmean(duel.score.mean for duel in duels),
        lift=fmean(duel.lift.mean for duel in duels),
        lift_low=low,
        lift_high=high,
        better=sum(duel.verdict == "better" for duel in duels),
        worse=sum(duel.verdict == "worse" for duel in duels),
    )


def _spread(cells: Sequence[tuple[Row, Pairs | None]]) -> tuple[float | None, float | None]:
    """How far the mean lift of these cells would move with other items of the same tasks.

    An item that adapters of several bases answered is one item.
    """
    if len(cells) == 1:
        return cells[0][0].against_base.lift[1:]
    groups = [
        (pairs.lifts, [(row.task, unit) for unit in pairs.units])
        for row, pairs in cells
        if pairs is not None
    ]
    if len(groups) < len(cells):
        return None, None
    return pooled_interval(groups)[1:]
