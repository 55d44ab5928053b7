"""Figures of a run: latencies with intervals, throughput, each adapter, fairness, the client.

Every figure is defined in docs/loadtest.md. Latencies count from when a request was due, of
answered requests alone; requests of the warm-up count nowhere. Pure.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy.stats import binom

from loraland.loadtest.outcome import NOT_SENT, ClientLoad, Outcome, Run

CONFIDENCE = 0.95
FAIR_REQUESTS = 5  # answers that an adapter needs, to be held against others
BUSY_CPU = 0.8  # of a core: one event loop has no more to give
LATE_MS, LATE_SHARE = 20.0, 0.1  # p99 of the client's lateness: at most, or of the median TTFT


class Times(NamedTuple):
    """A distribution of durations in milliseconds."""

    values: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    most_ms: float
    # 95 % intervals of the percentiles; an end is None where there are too few values to tell it.
    p50_interval: tuple[float | None, float | None]
    p95_interval: tuple[float | None, float | None]
    p99_interval: tuple[float | None, float | None]


class AdapterFigures(NamedTuple):
    """One model of a run."""

    model: str
    requests: int
    failed: int
    generated_tokens: int
    hits: int
    misses: int
    ttft_p50_ms: float | None  # None: nothing was answered
    tokens_per_s: float | None  # tokens of its answers over the time from due to end, summed


class Fairness(NamedTuple):
    """How alike adapters were served, by the tokens per second that their requests saw."""

    adapters: int  # with at least FAIR_REQUESTS answers
    least_tokens_per_s: float
    most_tokens_per_s: float
    least_over_most: float  # 1: all alike
    jain: float  # (sum x)^2 / (n sum x^2), Jain et al. 1984; 1: all alike


class ClientFigures(NamedTuple):
    """What the client itself took."""

    cpu_share: float  # of one core
    late_p99_ms: float  # of its timers
    sent_late_p99_ms: float  # from due to sent
    limits: tuple[str, ...]  # reasons to distrust this run; none: the client kept up


class Figures(NamedTuple):
    """All of one run."""

    requests: int  # counted: sent or due, without the warm-up
    answered: int
    errors: Mapping[str, int]  # by "<status> <code>", or what the client found
    unfinished: int  # cut off by an interruption
    seconds: float  # from when the first was due to the end of the last
    requests_per_s: float  # answered
    tokens_per_s: float  # generated, of answered requests
    prompt_tokens: int
    generated_tokens: int
    full_length: int  # answers as long as they were allowed to be
    hits: int  # answers whose adapter was on the device; with misses, those where that is known
    misses: int
    ttft: Times | None
    ttft_hit: Times | None
    ttft_miss: Times | None
    pause: Times | None  # between two events with text
    per_token: Times | None  # of each answer: from first event to end, over its other tokens
    total: Times | None  # from due to end
    adapters: tuple[AdapterFigures, ...]
    fairness: Fairness | None
    client: ClientFigures


def figures(run: Run, warm_up: int = 0) -> Figures:
    """The figures of a run without its first `warm_up` requests."""
    counted = [one for one in run.outcomes if one.number >= warm_up]
    good = [one for one in counted if one.error is None]
    hits = [one for one in good if one.hit is True]
    misses = [one for one in good if one.hit is False]
    seconds = _span(counted)
    ttft = times(map(ttft_ms, good))
    return Figures(
        requests=len(counted),
        answered=len(good),
        errors=dict(Counter(one.error for one in counted if one.error is not None).most_common()),
        unfinished=run.unfinished,
        seconds=seconds,
        requests_per_s=len(good) / seconds if seconds else 0.0,
        tokens_per_s=sum(one.generated_tokens for one in good) / seconds if seconds else 0.0,
        prompt_tokens=sum(one.prompt_tokens for one in good),
        generated_tokens=sum(one.generated_tokens for one in good),
        full_length=sum(one.generated_tokens >= one.asked_tokens for one in good),
        hits=len(hits),
        misses=len(misses),
        ttft=ttft,
        ttft_hit=times(map(ttft_ms, hits)),
        ttft_miss=times(map(ttft_ms, misses)),
        pause=times(pause for one in good for pause in one.pauses_ms),
        per_token=times(ms for one in good if (ms := per_token_ms(one)) is not None),
        total=times((one.end_s - one.due_s) * 1000 for one in good),
        adapters=tuple(_by_adapter(counted)),
        fairness=fairness(good),
        client=client_figures(run.client, counted, ttft),
    )


def times(values_ms: Iterable[float]) -> Times | None:
    """The distribution of some durations, None of none."""
    ordered = sorted(values_ms)
    if not ordered:
        return None
    return Times(
        len(ordered),
        statistics.fmean(ordered),
        percentile(ordered, 0.5),
        percentile(ordered, 0.95),
        percentile(ordered, 0.99),
        ordered[-1],
        percentile_interval(ordered, 0.5),
        percentile_interval(ordered, 0.95),
        percentile_interval(ordered, 0.99),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least `share` of all reach or stay below; a value that occurred."""
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


def percentile_interval(
    ordered: Sequence[float], share: float, confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """An interval of a percentile from order statistics, free of any distribution.

    The number of values below the true percentile is binomial (David and Nagaraja, Order
    Statistics, 2003, section 7.1). An end beyond the values is None.
    """
    count, tail = len(ordered), (1 - confidence) / 2
    low = int(binom.ppf(tail, count, share))
    high = int(binom.ppf(1 - tail, count, share)) + 1
    return ordered[low - 1] if low >= 1 else None, ordered[high - 1] if high <= count else None


def ttft_ms(one: Outcome) -> float:
    """From when an answered request was due to its first event."""
    assert one.first_s is not None
    return (one.first_s - one.due_s) * 1000


def per_token_ms(one: Outcome) -> float | None:
    """Milliseconds for each token after the first; None for answers of one token."""
    if one.first_s is None or one.generated_tokens < 2:
        return None
    return (one.end_s - one.first_s) * 1000 / (one.generated_tokens - 1)


def fairness(good: Iterable[Outcome]) -> Fairness | None:
    """How alike models with enough answers were served; None where there are not two of them."""
    mine: dict[str, list[Outcome]] = {}
    for one in good:
        mine.setdefault(one.model, []).append(one)
    speeds = [_speed(answers) for answers in mine.values() if len(answers) >= FAIR_REQUESTS]
    if len(speeds) < 2 or max(speeds) <= 0:
        return None
    jain = sum(speeds) ** 2 / (len(speeds) * sum(speed**2 for speed in speeds))
    return Fairness(len(speeds), min(speeds), max(speeds), min(speeds) / max(speeds), jain)


def client_figures(
    load: ClientLoad, counted: Sequence[Outcome], ttft: Times | None
) -> ClientFigures:
    """The client's own part, and why a run may tell of the client rather than of the server."""
    late = percentile(sorted(load.late_ms), 0.99) if load.late_ms else 0.0
    sent_late = sorted((one.sent_s - one.due_s) * 1000 for one in counted)
    bearable_ms = max(LATE_MS, LATE_SHARE * ttft.p50_ms if ttft else 0.0)
    limits = []
    if load.cpu_share > BUSY_CPU:
        limits.append(f"it used {load.cpu_share:.0%} of a core; use several clients")
    if late > bearable_ms:
        limits.append(f"its timers were {late:.0f} ms late (p99): its machine is overloaded")
    if unsent := sum(one.error == NOT_SENT for one in counted):
        limits.append(f"{unsent} requests were not sent, because too many were under way")
    sent_late_p99 = percentile(sent_late, 0.99) if sent_late else 0.0
    return ClientFigures(load.cpu_share, late, sent_late_p99, tuple(limits))


def _by_adapter(counted: Sequence[Outcome]) -> Iterable[AdapterFigures]:
    for model in sorted({one.model for one in counted}):
        mine = [one for one in counted if one.model == model]
        good = [one for one in mine if one.error is None]
        yield AdapterFigures(
            model,
            len(mine),
            len(mine) - len(good),
            sum(one.generated_tokens for one in good),
            sum(one.hit is True for one in good),
            sum(one.hit is False for one in good),
            percentile(sorted(map(ttft_ms, good)), 0.5) if good else None,
            _speed(good) if good else None,
        )


def _speed(answers: Sequence[Outcome]) -> float:
    seconds = sum(one.end_s - one.due_s for one in answers)
    return sum(one.generated_tokens for one in answers) / seconds if seconds else 0.0


def _span(counted: Sequence[Outcome]) -> float:
    if not counted:
        return 0.0
    return max(one.end_s for one in counted) - min(one.due_s for one in counted)
