"""What a study has done: a record per cell in storage, that a plan is made from.

    cells/<id>/result.json        a finished cell: its score, its adapter's name, how it came about
    cells/<id>/adapter-<version>  an empty mark, so that a listing tells which adapter that is
    cells/<id>/failure.json       why a cell could not be finished, the last time it was tried

A result wins over a failure. A finished cell whose adapter is no longer in the registry is lost: it
is run again, and has failed when that fails. Knows cells, storage and how the registry lays out its
files; never looks at a hub, weights, data or Ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError

from loraland.adapters import layout
from loraland.adapters.card import Score, utc_now
from loraland.adapters.names import ModelName
from loraland.errors import LoraLandError, StorageCorrupt
from loraland.matrix.cell import Cell, CellResult
from loraland.storage import Storage

FOLDER = "cells"
RESULT, FAILURE, MARK = "result.json", "failure.json", "adapter-"
READERS = 16  # records that are read at once: on an object store each takes a request or two

State = Literal["done", "failed", "missing", "lost"]  # lost: done, but its adapter is gone
COLLAPSED = "collapsed"  # mark: the result is that of a collapsed run
RETRIED = "retried"  # mark: a first run collapsed, and this is the second, at a lower rate


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CellRecord(_Record):
    """What a finished cell left."""

    format: Literal[1] = 1
    label: str  # base/task
    cell: dict[str, Any]  # Cell.to_json, as it was asked for
    model: str  # base/task@version
    score: Score
    run: str  # folder of the run, below the storage root
    seconds: NonNegativeFloat  # from the start of the trial to its result, over all attempts
    attempts: PositiveInt = 1
    marks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # of the data gate
    finished: str  # ISO 8601, UTC

    def result(self) -> CellResult:
        """What the cell left, as its trial told it."""
        return CellResult(self.label, self.model, self.score, self.run, False, self.warnings)


class FailureRecord(_Record):
    """Why a cell was not finished."""

    format: Literal[1] = 1
    label: str
    cell: dict[str, Any]
    code: str  # of the error, see loraland.errors
    message: str
    attempts: PositiveInt = 1
    failed: str  # ISO 8601, UTC


class CellStatus(NamedTuple):
    """Where a cell stands."""

    cell: Cell
    state: State
    failure: FailureRecord | None = None  # of a failed cell


class Ledger:
    """The records below a storage root.

    Records of one cell replace each other whole; two drivers that finish the same cell leave the
    record of the last.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def record_result(
        self,
        cell: Cell,
        result: CellResult,
        *,
        seconds: float,
        marks: Sequence[str] = (),
        attempts: int = 1,
    ) -> CellRecord:
        """Put down that a cell is done. `cell` is the one of the space, also after a retry.

        Killed in between, either it is not done or its marks name an adapter that is gone, and it
        is run again.
        """
        record = CellRecord(
            label=cell.label,
            cell=cell.to_json(),
            model=result.model,
            score=result.score,
            run=result.run,
            seconds=round(seconds, 3),
            attempts=attempts,
            marks=tuple(marks),
            warnings=result.warnings,
            finished=utc_now(),
        )
        mark = f"{MARK}{ModelName.parse(result.model).version}"
        self._storage.write(_place(cell, mark), b"")
        self._storage.write_json(_place(cell, RESULT), record.model_dump(mode="json"))
        for name in self._storage.names(f"{FOLDER}/{cell.id}"):
            if name == FAILURE or (name.startswith(MARK) and name != mark):
                self._storage.delete(_place(cell, name))  # of what this result replaces
        return record

    def record_score(self, cell: Cell, record: CellRecord, score: Score) -> CellRecord:
        """Put down another score of a cell that is done; all else of its record stays."""
        scored = record.model_copy(update={"score": score})
        self._storage.write_json(_place(cell, RESULT), scored.model_dump(mode="json"))
        return scored

    def record_failure(self, cell: Cell, error: LoraLandError, *, attempts: int = 1) -> None:
        """Put down why a cell could not be finished; a result that is there stays the truth."""
        record = FailureRecord(
            label=cell.label,
            cell=cell.to_json(),
            code=error.code,
            message=error.message,
            attempts=attempts,
            failed=utc_now(),
        )
        self._storage.write_json(_place(cell, FAILURE), record.model_dump(mode="json"))

    def status(self, cells: Sequence[Cell]) -> list[CellStatus]:
        """Where each cell stands, in their order.

        One listing for all, one for the adapters of each base, and one reading for each cell that
        failed. Raises StorageCorrupt.
        """
        states = self._states(cells)
        failed = [cell for cell in cells if states[cell.id] == "failed"]
        reasons = self._read_all(failed, FAILURE, FailureRecord)
        return [CellStatus(cell, states[cell.id], reasons.get(cell.id)) for cell in cells]

    def left(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that are not done, those that failed or were lost among them, in their order.

        Two listings, of which one is repeated for each base.
        """
        states = self._states(cells)
        return [cell for cell in cells if states[cell.id] != "done"]

    def results(self, cells: Sequence[Cell]) -> dict[str, CellRecord]:
        """The records of cells that have a result, by the cell's id; those of lost cells too.

        What was measured stays true when its adapter was deleted. Raises StorageCorrupt.
        """
        there = set(self._storage.walk(FOLDER))
        ended = [cell for cell in cells if f"{cell.id}/{RESULT}" in there]
        return self._read_all(ended, RESULT, CellRecord)

    def forget(self, cells: Iterable[Cell]) -> None:
        """Take the records of cells away, so that they are run again; adapters stay."""
        for cell in cells:
            self._storage.delete_folder(f"{FOLDER}/{cell.id}")

    def _states(self, cells: Sequence[Cell]) -> dict[str, State]:
        """By the cell's id."""
        files: dict[str, set[str]] = {}
        for path in self._storage.walk(FOLDER):
            cell_id, _, name = path.partition("/")
            files.setdefault(cell_id, set()).add(name)
        ended = {cell.base_name for cell in cells if RESULT in files.get(cell.id, ())}
        adapters = {base: self._versions(base) for base in ended}
        return {
            cell.id: _state(cell, files.get(cell.id, set()), adapters.get(cell.base_name, {}))
            for cell in cells
        }

    def _versions(self, base: str) -> dict[str, set[str]]:
        """The versions that the registry has of a base, by task."""
        paths = (f"{base}/{path}" for path in self._storage.walk(f"{layout.ROOT}/{base}"))
        return {str(name.task): set(found.versions) for name, found in layout.index(paths).items()}

    def _read_all(self, cells: Sequence[Cell], name: str, kind: type[Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(READERS) as readers:
            records = readers.map(lambda cell: self._read(_place(cell, name), kind), cells)
            pairs = zip(cells, records, strict=True)
            return {cell.id: record for cell, record in pairs if record is not None}

    def _read(self, path: str, kind: type[BaseModel]) -> BaseModel | None:
        """A record; None when it was taken away after the listing."""
        try:
            return kind.model_validate_json(self._storage.read(path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            faults = json.loads(error.json(include_url=False, include_input=False))
            shown = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults[:5])
            raise StorageCorrupt(
                f"{self._storage.describe(path)} is not a record of a cell ({shown}); "
                "remove it, and the cell is run again"
            ) from None


def _place(cell: Cell, name: str) -> str:
    return f"{FOLDER}/{cell.id}/{name}"


def _state(cell: Cell, files: set[str], adapters: dict[str, set[str]]) -> State:
    versions = {name.removeprefix(MARK) for name in files if name.startswith(MARK)}
    if RESULT in files and versions <= adapters.get(cell.task, set()):
        return "done"
    if FAILURE in files:
        return "failed"
    return "lost" if RESULT in files else "missing"
