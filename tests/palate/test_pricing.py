from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.palate.pricing import (
    PricingSettings,
    learn_curves,
    pareto_layers,
    shrink,
    values,
)


def test_one_review_is_drawn_to_the_mean_and_many_are_not() -> None:
    quality = np.asarray([100.0, 80.0, 80.0, 80.0])
    reviews = np.asarray([1, 1, 1, 1000])
    palate = np.asarray([0, 0, 1, 1])
    found = shrink(quality, reviews, palate, 2, k0=3)
    assert found[0] == pytest.approx((100 + 3 * 90) / 4)
    assert found[3] == pytest.approx(80)


points = st.integers(80, 100)
prices = st.integers(4, 60)


@given(st.lists(st.tuples(points, prices), min_size=1, max_size=40))
def test_layers_are_those_of_peeling_the_frontier(items: list[tuple[int, int]]) -> None:
    """The quick way agrees with taking away what nothing dominates, again and again."""
    quality = np.asarray([q for q, _ in items], dtype=float)
    price = np.asarray([p for _, p in items], dtype=float)
    left, layer, expected = set(range(len(items))), 0, {}
    while left:
        front = {
            i
            for i in left
            if not any(
                quality[j] >= quality[i]
                and price[j] <= price[i]
                and (quality[j], -price[j]) != (quality[i], -price[i])
                for j in left
            )
        }
        expected |= dict.fromkeys(front, layer)
        left, layer = left - front, layer + 1
    assert pareto_layers(quality, price).tolist() == [expected[i] for i in range(len(items))]


def world(n: int = 400):  # type: ignore[no-untyped-def]
    draws = np.random.default_rng(0)
    price = np.exp(draws.normal(3, 0.6, n))
    palate = draws.integers(0, 2, n)
    quality = 86 + 2 * (np.log(price) - 3) + 2 * palate + draws.normal(0, 1, n)
    return quality, price, palate


def test_the_usual_quality_rises_with_the_price() -> None:
    quality, price, palate = world()
    curves = learn_curves(quality, price, palate, 2)
    assert np.all(np.diff(curves.quality_at, axis=1) >= 0)
    cheap, dear = curves.usual_quality(np.asarray([0, 0]), np.asarray([8.0, 60.0]))
    assert dear > cheap + 1
    assert curves.usual_price(0, 88) > curves.usual_price(1, 88)  # palate 1 is better for less


def test_value_is_judged_inside_a_palate() -> None:
    quality, price, palate = world()
    found = values(
        quality, price, palate, learn_curves(quality, price, palate, 2), PricingSettings()
    )
    for one in (0, 1):
        assert abs(found.by["residual"][palate == one].mean()) < 0.2
        for percentile in found.percentile.values():
            assert percentile[palate == one].max() == 100.0


@pytest.mark.parametrize("objective", ["ratio", "residual", "frontier"])
def test_more_for_less_is_never_worth_less(objective: str) -> None:
    quality, price, palate = world()
    better = np.append(quality, quality.max() + 0.5)
    cheaper = np.append(price, price.min() * 0.9)
    palate = np.append(palate, 0)
    found = values(
        better, cheaper, palate, learn_curves(better, cheaper, palate, 2), PricingSettings()
    )
    inside = found.by[objective][palate == 0]
    assert inside[-1] == np.nanmax(inside)


def test_an_item_without_price_has_no_value_and_still_a_merit() -> None:
    quality, price, palate = world()
    price[5] = np.nan
    found = values(
        quality, price, palate, learn_curves(quality, price, palate, 2), PricingSettings()
    )
    assert all(np.isnan(value[5]) for value in found.by.values())
    assert np.isfinite(found.merit).all()


def test_without_any_price_nothing_breaks() -> None:
    quality, price, palate = world()
    nothing = np.full(len(price), np.nan)
    curves = learn_curves(quality, nothing, palate, 2)
    found = values(quality, nothing, palate, curves, PricingSettings())
    assert np.isnan(found.by["residual"]).all()
    assert np.isfinite(found.merit).all()


def test_a_small_palate_takes_the_curve_of_all() -> None:
    quality, price, palate = world()
    palate = np.where(np.arange(len(palate)) < 5, 2, palate)
    curves = learn_curves(quality, price, palate, 3)
    whole = learn_curves(quality, price, np.zeros_like(palate), 1)
    assert np.allclose(curves.quality_at[2], whole.quality_at[0])
