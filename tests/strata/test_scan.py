"""The choice of k: scores, ties, the floor, and points that cannot be clustered."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from loraland.strata.clusterer import Clustering, cluster
from loraland.strata.scan import KScore, Scanned, best_of, floor_of, ks, score_k
from loraland.strata.settings import StrataSettings
from loraland.strata.silhouettes import mean_of_cluster_means, silhouettes

PLAIN = StrataSettings(reduction="none", normalise=False)
ONE = Clustering(np.zeros((1, 2)))


def blobs(*sizes: int, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return np.concatenate(
        [draws.normal((10.0 * number, 0.0), 1.0, (size, 2)) for number, size in enumerate(sizes)]
    )


def scored(k: int, score: float | None) -> Scanned:
    return Scanned(KScore(k, k, score), ONE)


def test_the_score_weighs_small_clusters_like_large_ones() -> None:
    points, labels = blobs(90, 10), np.repeat([0, 1], [90, 10])
    found = silhouettes(points, labels, 1_000, 0)
    assert found is not None
    theirs = silhouette_samples(points, labels)
    expected = (theirs[:90].mean() + theirs[90:].mean()) / 2
    assert mean_of_cluster_means(found, labels) == pytest.approx(expected)


def test_silhouettes_of_a_sample_are_near_those_of_all() -> None:
    points, labels = blobs(4_000, 2_000), np.repeat([0, 1], [4_000, 2_000])
    whole, part = (silhouettes(points, labels, most, 0) for most in (10_000, 500))
    assert whole is not None and part is not None and len(part.places) == 500
    ours, theirs = mean_of_cluster_means(part, labels), mean_of_cluster_means(whole, labels)
    assert ours == pytest.approx(theirs, abs=0.02)


@pytest.mark.parametrize("kind", ["gmm", "kmeans"])
@pytest.mark.parametrize("clusters", [2, 3, 4])
def test_the_number_of_clusters_is_found(kind: str, clusters: int) -> None:
    settings = PLAIN.model_copy(update={"clusterer": kind, "max_k": 6})
    points = blobs(*[80] * clusters)
    best = best_of([score_k(points, k, settings) for k in ks(len(points), settings)])
    assert best is not None and best.score.k == clusters


def test_of_scores_that_tie_the_larger_k_is_taken() -> None:
    best = best_of([scored(4, 0.5), scored(2, 0.5), scored(3, 0.4), scored(5, None)])
    assert best is not None and best.score.k == 4


def test_without_any_score_nothing_is_chosen() -> None:
    assert best_of([scored(2, None)]) is None and best_of([]) is None


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_points_without_strata_stay_below_the_floor(dimensions: int) -> None:
    draws = np.random.default_rng(dimensions)
    points = draws.normal(0, np.arange(1, dimensions + 1), (1_500, dimensions))
    best = best_of([score_k(points, k, PLAIN) for k in ks(len(points), PLAIN)])
    assert best is not None and best.score.score is not None
    assert best.score.score < floor_of(points, PLAIN)


def test_points_with_strata_pass_the_floor() -> None:
    points = blobs(400, 20)
    assert (score_k(points, 2, PLAIN).score.score or 0.0) > floor_of(points, PLAIN) + 0.1


def test_a_floor_that_is_a_number_is_that_number() -> None:
    assert floor_of(blobs(5), PLAIN.model_copy(update={"floor": 0.3})) == 0.3


def test_no_k_is_tried_that_silhouettes_cannot_judge() -> None:
    assert list(ks(4, PLAIN)) == [2, 3]
    assert list(ks(2, PLAIN)) == [] and list(ks(0, PLAIN)) == []
    assert list(ks(100, PLAIN)) == list(range(2, 11))
    assert list(ks(100, PLAIN.model_copy(update={"search_k": False}))) == [10]


@pytest.mark.parametrize("kind", ["gmm", "kmeans"])
def test_points_that_are_all_alike_have_no_score(kind: str) -> None:
    settings = PLAIN.model_copy(update={"clusterer": kind})
    found = score_k(np.ones((40, 2)), 3, settings)
    assert found.score.score is None
    assert found.clustering is None or found.clustering.k == 1


def test_fewer_points_than_clusters_are_no_clustering() -> None:
    assert cluster(np.zeros((3, 2)), 4, "kmeans", 1, 0) is None


def test_every_cluster_has_a_point() -> None:
    points = np.repeat(blobs(1, 1, 1), 20, axis=0)  # three places, twenty points each
    found = cluster(points, 6, "kmeans", 1, 0)
    assert found is not None and found.k == 3
    assert set(found.predict(points)) == {0, 1, 2}
