"""Adapters beside their base: the share of its throughput that is left, over rounds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from loraland.loadtest.summary import Figures


class Ratio(NamedTuple):
    """One figure of the adapters over the same of the base, by rounds."""

    median: float
    least: float
    most: float
    rounds: tuple[float, ...]


class AgainstBase(NamedTuple):
    """What is compared; None where a round had no answers to compare."""

    throughput: Ratio | None  # of generated tokens per second; 1: adapters cost nothing
    ttft: Ratio | None  # of medians; above 1: adapters answer later
    per_token: Ratio | None  # of medians


def order_of(number: int) -> tuple[bool, bool]:
    """Whether the base is asked, first and second, in a round: in turns, so that a drift hits both.

    >>> order_of(0), order_of(1)
    ((False, True), (True, False))
    """
    return (True, False) if number % 2 else (False, True)


def against_base(mixed: Sequence[Figures], base: Sequence[Figures]) -> AgainstBase:
    """The ratios of rounds in which the same schedule was asked of both."""
    pairs = list(zip(mixed, base, strict=True))
    return AgainstBase(
        _ratio([(ours.tokens_per_s, theirs.tokens_per_s) for ours, theirs in pairs]),
        _ratio([(_median(ours.ttft), _median(theirs.ttft)) for ours, theirs in pairs]),
        _ratio([(_median(ours.per_token), _median(theirs.per_token)) for ours, theirs in pairs]),
    )


def _median(times: object) -> float:
    return getattr(times, "p50_ms", 0.0)


def _ratio(pairs: Sequence[tuple[float, float]]) -> Ratio | None:
    if not pairs or any(ours <= 0 or theirs <= 0 for ours, theirs in pairs):
        return None
    ratios = tuple(ours / theirs for ours, theirs in pairs)
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), ratios)
