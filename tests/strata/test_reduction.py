"""Reductions: each against its definition, and examples that were not there at the fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from loraland.errors import DataRefused
from loraland.strata.features import Features, Floats
from loraland.strata.reduction import Reducer
from loraland.strata.settings import StrataSettings
from loraland.strata.umap_map import fit_map, place_on_map
from tests.strata.made_up import clouds, features

TRAIN, UNSEEN = clouds(), clouds(seed=1, split="test")


def placed(settings: StrataSettings, train: Features = TRAIN, other: Features = UNSEEN) -> Floats:
    reducer = Reducer.fit(train, 1, settings)
    here = other.of(1)
    return reducer.place(other.values[here], other.logits[here])


def test_no_reduction_leaves_features_as_they_are() -> None:
    found = placed(StrataSettings(reduction="none", normalise=False))
    assert np.array_equal(found, UNSEEN.values[UNSEEN.of(1)])


def test_normalised_features_have_length_one() -> None:
    found = placed(StrataSettings(reduction="none"))
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(found)), abs=1e-6)


def test_the_mean_of_training_is_subtracted_from_all() -> None:
    found = placed(StrataSettings(reduction="none", normalise=False, subtract_mean=True))
    expected = UNSEEN.values[UNSEEN.of(1)] - TRAIN.values.mean(0)
    assert np.allclose(found, expected, atol=1e-5)


def test_pca_is_scikit_learn_s_on_one_superclass() -> None:
    found = placed(StrataSettings(reduction="pca", components=3, normalise=False))
    pca = PCA(3, svd_solver="full").fit(TRAIN.values[TRAIN.of(1)].astype(np.float64))
    assert np.allclose(found, pca.transform(UNSEEN.values[UNSEEN.of(1)]), atol=1e-4)


def test_pca_has_no_more_components_than_there_are() -> None:
    assert placed(StrataSettings(reduction="pca", components=50)).shape[1] == 8


def test_hardness_is_the_distance_along_the_normal_of_the_boundary() -> None:
    found = placed(StrataSettings(reduction="hardness", components=1))
    assert np.allclose(found[:, 0], UNSEEN.values[UNSEEN.of(1), 0], atol=1e-5)


def test_hardness_without_the_last_layer_is_the_margin_of_the_logits() -> None:
    settings = StrataSettings(reduction="hardness", components=1)
    found = placed(settings, replace(TRAIN, head=None), replace(UNSEEN, head=None))
    with_head = placed(settings)
    assert np.corrcoef(found[:, 0], with_head[:, 0])[0, 1] == pytest.approx(1.0)
    with pytest.raises(DataRefused, match="rows of the last layer"):
        placed(StrataSettings(reduction="hardness"), replace(TRAIN, head=None))


def test_the_rest_of_hardness_does_not_see_the_normal() -> None:
    settings = StrataSettings(reduction="hardness", components=3, rest="pca")
    here = UNSEEN.of(1)
    moved = UNSEEN.values[here].copy()
    moved[:, 0] += 100.0
    reducer = Reducer.fit(TRAIN, 1, settings)
    before = reducer.place(UNSEEN.values[here], UNSEEN.logits[here])
    after = reducer.place(moved, UNSEEN.logits[here])
    assert np.allclose(after[:, 0] - before[:, 0], 100.0, atol=1e-3)
    assert np.allclose(after[:, 1:], before[:, 1:], atol=1e-3)


def test_a_last_layer_that_tells_no_classes_apart_has_no_hardness() -> None:
    alike = replace(TRAIN, head=np.ones((2, 8), np.float32))
    with pytest.raises(DataRefused, match="does not tell superclass 1"):
        placed(StrataSettings(reduction="hardness", components=1), alike)


def test_too_few_examples_for_umap_are_reduced_by_pca() -> None:
    few = features(np.random.default_rng(0).normal(size=(20, 8)), [0] * 10 + [1] * 10)
    reducer = Reducer.fit(few, 1, StrataSettings())
    assert reducer.map_values is None and reducer.pca_axes is not None
    assert reducer.place(few.values, few.logits).shape == (20, 2)


@pytest.mark.slow
def test_unseen_examples_lie_on_the_map_where_umap_itself_would_put_their_cluster() -> None:
    from umap import UMAP

    values, unseen = TRAIN.values[TRAIN.of(1)], UNSEEN.values[UNSEEN.of(1)]
    stored, places = fit_map(values, 2, 10, 10_000, seed=0)
    ours = place_on_map(unseen, stored, places, 10)
    umap = UMAP(n_neighbors=10, min_dist=0.0, random_state=0, n_jobs=1).fit(values)
    assert np.allclose(umap.embedding_, places)
    theirs = umap.transform(unseen)
    truth = TRAIN.subclasses[TRAIN.of(1)]  # type: ignore[index]
    centres = np.stack([places[truth == one].mean(0) for one in np.unique(truth)])
    nearest = [
        np.linalg.norm(found[:, None] - centres, axis=2).argmin(1) for found in (ours, theirs)
    ]
    assert np.mean(nearest[0] == nearest[1]) > 0.99
    truth_unseen = UNSEEN.subclasses[UNSEEN.of(1)]  # type: ignore[index]
    assert np.mean(nearest[0] == truth_unseen - truth_unseen.min()) > 0.97


def test_fitting_a_map_leaves_torch_its_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit_map(clouds(4, 40).values[:60], 2, 5, 100, seed=0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_an_example_of_the_fit_keeps_its_own_place() -> None:
    stored = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    places = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    assert np.allclose(place_on_map(stored, stored, places, 10), places, atol=1e-6)


def test_a_place_is_among_those_of_its_neighbours() -> None:
    stored = np.array([[0.0], [1.0], [10.0]], np.float32)
    places = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 50.0]], np.float32)
    found = place_on_map(np.array([[0.5]], np.float32), stored, places, neighbours=2)
    assert np.allclose(found, [[1.0, 0.0]])
