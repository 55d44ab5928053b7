"""Which group each example belongs to, for group DRO: a file of assignments, joined to examples.

    {"format": 1, "names": ["no/0", ...], "of": {"<key of an example>": 0, ...}}

A group is a number, its place in `names`; a soft assignment is a list of shares, one per name. An
example's key is a hash of its tokens, so that a file fits one tokenizer. Pure: no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loraland.errors import DataRefused, StorageCorrupt
from loraland.storage import Storage
from loraland.training.examples import Example
from loraland.training.recipe import GroupDro, Recipe

Share = Annotated[float, Field(ge=0, le=1)]


def example_key(example: Example) -> str:
    """16 hex digits over the tokens of prompt and answer."""
    return hashlib.sha256(json.dumps([*example.ids]).encode()).hexdigest()[:16]


class Groups(BaseModel):
    """Groups by number, and the group or the shares of each example."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    names: tuple[str, ...] = Field(min_length=1)
    of: dict[str, Annotated[int, Field(ge=0)]] | dict[str, tuple[Share, ...]]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key, group in self.of.items():
            if isinstance(group, int):
                fits = group < len(self.names)
            else:
                fits = len(group) == len(self.names) and abs(sum(group) - 1) < 1e-3
            if not fits:
                raise ValueError(
                    f"example {key[:40]} has group {str(group)[:60]}; there are "
                    f"{len(self.names)} groups, counted from 0; shares are one for each, sum 1"
                )
        return self

    def write(self, storage: Storage, path: str) -> str:
        """Store the file; returns its SHA-256 (hex), which a recipe names beside the path."""
        storage.write_json(path, self.model_dump(mode="json"))
        return hashlib.sha256(storage.read(path)).hexdigest()

    @classmethod
    def read(cls, storage: Storage, path: str, sha256: str) -> Groups:
        """Read what `write` wrote. Raises DataRefused for no or another file, StorageCorrupt."""
        try:
            content = storage.read(path)
        except FileNotFoundError:
            raise DataRefused(
                f"there are no groups at {storage.describe(path)}; `loraland strata train` writes "
                "such a file and the recipe that names it"
            ) from None
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise DataRefused(
                f"{storage.describe(path)} has SHA-256 {found[:12]}, the recipe says "
                f"{sha256[:12]}: other groups make another run; correct group_dro.sha256"
            )
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            [first, *_] = error.errors()
            raise StorageCorrupt(
                f"{storage.describe(path)} is no file of groups: {first['msg']}"
            ) from None

    def join(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with their groups. Raises DataRefused when some have none."""
        keys = [example_key(example) for example in examples]
        if missing := [key for key in keys if key not in self.of]:
            raise DataRefused(
                f"{len(missing)} of {len(examples)} examples have no group, the first is "
                f"{missing[0]}; groups fit the rows, seed and tokenizer that they were made with"
            )
        return [
            example._replace(group=self.of[key])
            for example, key in zip(examples, keys, strict=True)
        ]


def with_groups(
    examples: Sequence[Example], dro: GroupDro | None, storage: Storage
) -> list[Example]:
    """The examples as they are, or with the groups that a recipe names. Raises as `Groups` does."""
    if dro is None:
        return list(examples)
    return Groups.read(storage, dro.groups, dro.sha256).join(examples)


def group_sizes(examples: Sequence[Example]) -> list[float]:
    """Examples of each group, or the sums of their shares; up to the last group that occurs.

    Raises DataRefused for examples without groups, or with both kinds of them.
    """
    groups = [example.group for example in examples]
    hard = [group for group in groups if isinstance(group, int)]
    soft = [group for group in groups if isinstance(group, tuple)]
    if len(hard) == len(groups):
        counts = Counter(hard)
        return [float(counts[group]) for group in range(max(counts, default=-1) + 1)]
    if len(soft) == len(groups) and len({len(shares) for shares in soft}) == 1:
        return [sum(each) for each in zip(*soft, strict=True)]
    raise DataRefused(
        f"group DRO needs a group for every example, all as numbers or all as shares; of "
        f"{len(groups)} examples {len(hard)} have a number and {len(soft)} have shares"
    )


def labels_to_draw_by(recipe: Recipe, training: Sequence[Example]) -> NDArray[Any] | None:
    """Group labels as `uniform_epoch` takes them; None when every example comes once an epoch.

    Raises DataRefused as `group_sizes` does.
    """
    if recipe.group_dro is None or not recipe.group_dro.uniform_sampling:
        return None
    group_sizes(training)  # of one kind, and none missing
    return np.asarray([example.group for example in training])
