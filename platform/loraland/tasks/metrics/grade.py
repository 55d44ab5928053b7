"""The contract of all metrics: what a grade is, what a grader and a secondary score promise.

Pure; knows no particular metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from loraland.tasks.task import Item


@dataclass(frozen=True, slots=True)
class Grade:
    """One answer, judged."""

    parsed: str | None  # what was understood, in a canonical form; None: the output is unreadable
    score: float  # the headline, in [0, 1]; 0 when unreadable
    secondary: Mapping[str, float] = field(default_factory=dict)  # by name, each in [0, 1]


UNREADABLE = Grade(None, 0.0)


class Grader(Protocol):
    """Judges answers of one task."""

    def grade(self, output: str, item: Item) -> Grade:
        """Judge an output, cut at the task's stop strings, against an item's gold answer.

        The gold answer itself scores exactly 1.0. Raises nothing, whatever the output. An item
        without what the metric needs raises MetricUnavailable.
        """
        ...


class Judged(NamedTuple):
    """An item with what was answered and how that was graded."""

    item: Item
    output: str | None  # None: no answer came
    grade: Grade


OfItem = Callable[[str, Item], float]  # output and item to a score in [0, 1]; raises nothing
# All answers of a model to one number, which has a scale of its own (Matthews: -1 to 1); None
# where it is not defined for them.
OfAll = Callable[[Sequence[Judged]], float | None]
