"""Metrics, cases, rankers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from loraland.errors import DataRefused
from loraland.palate.cases import HELD_OUT, bundles, of_people
from loraland.palate.catalogue import Catalogue, Ints
from loraland.palate.generator import people
from loraland.palate.judging import judge
from loraland.palate.metrics import calibration, gini, intra_list_distance, ranking
from loraland.palate.model import PalateModel
from loraland.palate.rivals import BY_SCORE, POINTS_PER_PRICE, POPULAR, SERVED, rankers, top


def test_ranking_metrics_of_a_list_by_hand() -> None:
    found = ranking([9, 1, 8, 2], {1, 2, 3}, depth=4)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["hit"] == 1
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx(1 / 2)
    assert found["map"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert found["ndcg"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)


@given(st.permutations(range(12)), st.sets(st.integers(0, 11), min_size=1), st.integers(1, 12))
def test_ndcg_is_that_of_scikit_learn(order: list[int], relevant: set[int], depth: int) -> None:
    truth = np.asarray([[1.0 if i in relevant else 0.0 for i in range(12)]])
    scores = np.zeros((1, 12))
    scores[0, order] = np.arange(12, 0, -1)
    assert ranking(order, relevant, depth)["ndcg"] == pytest.approx(
        ndcg_score(truth, scores, k=depth)
    )


def test_a_perfect_list_scores_one_and_a_wrong_one_nothing() -> None:
    assert set(ranking([1, 2, 3], {1, 2, 3}, 3).values()) == {1.0}
    assert set(ranking([4, 5, 6], {1, 2, 3}, 3).values()) == {0.0}
    with pytest.raises(ValueError, match="nothing is relevant"):
        ranking([1], set(), 5)


def test_figures_beyond_accuracy_by_hand() -> None:
    assert gini(np.asarray([1, 1, 1, 1])) == pytest.approx(0)
    assert gini(np.asarray([0, 0, 0, 8])) == pytest.approx(0.75)
    assert gini(np.zeros(3)) == 0
    same = np.tile(np.asarray([1.0, 0.0], np.float32), (4, 1))
    assert intra_list_distance(same) == pytest.approx(0)
    assert intra_list_distance(np.eye(3, dtype=np.float32)) == pytest.approx(1)
    theta = np.asarray([0.5, 0.5])
    assert calibration(theta, theta) == pytest.approx(0)
    assert 0 < calibration(theta, np.asarray([1.0, 0.0])) < math.inf


def test_the_best_of_equal_values_is_the_first() -> None:
    assert top(np.asarray([1.0, 3.0, 3.0, -np.inf]), 10).tolist() == [1, 2, 0]


def test_bundles_tell_no_held_out_wine(catalogue: Catalogue) -> None:
    one_country = replace(
        catalogue,
        places=("Here",) * len(catalogue),
        kinds=("Red",) * len(catalogue),
        critics=tuple(f"T{i % 8}" for i in range(len(catalogue))),
    )
    cases = bundles(one_country)
    assert len(cases) == 8
    for case in cases:
        told = set(one_country.positions((*case.tastes.liked, *case.tastes.tasted)).tolist())
        assert len(case.relevant) == HELD_OUT
        assert not told & case.relevant
        quality = one_country.quality
        assert min(quality[list(case.relevant)]) >= np.median(quality)
        assert max(quality[one_country.positions(case.tastes.disliked)]) < min(
            quality[list(case.relevant)]
        )
    again = bundles(one_country)
    assert [case.relevant for case in again] == [case.relevant for case in cases]
    assert [c.relevant for c in bundles(one_country, seed=1)] != [c.relevant for c in cases]


def test_reviews_without_tasters_cannot_be_judged(catalogue: Catalogue) -> None:
    with pytest.raises(DataRefused, match="no taster has 10 liked wines"):
        bundles(replace(catalogue, critics=("",) * len(catalogue)))


def test_palates_beat_what_is_the_same_for_everybody(model: PalateModel, truth: Ints) -> None:
    catalogue = model.catalogue
    found = people(catalogue.keys, truth, catalogue.quality, 6, count=60, seed=4)
    cases = of_people(catalogue, found)
    rows = {row["ranker"]: row for row in judge(model, cases, rankers(model, cases))}
    for rival in (POPULAR, POINTS_PER_PRICE, "highest points", "random"):
        for ours in (BY_SCORE, SERVED):
            assert rows[ours]["ndcg@10"][1] > rows[rival]["ndcg@10"][2], (ours, rival)
    assert rows[SERVED]["distance"] > rows[BY_SCORE]["distance"]
    assert rows[BY_SCORE]["value"] > rows["palates, without price"]["value"]
    for row in rows.values():
        low, high = row["ndcg@20"][1:]
        assert 0 <= low <= row["ndcg@20"][0] <= high <= 1
        assert row["cases"] == len(cases)


def test_no_ranker_shows_what_was_tasted(model: PalateModel, truth: Ints) -> None:
    catalogue = model.catalogue
    cases = of_people(catalogue, people(catalogue.keys, truth, catalogue.quality, 6, count=5))
    for name, ranker in rankers(model, cases).items():
        for case in cases:
            places = ranker(case, 20).tolist()
            seen = catalogue.positions((*case.tastes.liked, *case.tastes.disliked)).tolist()
            assert not set(places) & set(seen), name
            assert len(set(places)) == len(places) > 0


@pytest.mark.slow
def test_real_palates_are_neither_grapes_nor_tasters_and_find_held_out_wines(
    real_data: Path,
) -> None:
    from loraland.palate.cleaning import catalogue_of
    from loraland.palate.fitting import FitSettings, fit
    from loraland.palate.reviews import read_reviews

    path = real_data / "wine" / "reviews.parquet"
    if not path.exists():
        pytest.skip("the folder of real data has no wine/reviews.parquet")
    model = fit(catalogue_of(read_reviews(path)).catalogue, FitSettings(k=24))
    found = model.facts["hygiene"]
    assert found["kind_nmi"] < 0.6 and found["critic_nmi"] < 0.3
    assert found["alarms"] == []
    flavours = [t for palate in model.palates for t in palate.terms[:3]]
    assert len(set(flavours)) > 40  # no two palates are told by the same words
    cases = bundles(model.catalogue)
    rows = {row["ranker"]: row for row in judge(model, cases, rankers(model, cases))}
    assert rows["palates, without price"]["ndcg@10"][0] > 3 * rows["random"]["ndcg@10"][0]
