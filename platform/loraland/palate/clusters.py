"""Palates as a mixture of Gaussians: EM started from k-means, with memberships that are soft.

In some tens of dimensions a mixture is certain of everything, so its log odds are divided by a
temperature: the one by which a description that lost a third of its words best tells the palate of
the whole. Told places and labels; knows no words and no people.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from loraland.palate.catalogue import Floats, Ints
from loraland.palate.features import Vectors

TEMPERATURES = (1.0, 200.0)


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How clusters are found; covariances are diagonal."""

    # Added to every variance, whose mean is about 0.012. With 1e-4, EM leaves the centres of
    # k-means for whatever dimension happens not to vary (docs/palate.md has the figures).
    regularisation: float = 5e-3
    starts: int = 10  # of k-means++
    steps: int = 60  # of EM, at most
    thinned: float = 1 / 3  # share of words taken away to find the temperature


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture; `k` components in `d` dimensions."""

    weights: Floats  # (k,) sums to 1
    means: Floats  # (k, d)
    variances: Floats  # (k, d)
    centres: Floats  # (k, d) of the k-means that EM started from
    temperature: float
    bic: float  # per item; lower is better

    def log_odds(self, places: Vectors) -> Floats:
        """(items, k) log weight + log density, before the temperature."""
        precision = 1 / self.variances
        constant = (
            np.log(np.maximum(self.weights, 1e-300))
            - 0.5 * np.sum(np.log(2 * np.pi * self.variances), axis=1)
            - 0.5 * np.sum(self.means**2 * precision, axis=1)
        )
        wide = places.astype(np.float64)
        square = (wide**2) @ (-0.5 * precision).T
        return np.asarray(square + wide @ (self.means * precision).T + constant)

    def memberships(self, places: Vectors) -> Vectors:
        """(items, k) p(c|w), rows sum to 1."""
        return np.asarray(softmax(self.log_odds(places) / self.temperature, axis=1), np.float32)

    def nearest_centre(self, places: Vectors) -> Ints:
        """(items,) hard palates by k-means alone, for comparison."""
        distance = np.sum(self.centres**2, axis=1) - 2 * places @ self.centres.T
        return np.asarray(distance.argmin(axis=1), dtype=np.int64)


def fit_mixture(
    places: Vectors, k: int, settings: ClusterSettings, seed: int = 0, start: Any = None
) -> Mixture:
    """K-means, then EM from its centres (`start`, (k, d), in place of k-means). Temperature 1."""
    if start is None:
        start = kmeans_centres(places, k, settings.starts, seed)
    labels = KMeans(k, init=start, n_init=1, max_iter=1).fit_predict(places)
    counts = np.bincount(labels, minlength=k)
    whole = places.var(axis=0)
    spread = [places[labels == c].var(axis=0) if counts[c] > 1 else whole for c in range(k)]
    variances = np.asarray(spread, dtype=np.float64) + settings.regularisation
    model = GaussianMixture(
        k,
        covariance_type="diag",
        reg_covar=settings.regularisation,
        max_iter=settings.steps,
        means_init=start,
        weights_init=np.maximum(counts, 1) / np.maximum(counts, 1).sum(),
        precisions_init=1 / variances,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some steps less change little
        model.fit(places)
    return Mixture(
        np.asarray(model.weights_, dtype=np.float64),
        np.asarray(model.means_, dtype=np.float64),
        np.asarray(model.covariances_, dtype=np.float64),
        np.asarray(start, dtype=np.float64),
        1.0,
        float(model.bic(places)) / len(places),
    )


def kmeans_centres(places: Vectors, k: int, starts: int, seed: int) -> Floats:
    """(k, d) of the best of several starts."""
    return np.asarray(KMeans(k, n_init=starts, random_state=seed).fit(places).cluster_centers_)


def calibrated(mixture: Mixture, thinned: Vectors, palate: Ints) -> float:
    """The temperature by which thinned descriptions tell the palates of the whole ones best.

    Temperature scaling of Guo et al. (2017), arXiv 1706.04599: least negative log-likelihood.
    """
    odds = mixture.log_odds(thinned)
    rows = np.arange(len(odds))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(odds / np.exp(log_temperature), axis=1)
        return float(-scaled[rows, palate].mean())

    bounds = tuple(np.log(TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def thin(documents: list[list[str]], share: float, seed: int) -> list[list[str]]:
    """Documents without a random `share` of their words."""
    draws = np.random.default_rng(seed)
    kept: list[NDArray[np.bool_]] = [draws.random(len(words)) >= share for words in documents]
    return [
        [word for word, stays in zip(words, keep, strict=True) if stays]
        for words, keep in zip(documents, kept, strict=True)
    ]
