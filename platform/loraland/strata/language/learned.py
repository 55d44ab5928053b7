"""An adapter and the rows it learned from, found again from its card: what an audit looks at.

Rows are read, checked and split exactly as the training did, so that a stratum's training examples
are those that the adapter saw. Knows the registry and the catalogue; loads no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraland.adapters.card import Card
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import DataRefused, InvalidName
from loraland.matrix.cell import Cell
from loraland.matrix.work import rest_of, split_validation
from loraland.storage import Storage
from loraland.strata.language.extraction import Prompt
from loraland.strata.language.verbalisers import verbalisers
from loraland.tasks.catalogue import get_task
from loraland.tasks.rehearsal import rehearsed
from loraland.tasks.sources import Split, load_split
from loraland.tasks.task import Item, Row, Task
from loraland.training.examples import Example, encode
from loraland.training.gate import inspect
from loraland.training.groups import example_key
from loraland.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUP = "group"  # the hidden column that names the true subclass, where a task has it


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples of an adapter's task in three splits, without repeated ones."""

    tokens: tuple[int, ...]  # the tokens that tell the labels apart
    train: list[Prompt]
    validation: list[Prompt]
    test: list[Prompt]
    train_examples: int  # distinct ones that the adapter learned from, looked at or not
    texts: dict[str, str]  # by key: the columns that a prompt shows
    subclasses: tuple[str, ...]  # names by number; empty: not known
    test_fingerprint: str
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Learned:
    """An adapter with its card, task and recipe."""

    name: ModelName  # with its version
    card: Card
    task: Task
    recipe: Recipe

    @classmethod
    def find(cls, model: str, storage: Storage) -> Learned:
        """Raises UnknownModel, UnknownTask, InvalidName for a base, DataRefused without labels."""
        if ModelName.parse(model).task is None:
            raise InvalidName(
                f"'{model}' is a base; an audit is of an adapter, written BASE/TASK, "
                "BASE/TASK:ALIAS or BASE/TASK@VERSION"
            )
        registry = Registry(storage)
        name = registry.resolve(model)
        card = registry.card(name)
        task = get_task(card.task)
        if len(task.labels) < 2:
            raise DataRefused(
                f"{name} answers freely: task '{task.name}' has no labels; strata are looked for "
                "in classification tasks, those with labels in the catalogue"
            )
        return cls(name, card, task, Recipe.model_validate(card.recipe))

    def cell(self, base: str | None = None, max_items: int | None = None) -> Cell:
        """What was asked for, as far as the card knows it. `base` is a path, if it was one."""
        data = "rehearsal" if self.card.data.source.startswith("rehearsal:") else "real"
        recipe, seed = self.recipe, self.card.seed
        task = self.task.name
        return Cell(base or self.card.base, task, recipe, seed, self._row_count(), max_items, data)  # type: ignore[arg-type]

    def read(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_tokens: int,
        *,
        max_items: int | None,
        max_train: int | None = None,
    ) -> Rows:
        """The rows as the run read them, the first `max_items` of the test split, at most
        `max_train` of the training rows. Raises DataRefused, SourceUnavailable.
        """
        rehearsal = self.card.data.source.startswith("rehearsal:")
        seed = self.card.seed
        train = load_split(
            self.task, "train", limit=self._row_count(), seed=seed, rehearsal=rehearsal
        )
        test = load_split(self.task, "test", limit=max_items, seed=seed, rehearsal=rehearsal)
        warnings = []
        if train.fingerprint != self.card.data.fingerprint:
            warnings.append(
                f"the train rows here ({train.source}) are not those that the adapter learned from "
                f"({self.card.data.source}): their fingerprints differ"
            )
        limit = min(self.recipe.max_length, context_tokens)  # of the base, as in the training
        report = inspect(
            self.task,
            train.items(),
            test.items(),
            tokenizer,
            held_out=rest_of(test),
            max_length=limit,
            drop_long=self.recipe.too_long == "drop",
            drop_overlap=self.recipe.overlap == "drop",
        )
        report.require_pass(self.task.name)
        task = rehearsed(self.task) if rehearsal else self.task
        parts = split_validation(report.examples, self.cell())
        return _rows(task, (train, test), parts, tokenizer, warnings, max_train)

    def _row_count(self) -> int:
        """Rows of the train split, before the gate left any out."""
        data = self.card.data
        return data.train_rows + data.validation_rows + data.dropped_long + data.dropped_overlap


def _rows(
    task: Task,
    splits: tuple[Split, Split],
    parts: tuple[list[Example], list[Example]],
    tokenizer: PreTrainedTokenizerBase,
    warnings: list[str],
    max_train: int | None,
) -> Rows:
    """Prompts of training, validation and held-out examples, each once."""
    training, validation = parts
    items = {"train": splits[0].items(), "test": splits[1].items()}
    encoded = {name: _encoded(each, tokenizer) for name, each in items.items()}
    by_key = {example_key(example): item for each in encoded.values() for item, example in each}
    held_out = [example for _, example in encoded["test"]]
    names = _subclass_names(by_key.values())
    answers = verbalisers(task, tokenizer, items["train"][0].prompt)

    def prompts(examples: Sequence[Example]) -> list[Prompt]:
        once = {example_key(example): example for example in examples}
        return [
            _prompt(key, example, answers.shared, by_key[key], task, names)
            for key, example in once.items()
        ]

    return Rows(
        tokens=answers.tokens,
        train=prompts(training[:max_train]),
        validation=prompts(validation),
        test=prompts(held_out),
        train_examples=len({example_key(example) for example in training}),
        texts={key: _text(task, item.row) for key, item in by_key.items()},
        subclasses=names,
        test_fingerprint=splits[1].fingerprint,
        warnings=warnings,
    )


def _encoded(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Item, Example]]:
    found = [(item, encode(item, tokenizer)) for item in items]
    return [(item, example) for item, example in found if isinstance(example, Example)]


def _prompt(
    key: str,
    example: Example,
    shared: tuple[int, ...],
    item: Item,
    task: Task,
    names: tuple[str, ...],
) -> Prompt:
    if item.target not in task.labels:
        raise DataRefused(
            f"a row of task '{task.name}' has answer {item.target[:60]!r}, which is none of its "
            f"labels {list(task.labels)}"
        )
    subclass = names.index(str(item.row[GROUP])) if names else None
    ids = (*example.ids[: example.prompt_tokens], *shared)
    return Prompt(key, ids, task.labels.index(item.target), subclass)


def _subclass_names(items: Iterable[Item]) -> tuple[str, ...]:
    """Sorted names of true subclasses; empty unless every row names one."""
    found = {item.row.get(GROUP) for item in items}
    return () if None in found else tuple(sorted(map(str, found)))


def _text(task: Task, row: Row) -> str:
    """The columns of a row that the prompt shows, one after the other: no words of the template."""
    return "\n".join(str(row[column]) for column in task.inputs if row.get(column) is not None)
