"""Two models on the same items: scores, lift, a paired test, and what it could have found.

Told the samples of both; knows no storage, no registry and no other comparison.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loraland.evaluation.samples import Sample
from loraland.evaluation.significance import PairedTest, minimum_detectable_lift, paired_test
from loraland.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    Values,
    effective_items,
    mean_interval,
    paired_interval,
    shared_units,
)

# Column whose text several items of a task share. Items of any task with the same prompt share it.
CONTEXTS = {
    "boolq": "passage",
    "drop": "passage",
    "glue_mnli": "premise",
    "glue_qnli": "sentence",
    "glue_wnli": "sentence1",
    "wikisql": "table",
}


class Pairs(NamedTuple):
    """What two models scored on the same items, in one order."""

    ours: Values  # (items,)
    theirs: Values  # (items,)
    units: tuple[str, ...]  # items of one unit share a context

    @property
    def lifts(self) -> Values:
        """Ours minus theirs, an item each."""
        return self.ours - self.theirs


class Means(NamedTuple):
    """Scores of two models and the lift between them, with intervals."""

    ours: Interval
    theirs: Interval
    lift: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours against theirs."""

    items: int
    units: int  # groups of items that share a context; as many as items where none do
    means: Means
    test: PairedTest
    effective_items: float  # independent ones that would tell the lift as precisely
    discordance: float  # mean squared difference of the pairs

    def detectable(self, alpha: float = 1 - CONFIDENCE) -> float | None:
        """The least lift that this comparison finds with 80 % power; None: no lift is enough."""
        return minimum_detectable_lift(self.effective_items, self.discordance, alpha)


def headline(sample: Sample) -> float:
    """The score that a task is judged by."""
    return sample.score


def same_items(ours: Sequence[Sample], theirs: Sequence[Sample]) -> bool:
    """Whether two models were asked the same, in the same order."""
    return [sample.prompt for sample in ours] == [sample.prompt for sample in theirs]


def pair(task: str, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Pairs:
    """The scores of two models on one task. Raises ValueError when the items are not the same."""
    if not same_items(ours, theirs):
        raise ValueError(f"the two models answered different items of task '{task}'")
    return Pairs(
        np.array([headline(sample) for sample in ours]),
        np.array([headline(sample) for sample in theirs]),
        tuple(_context(task, sample) for sample in ours),
    )


def compare(
    pairs: Pairs,
    known: Means | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Hold two models against each other.

    `known` are intervals that were computed before, as if no items shared a context; they are taken
    where that is so. `resamples` are of the paired test. Raises ValueError without items.
    """
    ours, theirs, units = pairs.ours, pairs.theirs, pairs.units
    if known is None or shared_units(ours, units) is not None:
        known = Means(
            mean_interval(ours.tolist(), confidence, units),
            mean_interval(theirs.tolist(), confidence, units),
            paired_interval(ours.tolist(), theirs.tolist(), confidence, units),
        )
    return Comparison(
        items=len(ours),
        units=len(set(units)),
        means=known,
        test=paired_test(ours.tolist(), theirs.tolist(), units, resamples),
        effective_items=effective_items(pairs.lifts, units),
        discordance=float(np.mean(pairs.lifts**2)),
    )


def _context(task: str, sample: Sample) -> str:
    """What tells which other items of the task are no independent evidence."""
    column = CONTEXTS.get(task)
    if column is None:
        return sample.prompt
    return str(json.loads(sample.row).get(column, sample.prompt))
