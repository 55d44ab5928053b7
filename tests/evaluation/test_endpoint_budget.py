from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.bases.tiny import byte_tokenizer
from loraland.evaluation.endpoint import Endpoint
from loraland.evaluation.endpoint_budget import (
    ADDED_TOKENS,
    NOTHING,
    Budget,
    Spend,
    Usage,
    cost,
    estimate,
    most_usage,
    total,
)


def made(**changes: Any) -> Endpoint:
    fields = {
        "name": "gpt",
        "url": "https://api.example.com/v1",
        "model": "gpt-x",
        "usd_per_million_input_tokens": Decimal("2.5"),
        "usd_per_million_output_tokens": Decimal(10),
        "max_usd": Decimal("0.01"),
        "max_total_tokens": 5000,
    }
    return Endpoint.model_validate(fields | changes)


def test_a_cost_is_exact() -> None:
    assert cost(made(), Usage(1_000_000, 100_000)) == Spend(Decimal("3.5"), 1_100_000)
    assert total([cost(made(), Usage(1, 0))] * 10).usd == Decimal("0.000025")


def test_without_prices_tokens_alone_are_counted() -> None:
    free = made(usd_per_million_input_tokens=None, usd_per_million_output_tokens=None, max_usd=None)
    assert cost(free, Usage(3, 4)) == Spend(Decimal(0), 7)
    assert estimate(free, [], 0).usd is None


@given(st.text(max_size=200))
def test_no_prompt_has_more_tokens_than_are_reserved_for_it(text: str) -> None:
    """Against the tokenizer that makes the most tokens of a text: one for each byte."""
    endpoint = made()
    body = endpoint.body(text, (), 16)
    ids = byte_tokenizer(True, 512)(text)["input_ids"]
    assert most_usage(endpoint, body) == (len(text.encode()) + ADDED_TOKENS, 16)
    assert len(ids) <= most_usage(endpoint, body).input_tokens


# A run: requests that may cost so much, are settled in any order, and cost any part of it.
money = st.decimals(0, "0.004", places=6)
spends = st.builds(Spend, money, st.integers(0, 2000))
steps = st.lists(
    st.tuples(spends, st.booleans(), st.integers(0, 7), st.fractions(0, 1)), max_size=60
)


@given(spends, steps)
def test_what_is_spent_and_reserved_never_exceeds_a_cap(
    before: Spend, run: list[tuple[Spend, bool, int, Any]]
) -> None:
    endpoint = made()
    budget, under_way = Budget(endpoint, before), list[Spend]()
    paid = before
    for most, ends, which, share in run:
        if ends and under_way:
            asked = under_way.pop(which % len(under_way))
            part = Decimal(share.numerator) / Decimal(share.denominator)
            actual = Spend(asked.usd * part, int(asked.tokens * share))
            budget.settle(asked, actual)
            paid = paid.plus(actual)
        elif budget.can_reserve(most):
            assert budget.can_ever_reserve(most)
            budget.reserve(most)
            under_way.append(most)
        else:
            with pytest.raises(ValueError, match="budget"):
                budget.reserve(most)
        assert budget.spent == paid and budget.reserved == total(under_way)
        assert budget.committed.usd <= endpoint.max_usd  # type: ignore[operator]
        assert budget.committed.tokens <= endpoint.max_total_tokens  # type: ignore[operator]


def test_a_charge_above_what_was_reserved_is_counted_and_ends_the_run() -> None:
    budget = Budget(made())
    most = Spend(Decimal("0.004"), 100)
    budget.reserve(most)
    budget.reserve(most)
    budget.settle(most, Spend(Decimal("0.009"), 100))
    assert budget.committed.usd == Decimal("0.013")  # above by what one request was overcharged
    assert not budget.can_reserve(Spend(Decimal("0.000001"), 1))
    budget.settle(most, NOTHING)
    assert budget.can_ever_reserve(Spend(Decimal("0.001"), 1))
    assert not budget.can_ever_reserve(Spend(Decimal("0.002"), 1))


def test_an_estimate_says_what_it_takes_at_most() -> None:
    endpoint = made()
    bodies = [endpoint.body("x" * 400, (), 50)] * 3
    found = estimate(endpoint, bodies, answered=2, spent=Spend(Decimal("0.001"), 10))
    assert (found.requests, found.answered) == (3, 2)
    assert (found.input_tokens, found.most_output_tokens) == (300, 150)
    assert found.usd == Decimal("0.00225")  # 300 * 2.5 + 150 * 10 per million
    assert found.most_usd == Decimal(3 * (464 * 2.5 + 500)) / 1_000_000
    assert found.within_caps is True
    assert estimate(endpoint, bodies * 9, 0).within_caps is False
