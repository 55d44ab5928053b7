"""What a study has done: a record per cell in storage, that a plan is made from.

    cells/<id>/result.json     a finished cell: its score, its adapter's name, how it came about
    cells/<id>/failure.json    why a cell could not be finished, the last time it was tried

A result wins over a failure. Knows cells and storage; never looks at a hub, weights, data or Ray,
and does not ask the registry whether an adapter is still there (`run_cell` does).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError

from loraland.adapters.card import Score, utc_now
from loraland.errors import LoraLandError, StorageCorrupt
from loraland.matrix.cell import Cell, CellResult
from loraland.storage import Storage

FOLDER = "cells"
RESULT, FAILURE = "result.json", "failure.json"
READERS = 16  # records that are read at once: on an object store each takes a request or two

State = Literal["done", "failed", "missing"]
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
        """Put down that a cell is done. `cell` is the one of the space, also after a retry."""
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
        self._storage.write_json(_place(cell, RESULT), record.model_dump(mode="json"))
        return record

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

        One listing for all, and one reading for each that failed. Raises StorageCorrupt.
        """
        there = set(self._storage.walk(FOLDER))
        states = [_state(cell, there) for cell in cells]
        failed = [cell for cell, state in zip(cells, states, strict=True) if state == "failed"]
        reasons = self._read_all(failed, FAILURE, FailureRecord)
        return [
            CellStatus(cell, state, reasons.get(cell.id) if state == "failed" else None)
            for cell, state in zip(cells, states, strict=True)
        ]

    def left(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells without a result, those that failed before among them, in their order."""
        there = set(self._storage.walk(FOLDER))
        return [cell for cell in cells if _state(cell, there) != "done"]

    def results(self, cells: Sequence[Cell]) -> dict[str, CellRecord]:
        """The records of those cells that are done, by the cell's id. Raises StorageCorrupt."""
        there = set(self._storage.walk(FOLDER))
        done = [cell for cell in cells if _state(cell, there) == "done"]
        return self._read_all(done, RESULT, CellRecord)

    def forget(self, cells: Iterable[Cell]) -> None:
        """Take the records of cells away, so that they are run again; adapters stay."""
        for cell in cells:
            self._storage.delete_folder(f"{FOLDER}/{cell.id}")

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


def _state(cell: Cell, there: set[str]) -> State:
    if f"{cell.id}/{RESULT}" in there:
        return "done"
    return "failed" if f"{cell.id}/{FAILURE}" in there else "missing"
