"""Cuts long sequences into segments, and says whether they may be cut there. Pure.

Proposition 1 of the paper: where a target sequence falls into independent segments, one cell that
is unrolled over each of them, from a state of zero, trains and infers like the whole (equations 42
to 77). Whether segments are independent is a property of the data; `dependence` measures one sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loraland.errors import InvalidConfiguration

Floats = NDArray[np.float64]


class Segment(NamedTuple):
    """Steps of a long sequence: start j(m), equation 42, and the end behind it."""

    start: int
    end: int

    @property
    def steps(self) -> int:
        """K_m."""
        return self.end - self.start


def segments(steps: int, length: int) -> list[Segment]:
    """Disjoint segments of `length` steps that cover `steps`; the last may be shorter.

    Raises InvalidConfiguration.
    """
    if steps < 1 or length < 1:
        raise InvalidConfiguration(
            f"{steps} steps cannot be cut into segments of {length}; both must be at least 1"
        )
    return [Segment(n, min(n + length, steps)) for n in range(0, steps, length)]


def segments_at(steps: int, boundaries: Sequence[int]) -> list[Segment]:
    """Disjoint segments that begin at 0 and at each boundary. Raises InvalidConfiguration."""
    edges = [0, *boundaries, steps]
    if any(b <= a for a, b in pairwise(edges)):
        raise InvalidConfiguration(
            f"boundaries {list(boundaries)} do not cut {steps} steps; give rising numbers from 1 "
            f"to {steps - 1}"
        )
    return [Segment(a, b) for a, b in pairwise(edges)]


class Dependence(NamedTuple):
    """How much the end of a segment tells of the beginning of the next."""

    correlation: float  # the largest over pairs of features, absolute
    p_value: float  # of one as large under shuffled neighbours
    pairs: int  # neighbouring segments

    @property
    def independent(self) -> bool:
        """Whether shuffled neighbours often correlate as much; no proof of independence."""
        return self.p_value > 0.05


def dependence(
    targets: Floats, cut: Sequence[Segment], seed: int = 0, draws: int = 499
) -> Dependence:
    """Hold the last target of each segment against the first of the next.

    `targets` is (steps, features). The largest absolute correlation over features is compared with
    those of shuffled neighbours. Linear, and of neighbours alone: a small p-value shows dependence,
    a large one shows that this test saw none. Raises InvalidConfiguration below eight segments.
    """
    if len(cut) < 8:
        raise InvalidConfiguration(
            f"{len(cut)} segments are too few to tell; give at least 8: shorter ones, or more data"
        )
    last = np.stack([targets[one.end - 1] for one in cut[:-1]])
    first = np.stack([targets[one.start] for one in cut[1:]])
    seen = _largest(last, first)
    shuffle = np.random.default_rng(seed)
    by_chance = [_largest(last, shuffle.permutation(first)) for _ in range(draws)]
    as_large = sum(one >= seen - 1e-12 for one in by_chance)
    return Dependence(seen, (1 + as_large) / (1 + draws), len(last))


def _largest(a: Floats, b: Floats) -> float:
    first, second = _scaled(a), _scaled(b)
    return float(np.abs(first.T @ second / len(a)).max())


def _scaled(values: Floats) -> Floats:
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
