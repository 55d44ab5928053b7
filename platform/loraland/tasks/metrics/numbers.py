"""Answers that are or end in a number: distances on a scale, the last number, the marked number.

Pure text, but for correlations over all answers, which scipy computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from loraland.tasks.metrics.grade import UNREADABLE, Grade, Judged
from loraland.tasks.task import Item

# A minus counts when no digit, letter or bracket stands before it, a comma between thousands.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?", re.ASCII)
_MARK = "####"  # stands before the result in GSM8K


@dataclass(frozen=True, slots=True)
class DistanceGrader:
    """1 - |d| / span for a number between bounds: what the report calls mae, higher is better."""

    low: float
    high: float

    def grade(self, output: str, item: Item) -> Grade:
        """Score in [0, 1]; unreadable when the whole output is not a number within the bounds."""
        said, gold = self._number(output), self._number(item.target)
        if said is None or gold is None:
            return UNREADABLE
        return Grade(f"{said:g}", self._closeness(said, gold))

    def lenient(self, output: str, item: Item) -> float:
        """The same of the first number that stands anywhere in the output; 0 when off the scale."""
        found, gold = _NUMBER.search(output), self._number(item.target)
        said = self._number(found[0]) if found else None
        return 0.0 if said is None or gold is None else self._closeness(said, gold)

    def _closeness(self, said: float, gold: float) -> float:
        return 1.0 - abs(said - gold) / (self.high - self.low)

    def _number(self, text: str) -> float | None:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,30})?)\.?", text.strip(), re.ASCII)
        if match is None or not self.low <= float(match[1]) <= self.high:
            return None
        return float(match[1])


class LastNumberGrader:
    """The last number of the output equals the last number of the gold answer."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when equal as numbers; unreadable without a number."""
        said, gold = _last_number(output), _last_number(item.target)
        return UNREADABLE if said is None else Grade(str(said), float(said == gold))


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def marked_number(output: str, item: Item) -> float:
    """1 when the last line is `#### n` and n is the gold number: the form that was asked for."""
    said = _marked(output)
    return float(said is not None and said == _last_number(item.target))


def marked_readable(output: str, item: Item) -> float:
    """1 when the last line is `####` and one number, right or wrong."""
    return float(_marked(output) is not None)


def _marked(text: str) -> Decimal | None:
    last = text.strip().rsplit("\n", 1)[-1]
    number = last.removeprefix(_MARK).strip().removeprefix("$").removesuffix(".")
    if not last.startswith(_MARK) or _NUMBER.fullmatch(number) is None:
        return None
    return Decimal(number.replace(",", ""))


def pearson(answers: Sequence[Judged]) -> float | None:
    """Pearson's correlation of readable numbers with gold; None when it is not defined."""
    return _correlation("pearsonr", answers)


def spearman(answers: Sequence[Judged]) -> float | None:
    """Spearman's rank correlation of readable numbers with gold; None when it is not defined."""
    return _correlation("spearmanr", answers)


def _correlation(name: str, answers: Sequence[Judged]) -> float | None:
    from scipy import stats

    pairs = [(a.grade.parsed, a.item.target) for a in answers if a.grade.parsed is not None]
    said, gold = [float(pair[0]) for pair in pairs], [float(pair[1]) for pair in pairs]
    if len(set(said)) < 2 or len(set(gold)) < 2:
        return None
    found: Any = getattr(stats, name)(said, gold)
    return float(found.statistic) if math.isfinite(found.statistic) else None
