"""Decides which finished cells of a space want new answers, and puts those of one base together.

    cells/<id>/result.json                       what a cell's score stands on
    samples/<base>/<task>/<model>-<key>.parquet  whole, or asked for again

A cell whose samples are whole wants nothing, and its data is not looked at, unless more items are
asked for than it was judged on. Needs no model and no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import InvalidConfiguration, LoraLandError, SamplesMissing, StorageCorrupt
from loraland.evaluation.exam import Exam, Sitting
from loraland.evaluation.samples import read_samples
from loraland.matrix.cell import Cell
from loraland.matrix.judging import task_of
from loraland.matrix.ledger import CellRecord, Ledger
from loraland.matrix.searched import status_of
from loraland.matrix.space import Space
from loraland.matrix.table import write_table
from loraland.storage import Storage
from loraland.tasks.sources import Split, load_split

READERS = 16  # files that are read at once: on an object store each takes a request or two


class Candidate(NamedTuple):
    """A finished cell."""

    cell: Cell
    record: CellRecord
    exam: Exam | None  # None: its stored samples are whole, and no more items are wanted

    @property
    def sittings(self) -> tuple[Sitting, Sitting] | None:
        """Those of its adapter and its base, when there is an exam."""
        if self.exam is None:
            return None
        version = ModelName.parse(self.record.model).version
        return Sitting.of(self.exam, version), Sitting.of(self.exam, None)


class Column(NamedTuple):
    """The finished cells whose adapters stand on one base at one precision."""

    candidates: tuple[Candidate, ...]

    @property
    def base(self) -> str:
        """As the cells name it: of the catalogue, or a path."""
        return self.candidates[0].cell.base

    @property
    def label(self) -> str:
        """Short enough for a table; says the precision where a base may have several."""
        first = self.candidates[0].cell
        return f"{first.base_name} ({first.recipe.precision})"

    @property
    def sittings(self) -> list[Sitting]:
        """Each once, the base's beside those of the adapters that answer the same items."""
        found: dict[str, Sitting] = {}
        for candidate in self.candidates:
            if (pair := candidate.sittings) is not None:
                found |= {sitting.place: sitting for sitting in reversed(pair)}
        return list(found.values())


class Trouble(NamedTuple):
    """A cell that could not be asked or scored."""

    cell: Cell
    error: LoraLandError


class Asking(NamedTuple):
    """What became of asking a column."""

    wanted: int  # answers that its cells stand on and had no samples
    borrowed: int  # of these, that the same models gave in shorter exams
    asked: int  # that were asked now; the rest was kept before, or failed
    troubles: list[Trouble]


NOT_ASKED = Asking(0, 0, 0, [])


class Plan(NamedTuple):
    """What there is to ask and to score."""

    columns: list[Column]
    troubles: list[Trouble]  # cells that want answers and cannot be asked


def cells_of(space: Space, storage: Storage, bases: Sequence[str] | None = None) -> list[Cell]:
    """The cells of a space, of some bases only; of a search the one that it has found.

    Raises InvalidConfiguration for a base that the space has not.
    """
    for base in bases or ():
        if base not in space.bases:
            raise InvalidConfiguration(
                f"'{base}' is no base of space '{space.name}'; possible: {', '.join(space.bases)}"
            )
    cells = [status.cell for status in status_of(space, storage)]
    return [cell for cell in cells if not bases or cell.base in bases]


def write_results(space: Space, storage: Storage) -> str:
    """Write the table of a space anew from its records; returns its path, see `table`."""
    cells = tuple(cells_of(space, storage))
    return write_table(replace(space, cells=cells, search=None), storage)


def plan(cells: Sequence[Cell], storage: Storage, max_items: int | None = None) -> Plan:
    """The finished ones of some cells as columns.

    A cell is never asked fewer items than its score stands on, and never more than its data has.
    Raises StorageCorrupt for a damaged record.
    """
    records = Ledger(storage).results(cells)
    finished = [(cell, records[cell.id]) for cell in cells if cell.id in records]
    answers = _answers({path for _, record in finished for path in _paths(record)}, storage)
    exams = _Exams(storage)
    columns: dict[tuple[str, str], list[Candidate]] = {}
    troubles = []
    for cell, record in finished:
        items = record.score.items
        is_whole = all(answers[path] == items for path in _paths(record))
        wanted = max(items, max_items or 0)
        try:
            exam = None if is_whole and wanted == items else exams.of(cell, record, wanted)
        except LoraLandError as error:
            troubles.append(Trouble(cell, error))
            continue
        if is_whole and exam is not None and len(exam.items) <= items:
            exam = None  # its data has no more
        key = cell.base, cell.recipe.precision
        columns.setdefault(key, []).append(Candidate(cell, record, exam))
    return Plan([Column(tuple(found)) for found in columns.values()], troubles)


def _paths(record: CellRecord) -> tuple[str, str]:
    return record.score.samples, record.score.base_samples


def _answers(paths: Iterable[str], storage: Storage) -> dict[str, int]:
    """How many answers there are that can be read, by the path of the samples."""

    def count(path: str) -> int:
        try:
            return len(read_samples(storage, path)[0])
        except (SamplesMissing, StorageCorrupt):
            return 0

    wanted = list(paths)
    with ThreadPoolExecutor(READERS) as readers:
        return dict(zip(wanted, readers.map(count, wanted), strict=True))


class _Exams:
    """The exams of cells; rows of a task are read once for all bases."""

    def __init__(self, storage: Storage) -> None:
        self._registry = Registry(storage)
        self._splits: dict[tuple[str, str, int], Split] = {}

    def of(self, cell: Cell, record: CellRecord, items: int) -> Exam:
        """Raises UnknownModel when the adapter is gone, SourceUnavailable, StorageCorrupt."""
        card = self._registry.card(record.model)
        task, key = task_of(cell), (cell.task, cell.data, items)
        if key not in self._splits:
            self._splits[key] = load_split(
                task, "test", limit=items, seed=cell.seed, rehearsal=cell.data == "rehearsal"
            )
        return Exam.of(task, self._splits[key], card.base, card.base_fingerprint, card.precision)
