"""Which answers of a cell are shown, and in which order: what the adapter broke comes first.

Pure: told the samples of adapter and base. An answer is called right from a score of RIGHT on,
which for a metric of zeros and ones is what everybody means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import fmean
from typing import Literal, NamedTuple

from loraland.evaluation.comparison import same_items
from loraland.evaluation.samples import Sample

Outcome = Literal["broken", "mended", "both_wrong", "both_right"]
OUTCOMES: dict[Outcome, str] = {  # in the order in which they are shown
    "broken": "base right, adapter wrong",
    "mended": "base wrong, adapter right",
    "both_wrong": "both wrong",
    "both_right": "both right",
}
# Where not all are shown, half of them are of what the adapter broke, as long as there are any.
TURNS: tuple[Outcome, ...] = (
    "broken", "mended", "broken", "both_wrong", "broken", "both_right",
)  # fmt: skip
RIGHT = 0.5  # score
MAX_CHARACTERS = 4_000  # of one text; a prompt may hold a whole article


class Pair(NamedTuple):
    """What adapter and base said to one item."""

    ours: Sample
    theirs: Sample

    @property
    def outcome(self) -> Outcome:
        """Who of the two was right."""
        right = self.theirs.score >= RIGHT, self.ours.score >= RIGHT
        names: dict[tuple[bool, bool], Outcome] = {
            (True, False): "broken",
            (False, True): "mended",
            (False, False): "both_wrong",
            (True, True): "both_right",
        }
        return names[right]


class Side(NamedTuple):
    """All answers of one model, in numbers."""

    tokens: float  # generated, mean over answers
    cut_off: int  # answers that ended at the limit of their length


class Excerpt(NamedTuple):
    """Some answers of a cell, and how many there are."""

    shown: tuple[Pair, ...]
    total: int
    counts: Mapping[Outcome, int]  # of all, shown or not
    ours: Side
    theirs: Side


def excerpt(ours: Sequence[Sample], theirs: Sequence[Sample], most: int) -> Excerpt:
    """At most so many pairs of answers to the same items.

    Raises ValueError when the items are not the same.
    """
    if not same_items(ours, theirs):
        raise ValueError("the answers are to different items")
    pairs = [Pair(*both) for both in zip(ours, theirs, strict=True)]
    groups: dict[Outcome, list[Pair]] = {outcome: [] for outcome in OUTCOMES}
    for pair in pairs:
        groups[pair.outcome].append(pair)
    for group in groups.values():  # the greatest change first; equal ones as they were asked
        group.sort(key=lambda pair: -abs(pair.ours.score - pair.theirs.score))
    taken = _shares({outcome: len(group) for outcome, group in groups.items()}, most)
    return Excerpt(
        shown=tuple(pair for outcome, group in groups.items() for pair in group[: taken[outcome]]),
        total=len(pairs),
        counts={outcome: len(group) for outcome, group in groups.items()},
        ours=_side(ours),
        theirs=_side(theirs),
    )


def clipped(text: str, most: int = MAX_CHARACTERS) -> str:
    """The text, or its beginning and end with a word on what is between them."""
    if len(text) <= most:
        return text
    tail = most // 3  # the question is often at the end
    left_out = f"\n[… {len(text) - most:,} characters left out …]\n"
    return text[: most - tail] + left_out + text[-tail:]


def _shares(sizes: Mapping[Outcome, int], most: int) -> Counter[Outcome]:
    """How many of each outcome are shown."""
    taken: Counter[Outcome] = Counter()
    goal = min(most, sum(sizes.values()))
    turns = cycle(TURNS)
    while taken.total() < goal:
        outcome = next(turns)
        if taken[outcome] < sizes[outcome]:
            taken[outcome] += 1
    return taken


def _side(samples: Sequence[Sample]) -> Side:
    return Side(
        tokens=fmean(sample.tokens for sample in samples) if samples else 0.0,
        cut_off=sum(sample.finish_reason == "length" for sample in samples),
    )
