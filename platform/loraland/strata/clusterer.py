"""One clustering of points: a Gaussian mixture or k-means.

Fitted by scikit-learn and kept as arrays. Knows nothing of superclasses, or of how many clusters
there should be.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.mixture import GaussianMixture

from loraland.strata.features import Whole

Points = NDArray[Any]  # (n, components)


@dataclass(frozen=True, slots=True)
class Clustering:
    """Clusters that all have training points; c components each."""

    centres: NDArray[np.float64]  # (k, c)
    weights: NDArray[np.float64] | None = None  # (k,): of a mixture; None: k-means
    precisions: NDArray[np.float64] | None = None  # (k, c, c): Cholesky factors, of a mixture

    @property
    def k(self) -> int:
        """How many clusters there are."""
        return len(self.centres)

    def predict(self, points: Points) -> Whole:
        """The cluster of each of (n, c) points: (n,), 0..k-1."""
        exact = np.ascontiguousarray(points, np.float64)
        if not len(exact):
            return np.zeros(0, np.int64)
        if self.weights is None:
            return np.asarray(pairwise_distances_argmin(exact, self.centres), np.int64)
        mixture = GaussianMixture(self.k, covariance_type="full")
        mixture.weights_, mixture.means_ = self.weights, self.centres
        mixture.precisions_cholesky_ = self.precisions
        return np.asarray(mixture.predict(exact), np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there is to store."""
        found = {"centres": self.centres, "weights": self.weights, "precisions": self.precisions}
        return {name: array for name, array in found.items() if array is not None}


def cluster(
    points: Points, k: int, kind: Literal["gmm", "kmeans"], starts: int, seed: int
) -> Clustering | None:
    """The best of some seeded starts; clusters without a point are left out.

    None when there are fewer points than clusters, or no mixture fits such points.
    """
    if len(points) < k:
        return None
    exact = np.ascontiguousarray(points, np.float64)
    with warnings.catch_warnings():
        # Points that are alike give fewer clusters than asked for, which we count ourselves.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if kind == "kmeans":
            means = KMeans(k, n_init=starts, random_state=seed).fit(exact)
            return _without_empty(Clustering(means.cluster_centers_.astype(np.float64)), exact)
        try:
            mixture = GaussianMixture(k, n_init=starts, random_state=seed).fit(exact)
        except ValueError:  # a covariance that cannot be inverted
            return None
    found = Clustering(mixture.means_, mixture.weights_, mixture.precisions_cholesky_)
    return _without_empty(found, exact)


def _without_empty(found: Clustering, points: Points) -> Clustering:
    """Only clusters that some point falls to; every point keeps its cluster."""
    used = np.unique(found.predict(points))
    if len(used) == found.k:
        return found
    if found.weights is None or found.precisions is None:
        return Clustering(found.centres[used])
    return Clustering(found.centres[used], found.weights[used], found.precisions[used])
