"""The paper's example 3.1: what each mode makes of rare mismatches."""

from __future__ import annotations

from statistics import mean

import pytest

from loraland.strata.two_attributes import RARE, draw, run


def test_the_rare_points_are_as_many_as_asked_for() -> None:
    points = draw(1_000, RARE, 0)
    assert [int((points.subclasses == one).sum()) for one in range(4)] == [970, 30, 970, 30]


def test_george_is_near_the_oracle_after_few_steps_too() -> None:
    found = run(seed=0, count=1_000, steps=1_000, test_count=5_000)
    assert [one.base_clusters for one in found.strata.decisions] == [2, 2]
    assert abs(found.worst["george"] - found.worst["oracle"]) < 0.02
    assert found.worst["george"] > found.worst["erm"] + 0.2


@pytest.mark.slow
def test_five_seeds_give_the_figures_of_the_theory() -> None:
    outcomes = [run(seed) for seed in range(5)]
    for found in outcomes:
        assert [one.base_clusters for one in found.strata.decisions] == [2, 2]
        assert abs(found.worst["george"] - found.worst["oracle"]) < 0.02
    assert mean(one.worst["erm"] for one in outcomes) == pytest.approx(0.59, abs=0.03)
    assert mean(one.worst["random"] for one in outcomes) == pytest.approx(0.53, abs=0.06)
    assert mean(one.worst["oracle"] for one in outcomes) == pytest.approx(0.92, abs=0.01)
