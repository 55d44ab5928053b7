"""The data gate: sees every example before a step is paid for, refuses what would make it wrong.

Knows items, tokens and the task's own grader; knows no models. Each finding carries a reason and
example rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from loraland.errors import DataRefused, MetricUnavailable
from loraland.tasks.grading import grader_for
from loraland.tasks.sources import normalised_hash
from loraland.tasks.task import Item, Task
from loraland.training.examples import Example, Misfit, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_DROPPED_SHARE = 0.25  # more than this left out, and what is trained is another task
SHOWN = 3  # example rows per finding


class Finding(NamedTuple):
    """One thing that is wrong with the data."""

    reason: str
    rows: int  # how many examples it concerns
    shown: tuple[str, ...]  # a few of them, shortened

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.reason} ({self.rows} rows)", *(f"    {row}" for row in self.shown)]
        )


@dataclass(slots=True)
class GateReport:
    """What the gate lets through, and what it found."""

    examples: list[Example] = field(default_factory=list)  # what may be trained on
    dropped_long: int = 0  # train rows left out for their length, by the recipe's leave
    dropped_overlap: int = 0  # and for being in the test split
    refusals: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def require_pass(self, task: str) -> None:
        """Raises DataRefused with every refusal when there is one."""
        if self.refusals:
            findings = "\n".join(f"  - {finding}" for finding in self.refusals)
            raise DataRefused(f"the data gate refuses task '{task}':\n{findings}")


def inspect(
    task: Task,
    train: list[Item],
    test: list[Item],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    held_out: Sequence[Item] = (),
    drop_long: bool = False,
    drop_overlap: bool = False,
) -> GateReport:
    """Check all items of a cell; `max_length` is in tokens of prompt and answer together.

    `test` are the items to be judged on, `held_out` the rest of the test split, which no train row
    may come from either: another day it is judged on.
    """
    report = GateReport()
    items = _without_overlap(train, [*test, *held_out], report, drop=drop_overlap)
    encoded = [(item, encode(item, tokenizer)) for item in items]
    misfits = [(item, e) for item, e in encoded if isinstance(e, Misfit)]
    for reason in sorted({misfit.reason for _, misfit in misfits}):
        _add(report.refusals, reason, [item for item, misfit in misfits if misfit.reason == reason])
    fitting = [(item, e) for item, e in encoded if isinstance(e, Example)]
    _check_length(fitting, max_length, report, drop=drop_long)
    report.examples = [example for _, example in fitting if len(example.ids) <= max_length]
    dropped = report.dropped_long + report.dropped_overlap
    if dropped > MAX_DROPPED_SHARE * len(train):
        share = f"{dropped} of {len(train)} train rows"
        reason = f"{share} would be dropped, over {MAX_DROPPED_SHARE:.0%}"
        report.refusals.append(Finding(reason, dropped, ()))
    _check_answers(task, [*items, *test], fitting, report)
    if not report.examples and not report.refusals:
        report.refusals.append(Finding("there is nothing to train on", 0, ()))
    return report


def _without_overlap(
    train: list[Item], test: list[Item], report: GateReport, *, drop: bool
) -> list[Item]:
    seen = {normalised_hash(item.prompt) for item in test}
    both = [item for item in train if normalised_hash(item.prompt) in seen]
    if both and not drop:
        advice = "train rows whose prompt is in the test split; remove them, or set `overlap: drop`"
        _add(report.refusals, advice, both)
    if drop and both:
        report.dropped_overlap = len(both)
        _add(report.warnings, "the prompt is in the test split, left out", both)
        return [item for item in train if normalised_hash(item.prompt) not in seen]
    return train


def _check_length(
    fitting: list[tuple[Item, Example]], max_length: int, report: GateReport, *, drop: bool
) -> None:
    long = [item for item, example in fitting if len(example.ids) > max_length]
    if long and not drop:
        reason = f"the answer would be truncated at max_length {max_length}"
        _add(report.refusals, f"{reason}; raise it, or set `too_long: drop`", long)
    elif long:
        report.dropped_long = len(long)
        _add(report.warnings, f"longer than max_length {max_length} tokens, left out", long)


def _check_answers(
    task: Task, items: list[Item], fitting: list[tuple[Item, Example]], report: GateReport
) -> None:
    cut = [item for item in items if any(stop in item.target for stop in task.stop)]
    if cut:
        _add(report.refusals, f"the gold answer holds a stop string of the task {task.stop!r}", cut)
    limit = task.max_new_tokens
    slow = [item for item, example in fitting if len(example.supervised) > limit]
    if slow:
        _add(report.warnings, f"the gold answer is longer than max_new_tokens {limit}", slow)
    try:
        grader = grader_for(task)
        wrong = [item for item in items if grader.grade(item.target, item).score < 1.0]
    except MetricUnavailable as reason:
        report.warnings.append(Finding(f"gold answers not checked: {reason}", len(items), ()))
    else:
        if wrong:
            _add(report.refusals, f"the gold answer does not score 1 under '{task.metric}'", wrong)
    classes = Counter(item.target for item in items)
    if task.labels and len(classes) == 1:
        _add(
            report.warnings,
            f"every answer is {next(iter(classes))!r}; nothing can be told apart",
            items,
        )


def _add(findings: list[Finding], reason: str, items: list[Item]) -> None:
    shown = tuple(f"{item.prompt[-100:]!r} -> {item.target[:60]!r}" for item in items[:SHOWN])
    findings.append(Finding(reason, len(items), shown))
