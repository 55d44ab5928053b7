"""Accuracy over a closed set of labels: strict, by the report's lenient rules, and over classes.

Pure text, but for the scores over all answers, which scikit-learn computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loraland.tasks.metrics.grade import UNREADABLE, Grade, Judged
from loraland.tasks.task import Item

# The order in which the report's harness looks for words, wherever they stand in the output.
BOOLEANS = (
    ("1", True), ("0", False), ("yes", True), ("no", False),
    ("true", True), ("false", False), ("positive", True), ("negative", False),
)  # fmt: skip
_NUMBER = re.compile(r"\d{1,18}(?:\.\d{1,18})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class LabelGrader:
    """Accuracy over a closed set: the output is one label, up to case and one final period."""

    labels: tuple[str, ...]

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when the label is the gold one; unreadable when it is none of the labels."""
        found = self._label(output)
        return (
            UNREADABLE if found is None else Grade(found, float(found == self._label(item.target)))
        )

    def _label(self, text: str) -> str | None:
        said = text.strip().casefold()
        for label in self.labels:
            if said in (label.casefold(), f"{label.casefold()}."):
                return label
        return None


# Lenient rules. Those of the report's harness (predibase/lora_bakeoff) reward rambling; they are
# here so that its numbers can be compared with ours, never for the headline.


def boolean(output: str, target: str, labels: Sequence[str]) -> bool:
    """`binary_accuracy_flex`: the first of BOOLEANS found anywhere, compared as truth values."""
    said, gold = _boolean(output), _boolean(target)
    return said is not None and said == gold


def _boolean(text: str) -> bool | None:
    lowered = text.lower()
    return next((value for word, value in BOOLEANS if word in lowered), None)


def contains(output: str, target: str, labels: Sequence[str]) -> bool:
    """`mnli_`, `hellaswag_`, `customer_support_accuracy`: the gold label occurs in the output.

    Also for mrpc, where theirs looks for labels 1 and 2 that the data do not have.
    """
    return target.strip().lower() in output.lower()


def first_number(output: str, target: str, labels: Sequence[str]) -> bool:
    """`mmlu_accuracy`: the first number of the output is the gold one."""
    said, gold = _NUMBER.search(output), _NUMBER.search(target)
    return said is not None and gold is not None and float(said[0]) == float(gold[0])


def first_label(output: str, target: str, labels: Sequence[str]) -> bool:
    """The label that is named first, as words of its own, is the gold one.

    Ours, for tasks whose rule the report names and does not publish, or that it judges by ROUGE.
    """
    longest_first = sorted((label.casefold() for label in labels), key=len, reverse=True)
    pattern = "|".join(re.escape(label) for label in longest_first)
    found = re.search(rf"(?<!\w)(?:{pattern})(?!\w)", output.casefold())
    return found is not None and found[0] == target.strip().casefold()


LenientRule = Callable[[str, str, Sequence[str]], bool]
RULES: dict[str, LenientRule] = {
    rule.__name__: rule for rule in (boolean, contains, first_number, first_label)
}


# Over all answers. What is unreadable counts as a class of its own, which is never right.


def macro_f1(answers: Sequence[Judged]) -> float | None:
    """The mean over gold classes of their F1."""
    from sklearn.metrics import f1_score

    gold, said = _classes(answers)
    found: Any = f1_score(gold, said, labels=sorted(set(gold)), average="macro", zero_division=0.0)
    return float(found)


def matthews(answers: Sequence[Judged]) -> float | None:
    """Matthews' correlation coefficient, -1 to 1; None when there is one class only."""
    from sklearn.metrics import matthews_corrcoef

    gold, said = _classes(answers)
    return None if len(set(gold)) < 2 else float(matthews_corrcoef(gold, said))


def _classes(answers: Sequence[Judged]) -> tuple[list[str], list[str]]:
    gold = [answer.item.target.casefold() for answer in answers]
    return gold, [(answer.grade.parsed or "").casefold() for answer in answers]
