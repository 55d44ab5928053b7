from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.evaluation.statistics import (
    Interval,
    effective_items,
    mean_interval,
    paired_interval,
    pooled_interval,
)

Draw = Callable[[np.random.Generator], tuple[object, ...]]

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


def test_a_bootstrap_of_few_items_is_about_as_wide_as_student_s() -> None:
    # Values i/11, i = 1..10: s = 0.27525, t(9, 0.975) = 2.26216, reach t * s / sqrt(10) = 0.1969.
    # The plain percentiles would reach 1.96 * s * sqrt(9 / 10) / sqrt(10) = 0.16184.
    mean, low, high = mean_interval([n / 11 for n in range(1, 11)])
    assert mean == pytest.approx(0.5)
    assert (mean - low, high - mean) == pytest.approx((0.1969, 0.1969), rel=0.05)


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


def coverage(
    draw: Draw, truth: float, interval: Callable[..., Interval], runs: int = 2000
) -> float:
    """How often an interval of what `draw` gives holds the truth; the same in every run."""
    draws, covered = np.random.default_rng(3), 0
    for _ in range(runs):
        found = interval(*draw(draws))
        covered += found.low <= truth <= found.high
    return covered / runs


def flipped(rng: np.random.Generator, items: int) -> tuple[list[float], list[float]]:
    """Base right on 0.4 of the items; the adapter mends 0.3 of its errors, breaks 0.05 of the rest.

    The lift is 0.3 * 0.6 - 0.05 * 0.4 = 0.16.
    """
    theirs, luck = rng.random(items) < 0.4, rng.random(items)
    ours = np.where(theirs, luck >= 0.05, luck < 0.3)
    return ours.astype(float).tolist(), theirs.astype(float).tolist()


def rouge_like(rng: np.random.Generator, items: int) -> np.ndarray:
    """Nothing right, all right, or a part of it; the mean is 0.15 + 0.45 * 0.4 = 0.33."""
    luck = rng.random(items)
    return np.where(luck < 0.4, 0.0, np.where(luck < 0.55, 1.0, rng.beta(2, 3, items)))


def in_passages(rng: np.random.Generator, passages: int, each: int) -> list[float]:
    """Questions on passages that are easy or hard as a whole; the mean is 0.4."""
    ease = np.repeat(rng.beta(0.4, 0.6, passages), each)
    return (rng.random(passages * each) < ease).astype(float).tolist()


def test_binary_means_are_covered_at_their_rate() -> None:
    known = functools.cache(lambda right, n: mean_interval([1.0] * right + [0.0] * (n - right)))
    for items, truth in [(50, 0.3), (100, 0.1), (164, 0.8), (1000, 0.95)]:
        draw = functools.partial(lambda rng, n, p: (int(rng.binomial(n, p)), n), n=items, p=truth)
        assert 0.93 <= coverage(draw, truth, known) <= 0.97


@pytest.mark.parametrize("items", [60, 200])
def test_binary_lifts_are_covered_at_their_rate(items: int) -> None:
    assert 0.93 <= coverage(lambda rng: flipped(rng, items), 0.16, paired_interval) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("items", "runs"), [(30, 1000), (100, 1000)])
def test_graded_means_and_lifts_are_covered_at_their_rate(items: int, runs: int) -> None:
    def means(rng: np.random.Generator) -> tuple[list[float]]:
        return (rouge_like(rng, items).tolist(),)

    def lifts(rng: np.random.Generator) -> tuple[list[float], list[float]]:
        ours, other = rouge_like(rng, items), rouge_like(rng, items)
        theirs = 0.5 * np.where(rng.random(items) < 0.5, ours, other)  # half of the items alike
        return ours.tolist(), theirs.tolist()

    assert 0.93 <= coverage(means, 0.33, mean_interval, runs) <= 0.97
    assert 0.93 <= coverage(lifts, 0.165, paired_interval, runs) <= 0.97


@pytest.mark.parametrize(("passages", "each"), [(40, 5), (100, 10)])
def test_questions_on_shared_passages_are_covered_at_their_rate(passages: int, each: int) -> None:
    units = [n // each for n in range(passages * each)]

    def one(rng: np.random.Generator) -> tuple[list[float]]:
        return (in_passages(rng, passages, each),)

    def two(rng: np.random.Generator) -> tuple[list[float], list[float]]:
        theirs = in_passages(rng, passages, each)
        ours = np.where(np.repeat(rng.random(passages) < 0.5, each), 1.0, theirs)
        return ours.tolist(), theirs

    clustered = functools.partial(mean_interval, units=units)
    assert 0.93 <= coverage(one, 0.4, clustered, 1000) <= 0.97
    assert coverage(one, 0.4, mean_interval, 500) < 0.85  # as if each question were a passage
    lift = functools.partial(paired_interval, units=units)
    assert 0.93 <= coverage(two, 0.5 * 0.6, lift, 1000) <= 0.97


def test_means_over_bases_that_answer_the_same_items_are_covered_at_their_rate() -> None:
    """Four bases on two tasks; an item is as hard for one base as for the next."""

    def draw(rng: np.random.Generator) -> tuple[list[tuple[np.ndarray, list[object]]]]:
        groups: list[tuple[np.ndarray, list[object]]] = []
        for task, items in (("a", 40), ("b", 80)):
            hard = rng.random(items)
            for _ in range(4):
                lifts = (rng.random(items) < hard).astype(float) - (rng.random(items) < 0.2)
                groups.append((lifts, [(task, n) for n in range(items)]))
        return (groups,)

    def as_if_apart(groups: list[tuple[np.ndarray, list[object]]]) -> Interval:
        apart = [(lifts, [(n, unit) for unit in units]) for n, (lifts, units) in enumerate(groups)]
        return pooled_interval(apart)

    assert 0.93 <= coverage(draw, 0.3, pooled_interval, 1000) <= 0.97
    assert coverage(draw, 0.3, as_if_apart, 500) < 0.93


def test_a_pooled_mean_of_one_cell_of_unlike_items_is_student_s() -> None:
    # 1, 0, 0, 1, 1: mean 0.6, s = 0.5477, t(4, 0.975) = 2.7764, reach 2.7764 * 0.5477 / sqrt(5).
    found = pooled_interval([(np.array([1.0, 0.0, 0.0, 1.0, 1.0]), list("abcde"))], 0.95, -9, 9)
    assert found == pytest.approx((0.6, 0.6 - 0.680087, 0.6 + 0.680087), abs=1e-5)


def test_repeating_every_item_adds_no_evidence() -> None:
    scores = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    once = mean_interval(scores * 1, units=None)
    twice = mean_interval(scores * 2, units=list(range(8)) * 2)
    assert twice.high - twice.low >= once.high - once.low
    assert effective_items(np.array(scores * 2), list(range(8)) * 2) == pytest.approx(8, rel=0.1)
    assert effective_items(np.array(scores), list(range(8))) == 8


def test_one_passage_says_nothing_of_others() -> None:
    assert mean_interval([1.0, 0.0, 1.0], units=["a"] * 3)[1:] == (0.0, 1.0)
    assert paired_interval([1.0, 1.0], [0.0, 0.0], units=["a"] * 2)[1:] == (-1.0, 1.0)


def test_passages_that_agree_still_leave_doubt() -> None:
    units = [n // 10 for n in range(200)]
    assert 0.7 < mean_interval([1.0] * 200, units=units).low < 0.99
    assert 0.6 < paired_interval([1.0] * 200, [0.0] * 200, units=units).low < 0.99


def test_units_that_do_not_fit_the_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores and 1 units"):
        mean_interval([1.0, 0.0], units=["a"])
    with pytest.raises(ValueError, match="no groups"):
        pooled_interval([])
