from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.evaluation.statistics import mean_interval, paired_interval

scores = st.lists(st.floats(0, 1), min_size=1, max_size=60)
pairs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)
answers = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1)


@given(scores)
def test_a_mean_lies_in_its_interval_within_the_unit_range(
    values: list[float],
) -> None:
    mean, low, high = mean_interval(values)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1


@given(pairs)
def test_a_lift_lies_in_its_interval_and_turns_its_sign_with_the_pair(
    values: list[tuple[float, float]],
) -> None:
    ours, theirs = [a for a, _ in values], [b for _, b in values]
    lift = paired_interval(ours, theirs)
    assert -1 <= lift.low <= lift.mean + 1e-12
    assert lift.mean - 1e-12 <= lift.high <= 1
    assert paired_interval(theirs, ours).mean == pytest.approx(-lift.mean)


@given(answers)
def test_the_interval_of_a_binary_lift_mirrors_when_the_models_change_places(
    values: list[tuple[float, float]],
) -> None:
    ours, theirs = [a for a, _ in values], [b for _, b in values]
    lift, turned = paired_interval(ours, theirs), paired_interval(theirs, ours)
    assert (turned.low, turned.high) == pytest.approx((-lift.high, -lift.low))


def test_wilson_has_its_known_value() -> None:
    # Wilson score interval for 8 of 10 at 95 %, computed by hand from the formula.
    mean, low, high = mean_interval([1.0] * 8 + [0.0] * 2)
    assert (mean, low, high) == pytest.approx((0.8, 0.4901625, 0.9433178), abs=1e-6)


def test_newcombe_has_its_published_value() -> None:
    # Newcombe (1998) Stat Med 17:2635, table III, method 10: a=36 b=12 c=2 d=0 -> 0.0569 to 0.3404.
    ours = [1.0] * 36 + [1.0] * 12 + [0.0] * 2
    theirs = [1.0] * 36 + [0.0] * 12 + [1.0] * 2
    lift = paired_interval(ours, theirs)
    assert lift.mean == pytest.approx(0.2)
    assert (lift.low, lift.high) == pytest.approx((0.0569, 0.3404), abs=2e-4)


@pytest.mark.parametrize("kind", ["binary", "graded"])
def test_the_interval_of_a_lift_covers_the_truth_about_as_often_as_it_says(kind: str) -> None:
    draws = np.random.default_rng(1)
    runs, items, covered = 400, 60, 0
    for _ in range(runs):
        base = draws.random(items)
        if kind == "binary":
            theirs = (base < 0.4).astype(float)
            ours = np.where(draws.random(items) < 0.3, 1.0, theirs)
            truth = 0.3 * 0.6
        else:
            theirs, ours = base * 0.5, base * 0.5 + 0.3 * draws.random(items)
            truth = 0.15
        lift = paired_interval(ours.tolist(), theirs.tolist())
        covered += lift.low <= truth <= lift.high
    # Two-sided 95 %; 3.3 standard errors of 400 runs below it.
    assert covered / runs > 0.95 - 3.3 * math.sqrt(0.05 * 0.95 / runs)


def test_perfect_answers_still_leave_doubt() -> None:
    lift = paired_interval([1.0] * 20, [0.0] * 20)
    assert lift.mean == 1.0
    assert 0.7 < lift.low < 0.99
    assert mean_interval([0.5] * 20).low < 0.5
    assert mean_interval([0.5]).low == 0.0


def test_intervals_repeat() -> None:
    values = [0.1, 0.5, 0.3, 0.9, 0.2]
    assert mean_interval(values) == mean_interval(values)


def test_empty_unequal_and_foreign_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        mean_interval([])
    with pytest.raises(ValueError, match="differ in number: 1 and 2"):
        paired_interval([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_interval([1.5])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_interval([math.nan])
