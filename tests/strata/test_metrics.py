"""Accuracy on groups, re-weighting, and agreement with true subclasses."""

from __future__ import annotations

import numpy as np
import pytest

from loraland.errors import MetricUnavailable
from loraland.strata.metrics import best_strata, group_scores, overall, worst

RIGHT = np.array([1, 1, 1, 0, 1, 0], bool)
GROUPS = np.array([0, 0, 0, 0, 2, 2])


def test_groups_without_examples_have_no_score() -> None:
    assert [tuple(one) for one in group_scores(RIGHT, GROUPS)] == [(0, 4, 0.75), (2, 2, 0.5)]
    assert worst(RIGHT, GROUPS).group == 2


def test_of_groups_that_are_equally_bad_the_larger_is_the_worst() -> None:
    assert worst(np.zeros(5, bool), np.array([0, 1, 1, 1, 2])).group == 1


def test_negative_groups_are_not_judged() -> None:
    assert worst(RIGHT, np.where(GROUPS == 2, -1, 0)).group == 0
    with pytest.raises(MetricUnavailable, match="no group"):
        worst(RIGHT, np.full(6, -1))


def test_reweighting_gives_the_accuracy_on_the_mix_of_training_and_is_off_by_default() -> None:
    train = np.repeat([0, 2], [9, 1])
    assert overall(RIGHT) == pytest.approx(4 / 6)
    assert overall(RIGHT, GROUPS, train) == pytest.approx(0.9 * 0.75 + 0.1 * 0.5)
    assert overall(RIGHT, GROUPS) == overall(RIGHT)


def test_the_best_stratum_of_a_subclass_has_its_precision_and_recall() -> None:
    subclasses = np.array([0] * 6 + [1] * 4 + [2] * 5)
    superclasses = np.array([0] * 10 + [1] * 5)
    strata = np.array([0] * 5 + [1] + [1] * 3 + [0] + [2] * 5)
    first, second, third = best_strata(strata, subclasses, superclasses)
    assert (first.stratum, first.precision, first.recall) == (0, 5 / 6, 5 / 6)
    assert (second.stratum, second.precision, second.recall) == (1, 3 / 4, 3 / 4)
    assert second.prevalence == pytest.approx(0.4) and second.f1 == pytest.approx(0.75)
    assert (third.stratum, third.f1, third.prevalence) == (2, 1.0, 1.0)
