"""Decides whether an alias may move to a version: lift over its rival, and no guard that falls.

Told the answers of both models; knows no storage and no registry, and moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from loraland.adapters.card import SecondaryScore
from loraland.errors import InvalidConfiguration, did_you_mean
from loraland.evaluation.comparison import Comparison, headline
from loraland.evaluation.samples import Sample
from loraland.evaluation.statistics import mean_interval, paired_interval

SECONDARY = 0.02  # how far a secondary score may fall, on its own scale
# Tolerances for the rise of what should stay low. The first three are shares of the answers.
TOLERANCES = {
    "unparsable": 0.02,  # answers that the task's grader cannot read
    "failures": 0.0,  # answers that did not come
    "truncated": 0.02,  # answers that were cut at the task's limit of tokens
    "tokens": 0.25,  # growth of the mean length; only over another version, as bases ramble or stop
}

# What the first three are of an answer.
SHARES: dict[str, Callable[[Sample], float]] = {
    "unparsable": lambda sample: sample.parsed is None,
    "failures": lambda sample: sample.failure is not None,
    "truncated": lambda sample: sample.finish_reason == "length",
}

Over = Literal["auto", "base", "alias"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Gate(_Part):
    """What a version must show."""

    alias: str = "prod"
    over: Over = "auto"  # the rival: the alias's present version where there is one, or the base
    margin: float = Field(0.0, ge=-1, lt=1)  # that the lower bound of the lift must exceed
    tolerances: dict[str, Annotated[float, Field(ge=0)]] = {}  # by guard, in place of the defaults
    tasks: dict[str, Annotated[float, Field(ge=0)]] = {}  # other tasks, and how far each may fall


class Bounds(_Part):
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


class Guard(_Part):
    """Something that must not get worse by more than its tolerance."""

    name: str
    ours: float
    theirs: float
    worsening: float  # how much worse ours is; below zero where it is better
    low: float | None = None  # paired interval of the worsening; None for a relative one
    high: float | None = None
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the estimate stays within the tolerance.

        The estimate and not its bound: a bound would refuse every small exam whatever it says.
        """
        return self.worsening <= self.tolerance + 1e-9


class Evidence(_Part):
    """A file that a decision stands on."""

    path: str  # below the storage root
    sha256: str


class Decision(_Part):
    """Whether a version was let through, and all that this stands on."""

    format: Literal[1] = 1
    model: str  # base/task@version
    gate: Gate
    previous: str | None  # version that the alias named; None when there was no such alias
    rival: str | None  # version that the lift is over; None for the base
    metric: str
    items: int
    units: int  # items that share no context
    ours: Bounds
    theirs: Bounds
    lift: Bounds
    p_value: float
    test: str
    detectable: float | None  # lift that this many items find, at 80 % power
    guards: tuple[Guard, ...]
    evidence: tuple[Evidence, ...]
    promoted: bool
    reasons: tuple[str, ...]  # why not; empty when promoted
    decided: str  # ISO 8601, UTC


class _Measure(NamedTuple):
    """A guard before it is measured."""

    name: str
    of: Callable[[Sample], float]  # in [0, 1]
    lower_is_better: bool
    tolerance: float


def guards(
    gate: Gate,
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    secondary: Mapping[str, SecondaryScore],
    *,
    over_base: bool,
) -> list[Guard]:
    """All guards of a task, measured on the same items. `secondary` are its further scores.

    Raises InvalidConfiguration when the gate names one that does not exist.
    """
    tolerances = TOLERANCES | dict.fromkeys(secondary, SECONDARY)
    for name in gate.tolerances:
        if name not in tolerances:
            raise InvalidConfiguration(
                f"no guard is called '{name}'; {did_you_mean(name, tolerances)}"
            )
    tolerances |= gate.tolerances
    found = [
        _measured(_Measure(name, of, True, tolerances[name]), ours, theirs)
        for name, of in SHARES.items()
    ]
    found += [_of_secondary(name, one, tolerances[name]) for name, one in secondary.items()]
    if not over_base or "tokens" in gate.tolerances:
        found.append(_growth(ours, theirs, tolerances["tokens"]))
    return found


def task_guard(
    task: str, ours: Sequence[Sample], theirs: Sequence[Sample], tolerance: float
) -> Guard:
    """The score on another task, as a guard."""
    return _measured(_Measure(f"task {task}", headline, False, tolerance), ours, theirs)


def reasons_against(
    gate: Gate, comparison: Comparison, rival: str, found: Sequence[Guard]
) -> list[str]:
    """Why the alias may not move, a sentence each; none when it may. `rival` is for reading."""
    lift = comparison.means.lift
    reasons = []
    if lift.low <= gate.margin:
        reasons.append(
            f"the lift over {rival} is {lift.mean:+.3f} ({lift.low:+.3f} to {lift.high:+.3f}) on "
            f"{comparison.items} items; its lower bound must exceed {gate.margin:+.3f}"
        )
    reasons += [
        f"{guard.name} got worse by {guard.worsening:.3f} (from {guard.theirs:.3f} to "
        f"{guard.ours:.3f}); tolerated is {guard.tolerance:.3f}"
        for guard in found
        if not guard.holds
    ]
    return reasons


def _measured(measure: _Measure, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Guard:
    first = [float(measure.of(sample)) for sample in ours]
    second = [float(measure.of(sample)) for sample in theirs]
    if measure.lower_is_better:
        change = paired_interval(first, second)
    else:
        change = paired_interval(second, first)
    return Guard(
        name=measure.name,
        ours=mean_interval(first).mean,
        theirs=mean_interval(second).mean,
        worsening=change.mean,
        low=change.low,
        high=change.high,
        tolerance=measure.tolerance,
    )


def _growth(ours: Sequence[Sample], theirs: Sequence[Sample], tolerance: float) -> Guard:
    """How much longer answers are, as a share of the rival's."""
    first = sum(sample.tokens for sample in ours) / len(ours)
    second = sum(sample.tokens for sample in theirs) / len(theirs)
    worsening = (first - second) / max(second, 1.0)
    return Guard(name="tokens", ours=first, theirs=second, worsening=worsening, tolerance=tolerance)


def _of_secondary(name: str, found: SecondaryScore, tolerance: float) -> Guard:
    """A score that is not defined, such as a correlation of equal numbers, counts as 0."""
    ours, theirs = found.value or 0.0, found.base_value or 0.0
    return Guard(
        name=name,
        ours=ours,
        theirs=theirs,
        worsening=theirs - ours,
        low=None if found.lift_high is None else -found.lift_high,
        high=None if found.lift_low is None else -found.lift_low,
        tolerance=tolerance,
    )
