"""What a task is: a prompt with named columns, a target column, a metric, sources of rows.

Pure data and text. Knows nothing of tokens, models, files or Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

Row = Mapping[str, Any]  # one row of a source: column name -> value
SplitName = Literal["train", "test"]


class Item(NamedTuple):
    """One question with its gold answer."""

    prompt: str  # ends in an answer cue, without a trailing space
    target: str  # without surrounding white space
    row: Row  # the columns it was made of, for graders that need them


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set of the hub, and how its rows become ours."""

    path: str  # e.g. "fancyzhx/dbpedia_14"
    train: str | None  # split name on the hub; None when training rows are elsewhere
    test: str | None  # the split the report evaluates on; None when it is elsewhere
    configurations: tuple[str, ...] = ()  # their rows follow one another; none: the hub's default
    revision: str | None = None  # e.g. "refs/convert/parquet"
    convert: str | None = None  # a name in tasks/converters.py; None: the columns are ours already


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What replaces a task's own prompt and columns where it is tested on another data set."""

    prompt: str
    inputs: tuple[str, ...]
    target: str
    hidden: tuple[str, ...] = ()  # columns for the grader alone, kept where a source has them
    hub: HubSource | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One of the catalogue's tasks."""

    name: str
    category: str
    description: str
    prompt: str  # template; {column} marks an input column
    inputs: tuple[str, ...]
    target: str
    metric: str  # of the headline score; a name in tasks/grading.py
    secondary: tuple[str, ...] = ()  # scores beside it; names in tasks/grading.py
    lenient: str | None = None  # how a lenient parser reads an answer; None: there is none
    hidden: tuple[str, ...] = ()  # as in Evaluation
    labels: tuple[str, ...] = ()  # the closed set of answers; empty when the answer is open
    stop: tuple[str, ...] = ("\n",)  # strings at which an answer ends, the same for every model
    max_new_tokens: int = 64
    hub: HubSource | None = None
    origin: str = ""  # where the data is to be had when it is not on the hub
    generator: str | None = None  # a name in tasks/generated/
    splits: Mapping[str, int | None] | None = None  # published rows of train, validation, test
    evaluation_split: str = "test"  # the split the report's scores come from
    evaluation: Evaluation | None = None  # None: the test rows have the shape of the train rows

    def for_split(self, split: SplitName) -> Task:
        """The task as the rows of one split see it: itself, unless it is tested on other data."""
        other = self.evaluation
        if split == "train" or other is None:
            return self
        return replace(
            self,
            prompt=other.prompt,
            inputs=other.inputs,
            target=other.target,
            hidden=other.hidden,
            hub=other.hub,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns a row must have: inputs, then target. What it may have are `hidden` ones."""
        return (*self.inputs, self.target)

    def render(self, row: Row) -> str:
        """The prompt of one row. Raises KeyError naming the missing column."""
        missing = [column for column in self.inputs if column not in row]
        if missing:
            raise KeyError(f"task '{self.name}' needs columns {missing}; the row has {sorted(row)}")
        pattern = "|".join(re.escape(column) for column in self.inputs)
        return re.sub(r"\{(" + pattern + r")\}", lambda m: as_text(row[m.group(1)]), self.prompt)

    def item(self, row: Row) -> Item:
        """The question and its gold answer. Raises KeyError naming the missing column."""
        if self.target not in row:
            raise KeyError(
                f"task '{self.name}' needs target column '{self.target}'; the row has {sorted(row)}"
            )
        return Item(self.render(row), as_text(row[self.target]).strip(), row)


def as_text(value: object) -> str:
    """A cell as text: integers without a point, floats as short as they round-trip, null empty."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
