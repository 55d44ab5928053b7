"""A cell: one base on one task under one recipe, and the key by which its run is found again.

Pure: no torch, no Ray. Equal cells on equal data and weights are the same run, whoever starts them,
and when.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loraland.adapters.card import Score
from loraland.errors import LoraLandError
from loraland.tasks.task import Task
from loraland.training.recipe import Recipe

Data = Literal["real", "rehearsal"]  # rehearsal: made-up rows of the task's shape
Loop = Literal["plain", "fused", "parallel"]  # they draw dropout from different streams

FORMAT = 1  # raise when the same cell would train to another adapter


@dataclass(frozen=True, slots=True)
class Cell:
    """What is asked for."""

    base: str  # a name of the catalogue, or a path to a local model folder
    task: str
    recipe: Recipe
    seed: int = 0
    max_examples: int | None = None  # rows of the train split, validation included
    max_items: int | None = 100  # held-out items to be judged on
    data: Data = "real"

    @property
    def id(self) -> str:
        """16 hex digits over what is asked for, by which the ledger knows a cell.

        The recipe's name is left out; a local base counts by its whole path, since folders of one
        name may hold different models.
        """
        asked = self.located().to_json()
        asked["recipe"].pop("name")
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def base_name(self) -> str:
        """The base as results and adapters name it: a folder by its own name."""
        return (
            self.base.rstrip("/").rsplit("/", 1)[-1].lower() if self.has_local_base else self.base
        )

    @property
    def has_local_base(self) -> bool:
        """Whether the base is a path and not a name."""
        return "/" in self.base or self.base.startswith(".")

    def located(self) -> Cell:
        """The same cell for another working directory: a path made absolute."""
        if not self.has_local_base:
            return self
        return replace(self, base=str(Path(self.base).expanduser().resolve()))

    @property
    def label(self) -> str:
        """`base/task`, short enough for a table."""
        return f"{self.base.rstrip('/').rsplit('/', 1)[-1]}/{self.task}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; Ray and storage carry this."""
        return asdict(self) | {"recipe": self.recipe.model_dump(mode="json")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cell:
        """Back from JSON values."""
        return cls(**(values | {"recipe": Recipe(**values["recipe"])}))


class CellEvent(NamedTuple):
    """Where a cell stands."""

    cell: str  # its label
    stage: str  # one of STAGES
    done: int  # steps of the stage
    total: int  # 0: not known
    loss: float | None = None  # of the newest update
    validation_loss: float | None = None
    note: str = ""


FINISHED, FAILED = "finished", "failed"  # the record is written
STAGES = ("data", "base", "train", "publish", "judge", "done", FINISHED, FAILED)


class CellResult(NamedTuple):
    """What a finished cell leaves."""

    cell: str  # its label
    model: str  # base/task@version
    score: Score
    run: str  # folder of the run, below the storage root
    trained: bool  # False: the run was finished before
    warnings: tuple[str, ...]  # of the data gate


class CellFailure(NamedTuple):
    """A cell that could not be finished."""

    cell: str  # its label
    error: LoraLandError


def run_key(
    cell: Cell,
    task: Task,
    base_fingerprint: str,
    tokenizer_digest: str,
    data_fingerprint: str,
    test_fingerprint: str,
    loop: Loop = "plain",
    products: str = "torch",
) -> str:
    """16 hex digits over all that is fixed when a run begins and decides which adapter comes out.

    `products` is what its matrices are multiplied with: a run never goes on with others.

    Not in it are the number of workers of a parallel run and how they share their work: a run
    goes on, from the same checkpoint and so under the same key, with as many workers as there are
    by then. With dropout the adapter depends on them, since each worker draws masks of its own; its
    card names all that took part. The first adapter that comes out is the adapter of the run.
    """
    decides = {
        "format": FORMAT,
        "base": base_fingerprint,
        "tokenizer": tokenizer_digest,
        "data": data_fingerprint,
        # Test rows decide only which train rows are dropped, where the recipe lets them be.
        "test": test_fingerprint if cell.recipe.overlap == "drop" else None,
        "task": task.name,
        "prompt": task.prompt,
        "recipe": cell.recipe.model_dump(mode="json", exclude={"name"}),
        "seed": cell.seed,
    }
    if cell.data != "real":
        decides["rows"] = cell.data
    if loop != "plain":
        decides["loop"] = loop
    if products != "torch":
        decides["products"] = products
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
