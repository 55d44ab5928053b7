"""How many clusters a superclass has: scores for each k, the choice, and the least a score must be.

The rule of the public code of GEORGE: the k from 2 on with the highest mean of cluster means of
silhouettes, the larger of two that tie. It never leaves a superclass whole; the floor is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loraland.strata.clusterer import Clustering, Points, cluster
from loraland.strata.settings import StrataSettings
from loraland.strata.silhouettes import mean_of_cluster_means, silhouettes

REFERENCE_POINTS = 1_000  # spread evenly, of each of the draws
REFERENCE_DRAWS = 3


class KScore(NamedTuple):
    """What clustering into k came to."""

    k: int  # as asked for
    clusters: int  # with points; 0: no clustering could be fitted
    score: float | None  # mean of cluster means of silhouettes; None: fewer than two clusters


class Scanned(NamedTuple):
    """A score with the clustering it is of."""

    score: KScore
    clustering: Clustering | None


def ks(points: int, settings: StrataSettings) -> range:
    """The numbers of clusters that are tried for so many points; none for fewer than three."""
    most = min(settings.max_k, points - 1)  # silhouettes need a cluster of two points
    return range(2 if settings.search_k else max(2, most), most + 1)


def score_k(points: Points, k: int, settings: StrataSettings) -> Scanned:
    """Cluster (n, c) points into k, and score that. The unit of work of a scan."""
    found = cluster(points, k, settings.clusterer, settings.starts, settings.seed)
    if found is None:
        return Scanned(KScore(k, 0, None), None)
    labels = found.predict(points)
    judged = silhouettes(points, labels, settings.silhouette_points, settings.seed)
    score = None if judged is None else mean_of_cluster_means(judged, labels)
    return Scanned(KScore(k, found.k, score), found)


def best_of(scanned: Sequence[Scanned]) -> Scanned | None:
    """The highest score, of ties the largest k; None when nothing could be scored."""
    best: Scanned | None = None
    for one in sorted(scanned, key=lambda each: each.score.k):
        if one.score.score is None:
            continue
        if best is None or one.score.score >= (best.score.score or -1.0):
            best = one
    return best


def floor_of(points: Points, settings: StrataSettings) -> float:
    """The least score for which a superclass is split.

    For "uniform" the mean best score of the same search on points spread evenly over a box with the
    covariance of these, as in the gap statistic (Tibshirani, Walther and Hastie 2001): what any
    search finds where there is nothing to find.
    """
    if settings.floor != "uniform":
        return float(settings.floor)
    exact = np.asarray(points, np.float64)
    spread = np.linalg.eigvalsh(np.atleast_2d(np.cov(exact.T)))  # variances along the axes
    sides = np.sqrt(12 * np.maximum(spread, 0.0))  # of a box with these variances
    draws = np.random.default_rng([settings.seed, 1])
    count = min(len(points), REFERENCE_POINTS)
    quick = settings.model_copy(update={"starts": 1})
    found = []
    for _ in range(REFERENCE_DRAWS):
        box = draws.uniform(-0.5, 0.5, (count, len(sides))) * sides
        best = best_of([score_k(box, k, quick) for k in ks(count, settings)])
        found.append(best.score.score if best is not None and best.score.score is not None else 0.0)
    return float(np.mean(found))
