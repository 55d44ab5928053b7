"""What will be asked and when: seeded, bounded, with the popularity and rate that were wished."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import InvalidConfiguration
from loraland.loadtest.course import Course, check_rate
from loraland.loadtest.mix import Mix
from loraland.loadtest.schedule import (
    Wording,
    asking,
    drawn_from,
    plan,
    plan_trace,
    poisson,
    random_tokens,
    whenever_free,
    within,
)
from loraland.loadtest.trace import TraceRow

MODELS = [f"tiny/a{n}" for n in range(25)]
WORDS = random_tokens(10, 5, 256)


@given(st.integers(1, 60), st.floats(0, 5))
def test_shares_add_up_to_one_and_never_grow_with_the_rank(count, exponent):
    mix = Mix.of([f"m{n}" for n in range(count)], exponent)
    assert sum(mix.shares) == pytest.approx(1)
    assert all(before >= after for before, after in pairwise(mix.shares))
    assert mix.shares[0] / mix.shares[-1] == pytest.approx(count**exponent)


@given(st.integers(1, 25), st.floats(0, 3))
def test_a_smaller_working_set_keeps_the_proportions(count, exponent):
    mix = Mix.of(MODELS, exponent)
    few = mix.first(count)
    assert few.models == mix.models[:count]
    assert few.shares == pytest.approx(Mix.of(MODELS[:count], exponent).shares)


def test_models_are_drawn_as_often_as_their_share_says():
    mix, chance = Mix.of(MODELS[:3], zipf=1), Random(1)
    counted = Counter(mix.draw(chance) for _ in range(11_000))
    assert [counted[model] / 11_000 for model in mix.models] == pytest.approx(mix.shares, abs=0.02)


@pytest.mark.parametrize(("models", "zipf"), [([], 0), (["a", "a"], 0), (["a"], -1), (["a"], 6)])
def test_a_mix_without_sense_is_refused(models, zipf):
    with pytest.raises(InvalidConfiguration):
        Mix.of(models, zipf)


@given(st.floats(0.1, 1000), st.integers(0, 10))
def test_arrivals_grow_and_repeat_with_their_seed(rate, seed):
    times = list(islice(poisson(rate, seed), 50))
    assert times == sorted(times)
    assert times[0] > 0
    assert times == list(islice(poisson(rate, seed), 50))
    assert times != list(islice(poisson(rate, seed + 1), 50))


def test_arrivals_come_at_their_rate_with_exponential_gaps():
    times = list(islice(poisson(5.0, 0), 20_000))
    gaps = [after - before for before, after in pairwise([0.0, *times])]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.2, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)  # of an exponential they are equal


def test_another_popularity_leaves_times_and_prompts_as_they_were():
    plans = [
        list(islice(plan(poisson(2, 7), Mix.of(MODELS, zipf), WORDS, 7), 40)) for zipf in (0, 2)
    ]
    first, second = plans
    assert [(one.at_s, one.prompt) for one in first] == [(one.at_s, one.prompt) for one in second]
    assert [one.model for one in first] != [one.model for one in second]


@given(st.integers(1, 30), st.integers(1, 9), st.integers(4, 400), st.integers(0, 3))
def test_random_prompts_have_exact_lengths_and_ids_below_the_vocabulary(length, new, size, seed):
    wording = random_tokens(length, new, size)(Random(seed))
    assert len(wording.prompt) == length
    assert wording.new_tokens == new
    assert all(3 <= token < size for token in wording.prompt)


def test_wordings_of_a_task_are_all_drawn():
    wordings = [Wording(f"q{n}", n + 1) for n in range(5)]
    chance, draw = Random(0), drawn_from(wordings)
    assert {draw(chance) for _ in range(200)} == set(wordings)


@given(st.one_of(st.none(), st.integers(1, 30)), st.one_of(st.none(), st.floats(0.1, 10)))
def test_a_plan_ends_at_its_first_bound(requests, seconds):
    whole = list(islice(plan(poisson(4, 0), Mix.of(MODELS), WORDS, 0), 200))
    kept = list(within(whole, requests, seconds))
    assert kept == whole[: len(kept)]
    assert requests is None or len(kept) <= requests
    assert seconds is None or all(one.at_s < seconds for one in kept)
    if len(kept) < 200:
        assert len(kept) == requests or whole[len(kept)].at_s >= seconds


def test_the_base_is_asked_the_same_in_place_of_the_adapters():
    mix = Mix.of(MODELS)
    mixed = list(islice(plan(whenever_free(), mix, WORDS, 0), 20))
    base = list(islice(asking(plan(whenever_free(), mix, WORDS, 0), "tiny"), 20))
    assert {one.model for one in base} == {"tiny"}
    assert [one.prompt for one in base] == [one.prompt for one in mixed]
    assert all(one.at_s is None for one in base)


def test_a_trace_keeps_its_times_over_the_speed_and_its_lengths():
    rows = [
        TraceRow(time=t, adapter=a, prompt_tokens=p, new_tokens=n)
        for t, a, p, n in [(0, "x", 3, 4), (2, "", 5, 6)]
    ]
    first, second = plan_trace(rows, lambda name: f"<{name}>", 256, 0, speed=2)
    assert (first.at_s, first.model, len(first.prompt), first.new_tokens) == (0, "<x>", 3, 4)
    assert (second.at_s, second.model, len(second.prompt), second.new_tokens) == (1, "<>", 5, 6)


def test_all_mistakes_of_a_course_are_told_together():
    with pytest.raises(InvalidConfiguration) as caught:
        Course(clients=0, timeout_s=0, in_flight=10**9)
    for word in ("clients is 0", "timeout_s is 0", "in_flight", "has an end"):
        assert word in str(caught.value)


@pytest.mark.parametrize("wrong", [{"requests": 5, "warm_up": 5}, {"seconds": 1e9}])
def test_a_course_that_counts_nothing_or_never_ends_is_refused(wrong):
    with pytest.raises(InvalidConfiguration):
        Course(**wrong)


@pytest.mark.parametrize("rate", [0, -1, 1e6, float("nan")])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(InvalidConfiguration):
        check_rate(rate)
