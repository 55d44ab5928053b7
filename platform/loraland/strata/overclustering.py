"""Splits clusters further and keeps the parts that stand out: the small strata.

The four rules of the public code of GEORGE: a part is kept when it is better separated than its
points were, no easier than its parent, and large enough in training and in validation. Whatever is
left of a parent is one stratum again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loraland.strata.clusterer import Clustering, Points, cluster
from loraland.strata.features import Floats, Whole
from loraland.strata.settings import StrataSettings
from loraland.strata.silhouettes import silhouettes


class Part(NamedTuple):
    """A part of a base cluster, what is known of it, and why it was kept or not."""

    parent: int  # base cluster
    part: int  # factor * parent + its number within the parent
    silhouette: float | None  # mean over its points, under the parts; None: none was sampled
    silhouette_before: float | None  # of the same points, under the base clusters
    loss: float  # mean, nats
    parent_loss: float
    train_count: int
    validation_count: int
    reasons: tuple[str, ...]  # against it; none: kept

    @property
    def is_kept(self) -> bool:
        """Whether it is a stratum of its own."""
        return not self.reasons


def split(
    points: Points, labels: Whole, base: Clustering, settings: StrataSettings
) -> list[Clustering | None]:
    """Each base cluster clustered again on its (n, c) training points; None: too few points."""
    return [
        cluster(
            points[labels == parent],
            settings.factor,
            settings.clusterer,
            settings.starts,
            settings.seed,
        )
        for parent in range(base.k)
    ]


def part_labels(
    points: Points, labels: Whole, parts: Sequence[Clustering | None], factor: int
) -> Whole:
    """factor * base cluster + part, for points of known base clusters: (n,)."""
    found = labels * factor
    for parent, clustering in enumerate(parts):
        members = labels == parent
        if clustering is not None and members.any():
            found[members] += clustering.predict(points[members])
    return found


def judge(
    points: Points,
    losses: Floats,
    labels: Whole,
    parted: Whole,
    validation_parted: Whole,
    settings: StrataSettings,
) -> list[Part]:
    """Every part of every base cluster that was split, in order."""
    size, seed = settings.silhouette_points, settings.seed
    after, before = silhouettes(points, parted, size, seed), silhouettes(points, labels, size, seed)
    least = max(settings.least_share * len(points), settings.least_count)
    found = []
    for part in np.unique(parted):
        members, parent = parted == part, int(part) // settings.factor
        if (siblings := labels == parent).sum() == members.sum():
            continue  # the parent was not split
        fit = None if after is None else after.mean_where(members)
        # With one base cluster there is nothing to be far from.
        fit_before = 0.0 if before is None else before.mean_where(members)
        facts = Part(
            parent,
            int(part),
            fit,
            fit_before,
            float(losses[members].mean()),
            float(losses[siblings].mean()),
            int(members.sum()),
            int((validation_parted == part).sum()),
            (),
        )
        found.append(facts._replace(reasons=_reasons(facts, least, settings.least_count)))
    return found


def _reasons(part: Part, least_train: float, least_validation: int) -> tuple[str, ...]:
    reasons = []
    if part.silhouette is None or part.silhouette_before is None:
        reasons.append("none of its points is in the sample that silhouettes are computed on")
    elif part.silhouette <= (bar := max(part.silhouette_before, 0.0)):
        reasons.append(f"silhouette {part.silhouette:.3f} is not above {bar:.3f}")
    if part.loss < part.parent_loss:
        reasons.append(f"loss {part.loss:.3f} is below its parent's {part.parent_loss:.3f}")
    if part.train_count < least_train:
        reasons.append(f"{part.train_count} training examples, fewer than {least_train:g}")
    if part.validation_count < least_validation:
        reasons.append(
            f"{part.validation_count} validation examples, fewer than {least_validation}"
        )
    return tuple(reasons)


def relabelling(base: Clustering, parted: Whole, parts: Sequence[Part], factor: int) -> Whole:
    """From every part to its stratum, counted from 0: (factor * k,).

    A parent's rest comes first, then its kept parts; a part that has no training point goes to the
    rest, or where all are kept, to the first of them.
    """
    kept = {part.part for part in parts if part.is_kept}
    seen = set(np.unique(parted).tolist())
    found, following = np.zeros(factor * base.k, np.int64), 0
    for parent in range(base.k):
        mine = range(factor * parent, factor * (parent + 1))
        rest = following
        following += any(part in seen and part not in kept for part in mine)
        for part in mine:
            found[part] = rest
            if part in kept:
                found[part] = following
                following += 1
    return found
