"""UMAP of training examples, and where unseen ones lie on that map.

An unseen example is put at the mean of its nearest training examples' places, weighed by 1 /
distance squared, which is where UMAP's own transform begins before it refines by random steps. So a
map is two arrays, the same after it was stored, and needs no umap-learn to be read.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from loraland.strata.features import Floats

SAME = 1e-5  # distance, as a share of the length, under which an example is taken for a stored one


def fit_map(
    values: Floats, components: int, neighbours: int, most: int, seed: int
) -> tuple[Floats, Floats]:
    """Fit UMAP on at most so many of (n, d) values; returns those and their (m, components) places.

    Distances of the original space only (min_dist 0), as published; one thread, so that a seed
    gives the same map again.
    """
    from umap import UMAP  # takes seconds to import, and reading a stored map does without

    drawn = values
    if len(values) > most:
        chosen = np.random.default_rng(seed).choice(len(values), most, replace=False)
        drawn = values[np.sort(chosen)]
    umap = UMAP(
        n_components=components,
        n_neighbors=neighbours,
        min_dist=0.0,
        random_state=seed,
        n_jobs=1,
        # The spectral start needs more points than a few; a random one always works.
        init="spectral" if len(drawn) > 4 * (components + 1) else "random",
    )
    # Its compiled loops set OpenMP's threads for all of the process, torch too, and leave it so.
    with warnings.catch_warnings(), threadpool_limits():
        warnings.simplefilter("ignore")  # on islands of the graph, which are what is looked for
        placed = umap.fit_transform(drawn)
    return np.array(drawn, np.float32), np.asarray(placed, np.float32)


def place_on_map(values: Floats, stored: Floats, placed: Floats, neighbours: int) -> Floats:
    """Places of (n, d) values on a map of (m, d) stored values: (n, components)."""
    index = NearestNeighbors(n_neighbors=min(neighbours, len(stored)), algorithm="brute")
    distances, nearest = index.fit(stored).kneighbors(values)  # (n, neighbours), ascending
    lengths = np.maximum(np.linalg.norm(values, axis=1), 1e-12)[:, None]
    is_same = distances <= SAME * lengths
    is_same[:, 1:] = False  # the nearest alone
    weights = 1.0 / np.maximum(distances, 1e-12) ** 2
    weights = np.where(is_same[:, :1], is_same.astype(np.float64), weights)
    weights /= weights.sum(1, keepdims=True)
    return np.asarray(np.einsum("nk,nkc->nc", weights, placed[nearest]), np.float32)
