"""How well points fit their own cluster, on a seeded sample where there are many. Pure numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.metrics import silhouette_samples

from loraland.strata.clusterer import Points
from loraland.strata.features import Whole

WORKING_MIB = 128  # of distances that are held at a time


class Silhouettes(NamedTuple):
    """Silhouettes of a sample of the points under one labelling."""

    places: Whole  # (m,): which points, ascending
    values: NDArray[np.float64]  # (m,): -1..1; 0 for a point alone in its cluster

    def mean_where(self, members: NDArray[np.bool_]) -> float | None:
        """The mean over the members of (n,) that are in the sample; None when none is."""
        chosen = self.values[members[self.places]]
        return float(chosen.mean()) if len(chosen) else None


def silhouettes(points: Points, labels: Whole, most: int, seed: int) -> Silhouettes | None:
    """Euclidean silhouettes; the sample is the same for all labellings of the same points.

    None when the sample has fewer than two clusters, or nothing but single points.
    """
    places = np.arange(len(points))
    if len(points) > most:
        chosen = np.random.default_rng(seed).choice(len(points), most, replace=False)
        places = np.sort(chosen)
    clusters = len(np.unique(labels[places]))
    if not 2 <= clusters < len(places):
        return None
    with sklearn.config_context(working_memory=WORKING_MIB):
        values = silhouette_samples(np.asarray(points[places], np.float64), labels[places])
    return Silhouettes(places, values)


def mean_of_cluster_means(found: Silhouettes, labels: Whole) -> float:
    """The unweighted mean over clusters of each one's mean silhouette: small ones count alike."""
    sampled = labels[found.places]
    return float(np.mean([found.values[sampled == one].mean() for one in np.unique(sampled)]))
