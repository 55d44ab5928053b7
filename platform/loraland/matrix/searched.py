"""What a search has tried, as it lies in storage: for the search itself, for plans and for status.

    spaces/<name>/search/<key>/<trial>.json    a configuration that came to its end
    spaces/<name>/search.json                  all of a search that is over, the best first

The key covers the cell and how it is searched, but not how many configurations are tried: asked for
more, a search goes on. Knows nothing of Ray, data or models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from loraland.matrix.cell import Cell
from loraland.matrix.ledger import CellStatus, Ledger
from loraland.matrix.space import Space
from loraland.storage import Storage
from loraland.training.recipe import get_recipe


class Tried(NamedTuple):
    """One configuration."""

    parameters: dict[str, Any]
    losses: tuple[float, ...]  # the best validation loss so far, at each evaluation
    error: str = ""

    @property
    def validation_loss(self) -> float | None:
        """The best; None when it failed before the first evaluation."""
        return self.losses[-1] if self.losses else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with what people look for first."""
        told = {"validation_loss": self.validation_loss, "evaluations": len(self.losses)}
        return told | self._asdict()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Tried:
        """Back from JSON values."""
        return cls(values["parameters"], tuple(values["losses"]), values["error"])


@dataclass(frozen=True, slots=True)
class SearchRecords:
    """The records of one search."""

    storage: Storage
    space: str
    key: str  # 12 hex digits over the cell and how it is searched

    @classmethod
    def of(cls, space: Space, storage: Storage) -> SearchRecords:
        """The records of a space with a search."""
        assert space.search is not None
        [cell] = space.cells
        how = space.search.model_dump(mode="json", exclude={"samples"})
        stamp = json.dumps({"cell": cell.id, "search": how}, sort_keys=True)
        return cls(storage, space.name, hashlib.sha256(stamp.encode()).hexdigest()[:12])

    def find(self, parameters: dict[str, Any]) -> Tried | None:
        """How a configuration ended, None when it has not."""
        try:
            return Tried.from_json(self.storage.read_json(self._place(parameters)))
        except FileNotFoundError:
            return None

    def keep(self, tried: Tried) -> None:
        """Put down how a configuration ended, once."""
        if not self.storage.exists(place := self._place(tried.parameters)):
            self.storage.write_json(place, tried.to_json())

    def all(self) -> list[Tried]:
        """Every configuration that came to its end, the best first."""
        paths = [f"{self._folder}/{name}" for name in self.storage.names(self._folder)]
        return ordered(Tried.from_json(self.storage.read_json(path)) for path in paths)

    def close(self, tried: list[Tried], samples: int) -> None:
        """The search is over: so many were asked for, and these were tried."""
        table = [one.to_json() for one in tried]
        self.storage.write_json(
            self._table, {"search": self.key, "samples": samples, "tried": table}
        )

    def closed(self, samples: int) -> list[Tried] | None:
        """What was tried, when the search is over and no more is asked for now."""
        try:
            values = self.storage.read_json(self._table)
        except FileNotFoundError:
            return None
        if values.get("search") != self.key or values["samples"] < samples:
            return None
        return [Tried.from_json(one) for one in values["tried"]]

    @property
    def _folder(self) -> str:
        return f"spaces/{self.space}/search/{self.key}"

    @property
    def _table(self) -> str:
        return f"spaces/{self.space}/search.json"

    def _place(self, parameters: dict[str, Any]) -> str:
        stamp = json.dumps(parameters, sort_keys=True).encode()
        return f"{self._folder}/{hashlib.sha256(stamp).hexdigest()[:16]}.json"


def ordered(tried: Iterable[Tried]) -> list[Tried]:
    """The best first, those that failed last."""
    return sorted(tried, key=lambda one: (not one.losses, one.validation_loss or 0.0))


def with_parameters(cell: Cell, parameters: dict[str, Any]) -> Cell:
    """The cell under a changed recipe. Raises InvalidConfiguration."""
    name, fields = cell.recipe.name, cell.recipe.model_dump(exclude={"name"})
    changed = get_recipe("report", **(fields | parameters)).model_copy(update={"name": name})
    return replace(cell, recipe=changed)


def status_of(space: Space, storage: Storage) -> list[CellStatus]:
    """Where the cells of a space stand; of one with a search, the cell with the best recipe.

    Until the search is over its cell is missing, whatever is known of it under another recipe.
    """
    if space.search is None:
        return Ledger(storage).status(space.cells)
    tried = SearchRecords.of(space, storage).closed(space.search.samples)
    [cell] = space.cells
    if not tried or not tried[0].losses:
        return [CellStatus(cell, "missing")]
    return Ledger(storage).status([with_parameters(cell, tried[0].parameters)])
