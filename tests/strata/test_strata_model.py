"""Strata end to end: found, assigned, explained, stored."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loraland.errors import DataRefused, StorageCorrupt
from loraland.storage import Storage
from loraland.strata.features import Features
from loraland.strata.groups import numbered
from loraland.strata.metrics import best_strata
from loraland.strata.model import StrataModel, fit_strata
from loraland.strata.settings import StrataSettings
from tests.strata.made_up import clouds, features

PLAIN = StrataSettings(reduction="none", normalise=False, max_k=5, floor=0.0, starts=1)
TRAIN, VALIDATION, TEST = clouds(), clouds(seed=1, split="validation"), clouds(seed=2, split="test")
REDUCTIONS: list[dict[str, Any]] = [
    {"reduction": "none"},
    {"reduction": "pca"},
    {"reduction": "pca", "clusterer": "kmeans"},
    {"reduction": "hardness", "components": 2, "rest": "pca"},
    pytest.param({"reduction": "umap"}, marks=pytest.mark.slow),
    pytest.param({"reduction": "umap", "pca_first": 4, "umap_points": 100}, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def model() -> StrataModel:
    return fit_strata(TRAIN, VALIDATION, PLAIN)


def agreement(strata: np.ndarray, truth: Features) -> float:
    """The least F1 with which a true subclass was found."""
    assert truth.subclasses is not None
    return min(found.f1 for found in best_strata(strata, truth.subclasses, truth.superclasses))


@pytest.mark.parametrize("changes", REDUCTIONS)
def test_known_clouds_are_found_in_unseen_examples_too_and_after_a_reload(
    changes: dict[str, Any], tmp_path: Any
) -> None:
    model = fit_strata(TRAIN, VALIDATION, PLAIN.model_copy(update=changes))
    assert agreement(model.assign(TRAIN), TRAIN) > 0.9
    assert agreement(model.assign(TEST), TEST) > 0.9
    storage = Storage.open(str(tmp_path))
    model.save(storage, "strata/a")
    again = StrataModel.load(storage, "strata/a")
    assert np.array_equal(again.assign(TEST), model.assign(TEST))
    assert np.array_equal(again.place(TEST), model.place(TEST))
    assert again.decisions == model.decisions and again.settings == model.settings
    assert not [name for name in storage.names("strata/a") if name.endswith((".pkl", ".joblib"))]


def test_strata_of_superclasses_are_numbered_on(model: StrataModel) -> None:
    assert model.offsets == {0: 0, 1: 2} and model.count == 5
    assert model.superclass_of.tolist() == [0, 0, 1, 1, 1]
    assert np.array_equal(model.superclass_of[model.assign(TEST)], TEST.superclasses)


def test_decisions_count_every_stratum_and_give_scores_for_every_k(model: StrataModel) -> None:
    for decision in model.decisions:
        assert [score.k for score in decision.scores] == [2, 3, 4, 5]
        assert sum(decision.train_counts) == decision.train_count
        assert sum(decision.validation_counts) == decision.validation_count
        assert decision.whole_because is None and len(decision.parts) > 0
    assigned = np.bincount(model.assign(TRAIN)).tolist()
    assert assigned == [n for decision in model.decisions for n in decision.train_counts]


def test_a_small_hard_part_of_a_cluster_becomes_a_stratum() -> None:
    draws = np.random.default_rng(0)
    near = [draws.normal((4, 0), 1, (300, 2)), draws.normal((4, 9), 0.3, (40, 2))]
    far = draws.normal((60, 0), 1, (300, 2))
    other = draws.normal((-9, 0), 1, (600, 2))
    values = np.concatenate([*near, far, other])
    truth = np.repeat([0, 1, 2, 3], [300, 40, 300, 600])
    losses = np.where(truth == 1, 3.0, 0.1)
    train = features(values, (truth < 3).astype(int), truth, losses=losses)
    settings = PLAIN.model_copy(update={"max_k": 2, "clusterer": "kmeans"})
    model = fit_strata(train, replace(train, split="validation"), settings)
    found = best_strata(model.assign(train), truth, train.superclasses)[1]
    assert found.precision > 0.9 and found.recall > 0.9
    whole = fit_strata(train, train, settings.model_copy(update={"overcluster": False}))
    assert best_strata(whole.assign(train), truth, train.superclasses)[1].precision < 0.2


def test_a_superclass_without_strata_stays_whole_and_its_decision_says_why() -> None:
    draws = np.random.default_rng(1)
    values = np.concatenate([draws.normal((-9, 0), 1, (300, 2)), TRAIN.values[TRAIN.of(1)][:, :2]])
    train = features(values, [0] * 300 + [1] * 360)
    model = fit_strata(train, train, PLAIN.model_copy(update={"floor": "uniform"}))
    assert model.offsets == {0: 0, 1: 1} and model.count == 4
    assert "below" in str(model.decisions[0].whole_because)
    published = fit_strata(train, train, PLAIN)
    assert published.decisions[0].base_clusters >= 2  # the paper's rule always splits


def test_superclasses_that_settings_leave_whole_are_not_looked_at() -> None:
    model = fit_strata(TRAIN, VALIDATION, PLAIN.model_copy(update={"leave_whole": (1,)}))
    assert model.count == 3 and model.decisions[1].scores == ()
    assert model.decisions[1].whole_because == "the settings leave it whole"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_fewer_points_than_clusters_fall_back_to_fewer_clusters(count: int) -> None:
    places = np.concatenate([TRAIN.of(0), TRAIN.of(1)[:count]])
    train = TRAIN.take(places)
    model = fit_strata(train, VALIDATION, PLAIN)
    decision = model.decisions[1]
    assert len(decision.scores) == max(0, min(4, count - 2))
    assert decision.train_counts[0] >= 1 and sum(decision.train_counts) == count
    if count < 3:
        assert f"{count} training examples are too few" in str(decision.whole_because)
    assert len(model.assign(TEST)) == len(TEST)


def test_examples_that_are_all_alike_are_one_stratum() -> None:
    values = np.concatenate([np.full((50, 2), -3.0), np.full((50, 2), 3.0)])
    train = features(values, [0] * 50 + [1] * 50)
    for kind in ("gmm", "kmeans"):
        model = fit_strata(train, train, PLAIN.model_copy(update={"clusterer": kind}))
        assert model.count == 2
        assert "may all be alike" in str(model.decisions[0].whole_because)


def test_a_cluster_without_validation_examples_is_a_stratum_without_an_estimate() -> None:
    some = VALIDATION.subclasses != 4  # type: ignore[operator]
    model = fit_strata(TRAIN, VALIDATION.take(np.flatnonzero(some)), PLAIN)
    counts = [n for decision in model.decisions for n in decision.validation_counts]
    assert sorted(counts) == [0, 120, 120, 120, 120] and model.count == 5
    assert all(n > 0 for decision in model.decisions for n in decision.train_counts)


def test_a_superclass_without_validation_examples_keeps_no_small_parts() -> None:
    draws = np.random.default_rng(0)
    two = features(draws.normal(0, 1, (300, 2)), [0] * 100 + [1] * 200)
    three = replace(
        two,
        logits=np.zeros((300, 3), np.float32),
        superclasses=np.repeat([0, 1, 2], 100).astype(np.int64),
        head=None,
    )
    there = replace(three.take(np.arange(200)), split="validation")
    model = fit_strata(three, there, PLAIN)
    assert model.decisions[2].validation_count == 0
    assert all(not part.is_kept for part in model.decisions[2].parts)


def test_a_group_that_only_validation_has_is_left_out_of_training() -> None:
    train, validation = numbered(np.array([0, 2, 2, 5]), np.array([0, 1, 5, 9]))
    assert train.tolist() == [0, 1, 1, 2] and validation.tolist() == [0, -1, 2, -1]


def test_features_of_another_classifier_are_refused(model: StrataModel) -> None:
    with pytest.raises(DataRefused, match="8 and 2"):
        model.assign(clouds(width=5))
    with pytest.raises(DataRefused, match="same classifier"):
        fit_strata(TRAIN, clouds(width=5), PLAIN)


def test_a_superclass_that_was_never_trained_on_has_no_strata() -> None:
    three = np.zeros((len(TRAIN), 3), np.float32)
    train = replace(TRAIN, logits=three, head=None)
    model = fit_strata(train, train, PLAIN)
    other = replace(train, superclasses=np.where(train.superclasses == 1, 2, 0).astype(np.int64))
    with pytest.raises(DataRefused, match=r"superclasses \[2\].*known of \[0, 1\]"):
        model.assign(replace(other, subclasses=None))


def test_the_same_seed_finds_the_same_strata() -> None:
    settings = PLAIN.model_copy(update={"reduction": "pca", "floor": "uniform"})
    one, other = (fit_strata(TRAIN, VALIDATION, settings) for _ in range(2))
    assert np.array_equal(one.assign(TEST), other.assign(TEST))
    assert one.decisions == other.decisions


def damaged_manifest(storage: Storage) -> None:
    about = storage.read_json("a/strata.json")
    about["settings"]["surprise"] = 1
    storage.write_json("a/strata.json", about)


def damaged_arrays(storage: Storage) -> None:
    content = storage.read("a/strata.safetensors")
    storage.write("a/strata.safetensors", content[:-1] + bytes([content[-1] ^ 1]))


def other_format(storage: Storage) -> None:
    about: dict[str, Any] = storage.read_json("a/strata.json")
    storage.write("a/strata.json", json.dumps(about | {"format": 99}).encode())


def no_json(storage: Storage) -> None:
    storage.write("a/strata.json", b"\x80\x04\x95")


@pytest.mark.parametrize("damage", [damaged_manifest, damaged_arrays, other_format, no_json])
def test_damaged_strata_are_not_read(damage: Any, model: StrataModel, tmp_path: Any) -> None:
    storage = Storage.open(str(tmp_path))
    model.save(storage, "a")
    damage(storage)
    with pytest.raises(StorageCorrupt, match="find them again"):
        StrataModel.load(storage, "a")


def test_without_its_manifest_a_model_is_not_there(model: StrataModel, tmp_path: Any) -> None:
    storage = Storage.open(str(tmp_path))
    model.save(storage, "a")
    storage.delete("a/strata.json")
    with pytest.raises(FileNotFoundError):
        StrataModel.load(storage, "a")
