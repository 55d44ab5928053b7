"""How a classifier fares on groups, and how well found strata agree with true subclasses. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loraland.errors import MetricUnavailable
from loraland.strata.features import Whole

Right = NDArray[np.bool_] | NDArray[np.float64]  # (n,)


class GroupScore(NamedTuple):
    """Accuracy on one group."""

    group: int
    examples: int
    accuracy: float


def group_scores(right: Right, groups: Whole) -> list[GroupScore]:
    """The accuracy of every group that has an example, ascending; a negative group is left out."""
    return [
        GroupScore(int(one), int((groups == one).sum()), float(np.mean(right[groups == one])))
        for one in np.unique(groups)
        if one >= 0
    ]


def worst(right: Right, groups: Whole) -> GroupScore:
    """The group with the least accuracy, of ties the larger. Raises MetricUnavailable."""
    scores = group_scores(right, groups)
    if not scores:
        raise MetricUnavailable("no group has an example to be judged on")
    return min(scores, key=lambda score: (score.accuracy, -score.examples))


def overall(
    right: Right, subclasses: Whole | None = None, train_subclasses: Whole | None = None
) -> float:
    """The accuracy over all examples; with subclasses of both, re-weighted to training's mix.

    Re-weighting is how the paper scores Waterbirds and U-MNIST, whose test mix differs. It uses
    proportions of true subclasses, which the method is not to know, so it is off unless both are
    given.
    """
    if subclasses is None or train_subclasses is None:
        return float(np.mean(right))
    return float(np.average(right, weights=mix_weights(subclasses, train_subclasses)))


def mix_weights(subclasses: Whole, train_subclasses: Whole) -> NDArray[np.float64]:
    """p_train(subclass) / p_here(subclass) of each example: (n,)."""
    count = int(max(subclasses.max(), train_subclasses.max())) + 1
    here = np.bincount(subclasses, minlength=count) / len(subclasses)
    there = np.bincount(train_subclasses, minlength=count) / len(train_subclasses)
    return np.asarray((there / np.where(here > 0, here, 1.0))[subclasses], np.float64)


class Found(NamedTuple):
    """The stratum that fits a true subclass best."""

    subclass: int
    prevalence: float  # share of the subclass in its superclass
    stratum: int
    precision: float  # share of the stratum that is of the subclass
    recall: float  # share of the subclass that is in the stratum

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def best_strata(strata: Whole, subclasses: Whole, superclasses: Whole) -> list[Found]:
    """For every true subclass the stratum with the highest F1 for it; ascending by subclass."""
    return [_best(int(one), strata, subclasses, superclasses) for one in np.unique(subclasses)]


def _best(subclass: int, strata: Whole, subclasses: Whole, superclasses: Whole) -> Found:
    members = subclasses == subclass
    siblings = superclasses == superclasses[np.flatnonzero(members)[0]]
    found = []
    for stratum in np.unique(strata[members]):
        here = strata == stratum
        both = float((here & members).sum())
        found.append(
            Found(
                subclass,
                float(members.sum() / siblings.sum()),
                int(stratum),
                both / float(here.sum()),
                both / float(members.sum()),
            )
        )
    return max(found, key=lambda one: one.f1)
