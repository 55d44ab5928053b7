"""What a key may use: never more than stated, in any order, and not twice for one request."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.serving.access.books import DAY_S, Allowance, Books, Bucket, Claim


class Time:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


IDS = count()


def claim(tokens=0, requests=0, running=0, key="k", lasts_s=1e9, name=None):
    return Claim(name or f"c{next(IDS)}", key, requests, tokens, running, lasts_s)


def books(full_after=60.0, wall=0.0):
    """Books whose buckets have filled, and their clock."""
    clock = Time()
    made = Books(clock, lambda: wall + clock.now)
    clock.now = full_after
    return made, clock


def most_in_any_span(moments, span):
    """The largest sum of amounts within any `span` seconds."""
    return max(
        (sum(a for at, a in moments if start <= at <= start + span) for start, _ in moments),
        default=0,
    )


waits = st.lists(st.sampled_from([0, 0, 0.1, 0.5, 1, 3, 10, 61]), max_size=80)


@given(waits=waits, limit=st.integers(1, 60))
def test_no_minute_sees_more_requests_than_limit_and_burst(waits, limit):
    allowance = Allowance(requests_per_minute=limit)
    made, clock = books()
    passed = []
    for wait in waits:
        clock.now += wait
        if made.claim(claim(requests=1), allowance).refused is None:
            passed.append((clock.now, 1))
    for span in (0, 1, 60):
        most = allowance.requests_burst + limit * span / 60
        assert most_in_any_span(passed, span) <= most + 1e-6


steps = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0.5, 2, 20, 61]),  # seconds that pass
        st.integers(1, 130),  # tokens claimed
        st.integers(0, 100),  # per cent of them that it takes
        st.integers(0, 5),  # which of those under way ends now
    ),
    max_size=60,
)


@given(steps=steps, limit=st.integers(1, 120), day=st.one_of(st.none(), st.integers(1, 500)))
def test_tokens_spent_stay_within_the_minute_and_the_day_however_answers_overlap(steps, limit, day):
    allowance = Allowance(tokens_per_minute=limit, tokens_per_day=day)
    made, clock = books()
    under_way, spent = [], []
    for wait, tokens, share, which in steps:
        clock.now += wait
        asked = claim(tokens)
        if made.claim(asked, allowance).refused is None:
            under_way.append((asked, tokens * share // 100))
        if which < len(under_way):
            ending, used = under_way.pop(which)
            made.settle(ending, allowance, used, made.life)
            spent.append((clock.now, used))
    for span in (0, 10, 60, 100):
        assert most_in_any_span(spent, span) <= limit + limit * span / 60 + 1e-6
    assert day is None or sum(amount for _, amount in spent) <= day


@given(steps=steps, limit=st.integers(1, 120))
def test_nothing_new_begins_while_more_was_spent_than_was_held(steps, limit):
    """Answers may come out longer than estimated; that is owed, and paid before the next one."""
    allowance = Allowance(tokens_per_minute=limit)
    made, clock = books()
    spent = 0
    for wait, tokens, share, _ in steps:
        clock.now += wait
        asked = claim(tokens)
        if made.claim(asked, allowance).refused is None:
            assert spent + tokens <= limit * (1 + clock.now / 60) + 1e-6
            made.settle(asked, allowance, tokens + share, made.life)
            spent += tokens + share


@given(
    sizes=st.permutations([30, 30, 30, 10]),
    other=st.permutations([30, 30, 30, 10]),
)
def test_claims_that_fit_together_are_all_granted_in_any_order_from_any_gateway(sizes, other):
    for order in (sizes, other):
        made, _ = books()
        allowance = Allowance(tokens_per_minute=100)
        replies = [made.claim(claim(size), allowance).refused for size in order]
        assert replies == [None] * 4
        assert made.claim(claim(1), allowance).refused == "tokens"


def test_a_limit_of_sixty_requests_lets_ten_come_at_once_then_one_a_second():
    allowance = Allowance(requests_per_minute=60)
    made, clock = books()
    replies = [made.claim(claim(requests=1), allowance) for _ in range(12)]
    assert [reply.refused for reply in replies] == [None] * 10 + ["requests"] * 2
    assert replies[-1].retry_after_s == pytest.approx(1.0)
    assert replies[0].requests == (60, 9, pytest.approx(1.0))
    clock.now += 1
    assert made.claim(claim(requests=1), allowance).refused is None
    assert made.claim(claim(requests=1), allowance).refused == "requests"


def test_books_that_have_just_been_opened_give_out_what_has_refilled_since():
    allowance = Allowance(requests_per_minute=60, tokens_per_minute=600)
    made, clock = books(full_after=0)
    assert made.claim(claim(requests=1), allowance).refused == "requests"
    clock.now = 2
    assert made.claim(claim(requests=1, tokens=20), allowance).refused is None
    assert made.claim(claim(tokens=1), allowance).refused == "tokens"


def test_a_claim_that_is_asked_again_counts_once():
    allowance = Allowance(requests_per_minute=60, tokens_per_minute=60, concurrent=1)
    made, _ = books()
    same = claim(tokens=40, requests=1, running=1)
    first, again = made.claim(same, allowance), made.claim(same, allowance)
    assert (first.refused, again) == (None, first)


def test_a_refused_claim_takes_nothing():
    allowance = Allowance(requests_per_minute=60, tokens_per_minute=60, concurrent=2)
    made, _ = books()
    before = made.claim(claim(requests=1, running=1), allowance)
    assert made.claim(claim(tokens=61), allowance).refused == "too_large"
    for _ in range(3):
        made.claim(claim(tokens=50, requests=11), allowance)
    after = made.claim(claim(requests=1, running=1), allowance)
    assert after.requests.remaining == before.requests.remaining - 1
    assert after.tokens.remaining == 60


def test_requests_under_way_are_bounded_until_they_end():
    allowance = Allowance(concurrent=2)
    made, _ = books()
    first, second, third = (claim(running=1) for _ in range(3))
    assert [made.claim(c, allowance).refused for c in (first, second, third)] == [
        None, None, "concurrent",
    ]  # fmt: skip
    made.settle(first, allowance, 0, made.life)
    assert made.claim(third, allowance).refused is None


def test_a_claim_that_nobody_settles_counts_whole_when_its_time_is_over():
    allowance = Allowance(tokens_per_minute=100, concurrent=1)
    made, clock = books()
    lost = claim(tokens=80, running=1, lasts_s=30)
    made.claim(lost, allowance)
    clock.now += 29
    assert made.claim(claim(running=1), allowance).refused == "concurrent"
    clock.now += 1
    reply = made.claim(claim(running=1), allowance)
    assert (reply.refused, reply.tokens.remaining) == (None, 20)
    made.settle(lost, allowance, 80, made.life)  # late, and counted already
    assert made.claim(claim(running=0), allowance).tokens.remaining == 20


def test_what_other_books_admitted_is_held_again_and_counted_when_it_ends():
    allowance = Allowance(tokens_per_minute=100, concurrent=1)
    before, _ = books()
    asked = claim(tokens=60, running=1)
    before.claim(asked, allowance)
    after, _ = books()
    after.restore(asked, allowance)
    after.restore(asked, allowance)
    assert after.claim(claim(running=1), allowance).refused == "concurrent"
    assert after.claim(claim(tokens=41), allowance).refused == "tokens"
    after.settle(asked, allowance, 50, after.life)
    assert after.claim(claim(), allowance).tokens.remaining == 50
    forgotten, _ = books()
    forgotten.settle(asked, allowance, 50, before.life)
    assert forgotten.claim(claim(), allowance).tokens.remaining == 50


def test_a_quota_ends_with_the_day_and_says_how_long_that_is():
    allowance = Allowance(tokens_per_day=100)
    made, clock = books(wall=DAY_S - 3600 - 60)
    spent = claim(tokens=100)
    assert made.claim(spent, allowance).refused is None
    held = made.claim(claim(tokens=1), allowance)
    assert (held.refused, held.retry_after_s) == ("tokens_day", 1.0)
    made.settle(spent, allowance, 100, made.life)
    over = made.claim(claim(tokens=1), allowance)
    assert (over.refused, over.retry_after_s) == ("tokens_day", pytest.approx(3600))
    clock.now += 3600
    assert made.claim(claim(tokens=100), allowance).refused is None


def test_keys_do_not_share_what_they_have():
    allowance = Allowance(tokens_per_minute=10)
    made, _ = books()
    assert made.claim(claim(tokens=10, key="a"), allowance).refused is None
    assert made.claim(claim(tokens=10, key="b"), allowance).refused is None


def test_what_is_written_ahead_covers_what_is_given_out_and_never_exceeds_the_quota():
    allowance = Allowance(tokens_per_day=1000)
    made, _ = books()
    made.begin_day("k", allowance, 0)
    assert made.missing_promise("k", allowance) is None
    made.claim(claim(tokens=500), allowance)
    assert made.missing_promise("k", allowance) == 510
    made.promised("k", 510)
    made.claim(claim(tokens=10), allowance)
    assert made.missing_promise("k", allowance) is None
    made.claim(claim(tokens=490), allowance)
    assert made.missing_promise("k", allowance) == 1000


def test_a_clock_that_stands_still_or_a_bucket_that_is_overdrawn_gives_nothing():
    bucket = Bucket(10, 60, 10, now=5.0)
    bucket.spend(25, now=5.0)
    assert bucket.level(5.0) == -15
    assert bucket.level(4.0) == -15
    assert bucket.wait_s(1, now=5.0) == 16
    assert bucket.level(100.0) == 10
