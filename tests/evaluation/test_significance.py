from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.evaluation.significance import (
    adjusted,
    minimum_detectable_lift,
    paired_test,
    resamples_for,
)

p_values = st.lists(st.floats(0, 1), max_size=40)


def answers(both: int, only_ours: int, only_theirs: int, neither: int) -> list[list[float]]:
    ours = [1.0] * (both + only_ours) + [0.0] * (only_theirs + neither)
    theirs = [1.0] * both + [0.0] * only_ours + [1.0] * only_theirs + [0.0] * neither
    return [ours, theirs]


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    # 2 * P(X <= 2), X ~ B(10, 1/2) = 2 * (1 + 10 + 45) / 1024.
    found = paired_test(*answers(50, 8, 2, 40))
    assert found == (pytest.approx(112 / 1024), "mcnemar", 8, 2)
    assert paired_test(*answers(0, 3, 3, 0)).p_value == 1.0
    assert paired_test(*answers(5, 0, 0, 5)).p_value == 1.0


def test_graded_scores_are_tested_by_flipping_signs() -> None:
    # Of the eight patterns of three equal differences, two are as far out as all of one sign.
    found = paired_test([0.5, 0.75, 1.0], [0.25, 0.5, 0.75])
    assert found == (0.25, "permutation", 3, 0)
    # 0.5 + 0.25 - 0.125 = 0.625: of eight sums four are as far out: +-0.875 and +-0.625.
    assert paired_test([0.5, 0.25, 0.0], [0.0, 0.0, 0.125]).p_value == 0.5


def test_many_graded_pairs_give_a_p_value_near_the_t_test_s() -> None:
    from scipy import stats

    draws = np.random.default_rng(0)
    theirs = draws.random(80) * 0.8
    ours = np.clip(theirs + draws.normal(0.04, 0.15, 80), 0, 1)
    found = paired_test(ours.tolist(), theirs.tolist(), resamples=200_000)
    # 0.0067 of 200,000 signs has a standard error of 2.7 %.
    assert found.p_value == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=0.1)


def test_questions_on_one_passage_count_once() -> None:
    ours, theirs = [1.0] * 30, [0.0] * 30
    assert paired_test(ours, theirs).p_value < 1e-8
    # Three passages: two of eight sign patterns are as far out.
    assert paired_test(ours, theirs, units=[n // 10 for n in range(30)]).p_value == 0.25


def test_enough_resamples_for_a_clear_winner_to_pass_the_correction() -> None:
    draws = np.random.default_rng(0)
    for tests in (1, 310, 3000):
        least = paired_test(
            (0.5 + draws.random(300) / 2).tolist(),
            (draws.random(300) / 2).tolist(),
            resamples=resamples_for(tests),
        ).p_value
        assert adjusted([least] * tests, "holm")[0] < 0.05


def test_corrections_have_their_hand_worked_values() -> None:
    values = [0.01, 0.04, 0.03, 0.005]
    assert adjusted(values, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted(values, "bh") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjusted([0.9, 0.8], "holm") == [1.0, 1.0]
    assert adjusted([], "holm") == adjusted([], "bh") == []


@given(p_values)
def test_a_correction_never_helps_and_holm_is_the_stricter(values: list[float]) -> None:
    holm, bh = adjusted(values, "holm"), adjusted(values, "bh")
    for raw, mild, strict in zip(values, bh, holm, strict=True):
        assert raw <= mild + 1e-12 and mild <= strict + 1e-12 and strict <= 1.0


def matrix_of_p_values(
    rng: np.random.Generator, lifts: list[float], items: int, shared: float
) -> list[float]:
    """A p-value for each adapter, whose errors on an item go together to the degree `shared`."""
    hard = rng.random(items)
    found = []
    for lift in lifts:
        base = np.where(rng.random(items) < shared, hard, rng.random(items)) < 0.5
        change = rng.random(items) < 0.2 + lift
        better = rng.random(items) < (0.1 + lift) / (0.2 + lift)
        ours, theirs = np.where(change, better, base), np.where(change, ~better, base)
        found.append(
            paired_test(ours.astype(float).tolist(), theirs.astype(float).tolist()).p_value
        )
    return found


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_without_any_lift_the_corrections_hold_the_rate_of_false_claims(shared: float) -> None:
    draws, runs = np.random.default_rng(7), 200
    false = {"holm": 0, "bh": 0, "none": 0}
    for _ in range(runs):
        values = matrix_of_p_values(draws, [0.0] * 15, 100, shared)
        false["none"] += min(values) <= 0.05
        false["holm"] += min(adjusted(values, "holm")) <= 0.05
        false["bh"] += min(adjusted(values, "bh")) <= 0.05
    assert false["holm"] / runs <= 0.05
    assert false["bh"] / runs <= 0.05  # with no lift anywhere every claim is false
    assert false["none"] / runs > 0.2


def test_among_real_lifts_the_share_of_false_claims_holds_and_most_are_found() -> None:
    draws, runs, truth = np.random.default_rng(8), 200, [0.3] * 8 + [0.0] * 7
    shares, any_false, found = [], 0, {"holm": 0, "bh": 0}
    for _ in range(runs):
        values = matrix_of_p_values(draws, truth, 100, 0.3)
        claimed = {name: np.array(adjusted(values, name)) <= 0.05 for name in ("holm", "bh")}
        shares.append(claimed["bh"][8:].sum() / max(1, claimed["bh"].sum()))
        any_false += claimed["holm"][8:].any()
        for name, called in claimed.items():
            found[name] += int(called[:8].sum())
    assert np.mean(shares) <= 0.05
    assert any_false / runs <= 0.05
    assert found["bh"] >= found["holm"] > 0.7 * 8 * runs


def test_the_detectable_lift_has_its_hand_worked_value() -> None:
    # n = 400, disagreement 0.2: 1.96 * sqrt(0.2) + 0.8416 * sqrt(0.2 - d^2) = 20 d at d = 0.06246.
    assert minimum_detectable_lift(400, 0.2) == pytest.approx(0.06246, abs=2e-5)


@pytest.mark.parametrize(("items", "discordance"), [(200, 0.3), (400, 0.2), (1000, 0.15)])
def test_a_detectable_lift_is_detected_as_often_as_it_says(items: int, discordance: float) -> None:
    lift = minimum_detectable_lift(items, discordance)
    assert lift is not None
    draws, runs = np.random.default_rng(2), 600
    wins, losses = (discordance + lift) / 2, (discordance - lift) / 2
    hits = 0
    for both, better, worse, _ in draws.multinomial(
        items, [0, wins, losses, 1 - wins - losses], runs
    ):
        hits += paired_test(*answers(both, better, worse, 0)).p_value <= 0.05
    # The exact test is a little stricter than the normal approximation.
    assert 0.72 <= hits / runs <= 0.84


def test_more_items_detect_less_and_a_stricter_level_more() -> None:
    for discordance in (0.0, 0.05, 0.4, 1.0):
        found = [minimum_detectable_lift(items, discordance) for items in (20, 100, 1000, 10_000)]
        for before, after in itertools.pairwise(found):
            assert before is not None and after is not None and 0 < after < before <= 1
        one, many = (minimum_detectable_lift(100, discordance, a) for a in (0.05, 0.05 / 310))
        assert one is not None and many is not None and many > one
    assert minimum_detectable_lift(3, 0.2) is None


def test_a_lift_beyond_the_discordance_brings_its_own() -> None:
    found = minimum_detectable_lift(100, 0.0)
    assert found is not None and 0.05 < found < 0.1  # eight of a hundred, all to one side
