"""The token by which each label of a task is told, and the refusal of labels that begin alike.

Some tokenizers give the space before an answer a token of its own; what all labels begin with is
put behind the prompt, and the token after it must tell them apart. Knows a tokenizer and labels;
knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from loraland.errors import DataRefused
from loraland.tasks.task import Item, Task
from loraland.training.examples import Misfit, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Verbalisers(NamedTuple):
    """How the labels of a task begin."""

    shared: tuple[int, ...]  # what all of them begin with; mostly nothing
    tokens: tuple[int, ...]  # the next token of each, all different, in the order of the labels


def verbalisers(task: Task, tokenizer: PreTrainedTokenizerBase, prompt: str) -> Verbalisers:
    """The tokens of a task's labels after one of its prompts.

    Raises DataRefused for a task without a closed set of answers, and for labels that cannot be
    told apart by one token: their logits would be the same numbers.
    """
    if len(task.labels) < 2:
        raise DataRefused(
            f"task '{task.name}' has no closed set of answers; strata are looked for among the "
            "answers of a classification task, one with `labels` in the catalogue "
            "(`loraland tasks list`)"
        )
    answers = [_answer(label, task, tokenizer, prompt) for label in task.labels]
    shared = 0
    while len({answer[shared : shared + 1] for answer in answers}) == 1 and answers[0][shared:]:
        shared += 1
    by_token: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for label, answer in zip(task.labels, answers, strict=True):
        by_token[answer[shared : shared + 1]].append(label)
    clashes = {token: labels for token, labels in by_token.items() if len(labels) > 1}
    if clashes:
        told = "; ".join(
            f"{' and '.join(map(repr, labels))} with {tokenizer.decode(list(token))!r}"
            for token, labels in clashes.items()
        )
        raise DataRefused(
            f"labels of task '{task.name}' begin alike: {told}. One token must tell each label "
            "from all others; rename such labels, or merge them"
        )
    return Verbalisers(answers[0][:shared], tuple(answer[shared] for answer in answers))


def _answer(
    label: str, task: Task, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> tuple[int, ...]:
    """The tokens of a label with the end token, so that no label is the beginning of another."""
    found = encode(Item(prompt, label, {}), tokenizer)
    if isinstance(found, Misfit):
        raise DataRefused(f"label '{label}' of task '{task.name}': {found.reason}")
    return found.supervised
