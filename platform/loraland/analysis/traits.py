"""What can be known of every task before it is trained, in numbers that are comparable.

Four traits, chosen before any fit was seen, though with Figure 8 in sight: the report's own facts
where it has them (lengths, train rows), the catalogue's for the rest (labels, longest answer).
Knows no scores.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from loraland.analysis.heuristics import Heuristics
from loraland.analysis.study import Study
from loraland.errors import InvalidConfiguration
from loraland.tasks.catalogue import get_task
from loraland.tasks.task import Task

# Characters / this, at the 95th percentile of 13 tasks' examples, is 0.89 to 1.21 of the report's
# tiktoken tokens; of two more tasks the rows at hand are not the report's.
CHARACTERS_PER_TOKEN = 4.0
ANSWER_CAP = 3.0  # the catalogue's longest answer / the 95th percentile: median of 7 open tasks 2.7
LEAST_ANSWER_CAP = 8  # the catalogue's smallest
REPEATS = 5.0  # answers come from a closed set when each is seen so often on average


class Traits(NamedTuple):
    """Of one task."""

    p95_tokens: float  # of prompt and answer together
    train_examples: int
    labels: int  # of a closed set of answers; 0: the answer is open
    answer_tokens: int  # most that an answer may have

    def features(self) -> tuple[float, ...]:
        """The numbers that a regression sees, in the order of FEATURES."""
        chance = 1 / self.labels if self.labels else 0.0
        return (
            math.log10(self.p95_tokens),
            math.log10(self.train_examples),
            chance,
            math.log10(self.answer_tokens),
        )


FEATURES = ("log p95 tokens", "log train examples", "chance", "log longest answer")


def published_traits(study: Study) -> dict[str, Traits]:
    """Of the report's 31 tasks."""
    found = {}
    for name, facts in study.tasks.items():
        task = get_task(name)
        found[name] = Traits(
            facts.p95_tokens, facts.train_rows, len(task.labels), task.max_new_tokens
        )
    return found


def traits_of(measured: Heuristics, task: Task | None = None) -> Traits:
    """Of a task whose examples were measured in tokens or characters.

    The catalogue's entry decides about labels and the longest answer where there is one; else they
    are taken from the examples. Raises InvalidConfiguration for lengths in another unit.
    """
    per_token = {"tokens": 1.0, "characters": CHARACTERS_PER_TOKEN}.get(measured.unit)
    if per_token is None:
        raise InvalidConfiguration(
            f"lengths in {measured.unit} are not comparable with the report's tokens; "
            "measure in tokens or characters"
        )
    if task is not None:
        labels, answer = len(task.labels), task.max_new_tokens
    else:
        labels = measured.answers if measured.measured / measured.answers >= REPEATS else 0
        answer = math.ceil(ANSWER_CAP * measured.output_length.p95 / per_token)
    length = max(1.0, measured.example_length.p95 / per_token)
    return Traits(length, measured.train_examples, labels, max(LEAST_ANSWER_CAP, answer))
