from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import TrainingDiverged
from loraland.training.recipe import get_recipe
from loraland.training.schedule import (
    best_evaluation,
    gains_no_more,
    learning_rate,
    require_health,
)


@given(st.sampled_from(["cosine", "linear", "constant"]), st.integers(1, 500), st.floats(0, 0.5))
def test_the_rate_stays_between_zero_and_the_recipe_s(kind: str, total: int, warmup: float) -> None:
    recipe = get_recipe("quick", schedule=kind, warmup_share=warmup)
    rates = [learning_rate(update, total, recipe) for update in range(total)]
    assert all(0 < rate <= recipe.learning_rate for rate in rates)


def test_the_report_recipe_warms_up_for_75_of_2500_updates_and_ends_near_zero() -> None:
    recipe = get_recipe("report")
    total = recipe.updates(train_examples=560_000)
    rates = [learning_rate(update, total, recipe) for update in range(total)]
    assert total == 2_500
    assert rates.index(max(rates)) == 75
    assert max(rates) == pytest.approx(2e-4)
    assert rates[-1] < 1e-9


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(loss: float) -> None:
    with pytest.raises(TrainingDiverged, match=r"update 3.*lower learning_rate"):
        require_health([2.0, 2.1, loss], vocabulary=49_152, rate=1e-3)


def test_an_exploding_loss_stops_the_run_after_three_updates() -> None:
    require_health([2.0, 30.0, 30.0], vocabulary=49_152, rate=1.0)
    require_health([2.0, 30.0, 30.0, 5.0], vocabulary=49_152, rate=1.0)
    with pytest.raises(TrainingDiverged, match="exploded"):
        require_health([2.0, 30.0, 30.0, 30.0], vocabulary=49_152, rate=1.0)


def test_a_base_that_starts_badly_has_not_exploded() -> None:
    require_health([20.0, 19.0, 18.0, 17.0], vocabulary=256, rate=1e-3)


def test_patience_counts_evaluations_since_the_best() -> None:
    falling = [(8, 3.0), (16, 2.0), (24, 1.0)]
    assert not gains_no_more(falling, patience=1)
    assert best_evaluation([*falling, (32, 1.0)]) == (24, 1.0)
    assert gains_no_more([*falling, (32, 1.5), (40, 1.2)], patience=2)
    assert not gains_no_more([*falling, (32, 1.5), (40, 0.9)], patience=2)
