"""The strata of one superclass: how they are found, and how unseen examples are routed to them.

Three steps, each a pure function of arrays and settings, so that they may run anywhere: reduce,
score every k, divide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loraland.strata.clusterer import Clustering, Points
from loraland.strata.features import Features, Floats, Whole
from loraland.strata.overclustering import Part, judge, part_labels, relabelling, split
from loraland.strata.reduction import Reducer
from loraland.strata.scan import KScore, Scanned, best_of, floor_of
from loraland.strata.settings import StrataSettings


class Reduced(NamedTuple):
    """A superclass with its reduction fitted."""

    reducer: Reducer
    train: Floats  # (n, components)
    validation: Floats  # (m, components)
    floor: float  # least score for a split


class Decision(NamedTuple):
    """Why a superclass has the strata it has."""

    superclass: int
    train_count: int
    validation_count: int
    scores: tuple[KScore, ...]  # none where k was not searched
    floor: float
    base_clusters: int  # before parts were kept; 1: left whole
    whole_because: str | None  # None: it was split
    parts: tuple[Part, ...]  # of the over-clustering, kept and rejected, with reasons
    train_counts: tuple[int, ...]  # of its strata
    validation_counts: tuple[int, ...]  # may hold zeros: such strata are not estimated there


@dataclass(frozen=True, slots=True)
class SuperclassStrata:
    """How examples of one superclass are routed."""

    reducer: Reducer
    base: Clustering | None  # None: left whole
    parts: tuple[Clustering | None, ...]  # of each base cluster; empty: not over-clustered
    strata: Whole  # (k,) or (factor * k,): the stratum of each cluster or part, from 0
    factor: int  # parts of a cluster

    @property
    def count(self) -> int:
        """How many strata there are."""
        return int(self.strata.max()) + 1

    def assign(self, points: Points) -> Whole:
        """The stratum of each of (n, components) points, from 0: (n,)."""
        if self.base is None:
            return np.zeros(len(points), np.int64)
        labels = self.base.predict(points)
        if self.parts:
            labels = part_labels(points, labels, self.parts, self.factor)
        return self.strata[labels]


def reduce(
    train: Features, validation: Features, superclass: int, settings: StrataSettings
) -> Reduced:
    """Fit the reduction of one superclass and place its examples. Raises DataRefused."""
    reducer = Reducer.fit(train, superclass, settings)
    here, there = (split.of(superclass) for split in (train, validation))
    points = reducer.place(train.values[here], train.logits[here])
    seen = points[:0]
    if len(there):
        seen = reducer.place(validation.values[there], validation.logits[there])
    is_whole = superclass in settings.leave_whole or len(points) < 3
    return Reduced(reducer, points, seen, 0.0 if is_whole else floor_of(points, settings))


def divide(
    reduced: Reduced, losses: Floats, scanned: Sequence[Scanned], settings: StrataSettings
) -> tuple[SuperclassStrata, Decision]:
    """Choose k and keep what stands out; `losses` are those of the training points."""
    superclass = reduced.reducer.superclass
    scores = tuple(one.score for one in sorted(scanned, key=lambda each: each.score.k))
    best = best_of(scanned)
    why = _whole_because(superclass, reduced, best, settings)
    if why is not None or best is None or best.clustering is None:
        found = SuperclassStrata(reduced.reducer, None, (), np.zeros(1, np.int64), settings.factor)
        return found, _decision(found, reduced, scores, why, ())
    base, points = best.clustering, reduced.train
    labels = base.predict(points)
    if not settings.overcluster:
        found = SuperclassStrata(reduced.reducer, base, (), np.arange(base.k), settings.factor)
        return found, _decision(found, reduced, scores, None, ())
    clusterings = split(points, labels, base, settings)
    parted = part_labels(points, labels, clusterings, settings.factor)
    there = part_labels(
        reduced.validation, base.predict(reduced.validation), clusterings, settings.factor
    )
    parts = judge(points, losses, labels, parted, there, settings)
    strata = relabelling(base, parted, parts, settings.factor)
    found = SuperclassStrata(reduced.reducer, base, tuple(clusterings), strata, settings.factor)
    return found, _decision(found, reduced, scores, None, tuple(parts))


def _whole_because(
    superclass: int, reduced: Reduced, best: Scanned | None, settings: StrataSettings
) -> str | None:
    if superclass in settings.leave_whole:
        return "the settings leave it whole"
    if len(reduced.train) < 3:
        return f"{len(reduced.train)} training examples are too few to cluster"
    if best is None or best.score.score is None:
        return "no clustering of its examples has two clusters; they may all be alike"
    if settings.search_k and best.score.score < reduced.floor:
        return (
            f"the best score {best.score.score:.3f} (k = {best.score.k}) is below "
            f"{reduced.floor:.3f}, which points without strata reach"
        )
    return None


def _decision(
    found: SuperclassStrata,
    reduced: Reduced,
    scores: tuple[KScore, ...],
    why: str | None,
    parts: tuple[Part, ...],
) -> Decision:
    counts = [
        tuple(np.bincount(found.assign(points), minlength=found.count).tolist())
        for points in (reduced.train, reduced.validation)
    ]
    return Decision(
        reduced.reducer.superclass,
        len(reduced.train),
        len(reduced.validation),
        scores,
        reduced.floor,
        1 if found.base is None else found.base.k,
        why,
        parts,
        *counts,
    )
