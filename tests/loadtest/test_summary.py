"""Figures: percentiles with intervals, hits and misses apart, nothing of the warm-up, fairness."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.loadtest.against import against_base, order_of
from loraland.loadtest.outcome import NOT_SENT, ClientLoad, Outcome, Run
from loraland.loadtest.summary import figures, percentile, percentile_interval, times

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=80)


def outcome(number=0, *, model="tiny/a", due=0.0, late=0.0, first=0.1, end=1.0, tokens=10, **more):
    """An answered request; times from when it was due."""
    return Outcome(
        number=number, model=model, due_s=due, sent_s=due + late, end_s=due + end,
        first_s=None if first is None else due + first, prompt_tokens=5, generated_tokens=tokens,
        **({"asked_tokens": tokens} | more),
    )  # fmt: skip


def run_of(*outcomes, cpu=0.1, late=(0.1,)):
    return Run(list(outcomes), ClientLoad(cpu, tuple(late)))


@given(VALUES, st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_so_many_stay_below(values, share):
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6


@given(VALUES)
def test_percentiles_lie_in_order_within_their_intervals(values):
    found = times(values)
    assert found.p50_ms <= found.p95_ms <= found.p99_ms <= found.most_ms
    for name in ("p50", "p95", "p99"):
        low, high = getattr(found, f"{name}_interval")
        value = getattr(found, f"{name}_ms")
        assert low is None or low <= value
        assert high is None or value <= high


def test_intervals_hold_the_true_percentile_as_often_as_they_claim():
    chance = random.Random(3)
    covered = 0
    for _ in range(1500):
        low, high = percentile_interval(sorted(chance.random() for _ in range(120)), 0.9)
        covered += low <= 0.9 <= high
    assert 0.93 <= covered / 1500 <= 0.985


def test_too_few_values_leave_an_end_open():
    assert percentile_interval([1.0, 2.0, 3.0], 0.99)[1] is None
    assert times([]) is None


def test_the_warm_up_counts_nowhere():
    slow = outcome(0, end=100, model="tiny/slow")
    found = figures(run_of(slow, outcome(1, due=100), outcome(2, due=101, end=2)), warm_up=1)
    assert (found.requests, found.answered) == (2, 2)
    assert found.seconds == pytest.approx(3)
    assert found.tokens_per_s == pytest.approx(20 / 3)
    assert [one.model for one in found.adapters] == ["tiny/a"]


def test_latencies_count_from_when_a_request_was_due_not_from_when_it_was_sent():
    found = figures(run_of(outcome(due=5, late=3, first=4, end=6)))
    assert found.ttft.p50_ms == pytest.approx(4000)
    assert found.total.p50_ms == pytest.approx(6000)
    assert found.client.sent_late_p99_ms == pytest.approx(3000)


def test_hits_and_misses_are_apart_and_unknown_tiers_in_neither():
    found = figures(
        run_of(
            outcome(0, first=0.1, tier="device"),
            outcome(1, first=0.5, tier="host"),
            outcome(2, first=0.7, tier="disk"),
            outcome(3, first=9.0),
        )
    )
    assert (found.hits, found.misses) == (1, 2)
    assert found.ttft_hit.most_ms == pytest.approx(100)
    assert found.ttft_miss.most_ms == pytest.approx(700)
    assert found.ttft.values == 4


def test_failures_are_counted_by_kind_and_give_no_latency():
    bad = outcome(1, first=0.2, tokens=500, error="429 engine_busy")
    found = figures(run_of(outcome(0), bad, outcome(2, first=None, error="timeout"), bad))
    assert found.errors == {"429 engine_busy": 2, "timeout": 1}
    assert (found.requests, found.answered, found.ttft.values) == (4, 1, 1)
    assert found.generated_tokens == 10
    assert found.adapters[0].failed == 3


def test_time_per_token_is_over_the_tokens_after_the_first():
    found = figures(run_of(outcome(first=1, end=4, tokens=7, pauses_ms=(1000.0, 2000.0))))
    assert found.per_token.p50_ms == pytest.approx(500)
    assert found.pause.most_ms == 2000
    assert figures(run_of(outcome(tokens=1))).per_token is None


def test_answers_that_ended_early_are_not_full_length():
    found = figures(run_of(outcome(0, asked_tokens=10), outcome(1, asked_tokens=64)))
    assert (found.answered, found.full_length) == (2, 1)


def test_fairness_is_one_for_equal_speeds_and_falls_with_the_slowest():
    def many(model, end):
        return [outcome(n, model=model, end=end) for n in range(6)]

    assert figures(run_of(*many("a", 1), *many("b", 1))).fairness.jain == pytest.approx(1)
    unfair = figures(run_of(*many("a", 1), *many("b", 4))).fairness
    assert unfair.least_over_most == pytest.approx(0.25)
    assert unfair.jain < 0.8
    assert figures(run_of(*many("a", 1), outcome(model="b"))).fairness is None


@pytest.mark.parametrize(
    ("run", "word"),
    [
        (run_of(outcome(), cpu=0.95), "core"),
        (run_of(outcome(), late=[0.1] * 50 + [80.0] * 50), "late"),
        (run_of(outcome(), outcome(1, first=None, error=NOT_SENT)), "not sent"),
    ],
)
def test_a_client_that_was_the_limit_is_named_with_the_reason(run, word):
    [reason] = figures(run).client.limits
    assert word in reason


def test_a_client_that_kept_up_is_no_limit():
    assert figures(run_of(outcome(), late=[1.0] * 100)).client.limits == ()


def test_a_run_of_nothing_has_no_figures_and_no_division_by_zero():
    found = figures(Run())
    assert (found.requests, found.seconds, found.tokens_per_s) == (0, 0, 0)
    assert found.ttft is None
    assert found.fairness is None


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=6))
def test_the_share_of_the_base_is_the_median_of_the_rounds_with_its_spread(pairs):
    mixed = [figures(run_of(outcome(tokens=ours))) for ours, _ in pairs]
    base = [figures(run_of(outcome(tokens=theirs))) for _, theirs in pairs]
    found = against_base(mixed, base).throughput
    ratios = [ours / theirs for ours, theirs in pairs]
    assert found.rounds == pytest.approx(ratios)
    assert found.median == pytest.approx(statistics.median(ratios))
    assert found.least <= found.median <= found.most


def test_a_round_without_answers_has_no_ratio():
    nothing = figures(run_of(outcome(error="timeout")))
    assert against_base([nothing], [figures(run_of(outcome()))]).throughput is None
    assert against_base([], []).ttft is None


def test_rounds_take_turns():
    assert [order_of(number) for number in range(3)] == [
        (False, True), (True, False), (False, True),
    ]  # fmt: skip
