"""Studies as the pages show them: which there are, their leaderboards, the answers of a cell.

Reads records and samples from storage, and remembers a board as long as the files that it stands on
have not changed. Knows no HTTP and no models. Everything here blocks, a first board for seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from loraland.adapters import layout
from loraland.errors import (
    LoraLandError,
    SamplesMissing,
    StorageCorrupt,
    UnknownSpace,
    did_you_mean,
)
from loraland.evaluation.leaderboard import leaderboard
from loraland.evaluation.samples import Sample, read_samples
from loraland.matrix.cell import Cell
from loraland.matrix.ledger import FOLDER, READERS, RESULT, CellRecord, Ledger
from loraland.matrix.searched import status_of
from loraland.matrix.space import Space, load_space, space_names
from loraland.matrix.standings import standings
from loraland.report.excerpt import Excerpt, Outcome, Pair, excerpt
from loraland.report.overlays import report_figures
from loraland.serving.site_boards import board_of, sample_pair
from loraland.serving.site_memory import Kept, listed, states
from loraland.serving.site_models import Board, SamplePage, SpaceLine
from loraland.storage import Storage
from loraland.tasks.catalogue import all_tasks

EVERYTHING = "_all"  # no YAML file can have this name
TITLE = "Everything finished"
BOARDS, CELLS = 8, 16  # remembered


class _Made(NamedTuple):
    """A space as it was when its board was made."""

    board: Board
    records: dict[str, CellRecord]  # by the cell's id


class Studies:
    """The studies that one storage knows. Many threads may use it at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._boards: Kept[_Made] = Kept(BOARDS)
        self._excerpts: Kept[Excerpt] = Kept(CELLS)
        self._read: dict[str, tuple[Hashable, CellRecord | None]] = {}  # by the cell's id

    def spaces(self) -> list[SpaceLine]:
        """Everything that is finished as one study, then the spaces that are shipped here."""
        records = self._records()
        lines = [_everything(len(_newest(records)[0]))]
        return lines + [self._line(name, records.keys()) for name in space_names()]

    def board(self, name: str) -> Board:
        """The leaderboard of a study. Raises UnknownSpace, InvalidConfiguration, StorageCorrupt."""
        return self._made(name).board

    def samples(
        self,
        name: str,
        cell_id: str,
        *,
        offset: int,
        limit: int,
        outcome: Outcome | None,
        text: str,
    ) -> SamplePage:
        """Some answers of a cell, those that its adapter broke first.

        `text` is looked for in prompts, targets and answers, whatever its case. Raises UnknownSpace
        for a cell that the study has not, and SamplesMissing.
        """
        record = self._made(name).records.get(cell_id)
        if record is None:
            raise UnknownSpace(
                f"cell '{cell_id}' of space '{name}' has no result; "
                f"GET /v1/spaces/{name}/leaderboard lists those that have one"
            )
        found = self._excerpt(record)
        pairs = [pair for pair in found.shown if _is_wanted(pair, outcome, text.casefold())]
        task = record.label.rpartition("/")[2]
        return SamplePage(
            cell=cell_id,
            model=record.model,
            total=found.total,
            matching=len(pairs),
            offset=offset,
            counts=dict(found.counts),
            data=[sample_pair(task, pair) for pair in pairs[offset : offset + limit]],
        )

    def _made(self, name: str) -> _Made:
        if name != EVERYTHING and name not in space_names():
            names = [EVERYTHING, *space_names()]
            raise UnknownSpace(f"no space is called '{name}'; {did_you_mean(name, names)}")
        return self._boards.get(name, self._stamp(), lambda: self._make(name))

    def _make(self, name: str) -> _Made:
        left_out = 0
        if name == EVERYTHING:
            cells, left_out = _newest(self._records())
            space = Space(EVERYTHING, _everything(0).description, cells, {}, False)
        else:
            space = load_space(name)
        statuses = status_of(space, self._storage)
        space = replace(space, cells=tuple(status.cell for status in statuses))
        judged = standings(space, self._storage)
        made = leaderboard(name, judged, len(space.cells), overlays=report_figures())
        board = board_of(made, statuses, space.description, _title(name), left_out)
        return _Made(board, Ledger(self._storage).results(space.cells))

    def _excerpt(self, record: CellRecord) -> Excerpt:
        paths = (record.score.samples, record.score.base_samples)

        def make() -> Excerpt:
            ours, theirs = (self._samples(path) for path in paths)
            try:
                return excerpt(ours, theirs, len(ours))
            except ValueError:
                raise StorageCorrupt(
                    f"adapter and base of {record.model} answered different items; "
                    f"`loraland evaluate {record.model} --fresh` asks both anew"
                ) from None

        return self._excerpts.get(record.model, states(self._storage, paths), make)

    def _samples(self, path: str) -> list[Sample]:
        try:
            return read_samples(self._storage, path)[0]
        except SamplesMissing:
            raise SamplesMissing(
                "the answers of this cell are no longer in storage; its score stays, and "
                "`loraland evaluate MODEL --fresh` asks for answers anew"
            ) from None

    def _line(self, name: str, results: Collection[str]) -> SpaceLine:
        line = SpaceLine(
            name=name, title=_title(name), description="", cells=0, results=0, problem=None
        )
        try:
            space = load_space(name)
        except LoraLandError as error:
            return line.model_copy(update={"problem": error.message})
        done = sum(cell.id in results for cell in space.cells)
        told = {"description": space.description, "cells": len(space.cells), "results": done}
        return line.model_copy(update=told)

    def _records(self) -> dict[str, CellRecord]:
        """All records by the cell's id; only those that changed are read again.

        A damaged one is left out here: the leaderboard of its space tells of it.
        """
        there = [file for file in listed(self._storage, FOLDER) if file.name == RESULT]
        files = {file.folder: file for file in there}
        with ThreadPoolExecutor(READERS) as readers:
            known = dict(zip(files, readers.map(self._record, files, files.values()), strict=True))
        self._read = known
        return {cell_id: record for cell_id, (_, record) in known.items() if record is not None}

    def _record(self, cell_id: str, state: Hashable) -> tuple[Hashable, CellRecord | None]:
        known = self._read.get(cell_id)
        if known is not None and known[0] == state:
            return known
        try:
            content = self._storage.read(f"{FOLDER}/{cell_id}/{RESULT}")
            return state, CellRecord.model_validate_json(content)
        except (FileNotFoundError, ValueError):
            return state, None

    def _stamp(self) -> Hashable:
        """Changes when a record or an adapter does; a new score is a new record."""
        return listed(self._storage, FOLDER), listed(self._storage, layout.ROOT)


def _everything(cells: int) -> SpaceLine:
    return SpaceLine(
        name=EVERYTHING,
        title=TITLE,
        description="Every cell with a result, whichever command ran it",
        cells=cells,
        results=cells,
        problem=None,
    )


def _title(name: str) -> str:
    return TITLE if name == EVERYTHING else name


def _newest(records: Mapping[str, CellRecord]) -> tuple[tuple[Cell, ...], int]:
    """The cell finished last of each base and task, and how many older ones there are."""
    known = [task.name for task in all_tasks()]
    newest: dict[tuple[str, str], Cell] = {}
    those = [record for record in records.values() if record.cell.get("task") in known]
    for record in sorted(those, key=lambda record: (record.finished, record.model)):
        cell = Cell.from_json(record.cell)
        newest[cell.base_name, cell.task] = cell
    cells = sorted(newest.values(), key=lambda cell: (cell.base_name, known.index(cell.task)))
    return tuple(cells), len(those) - len(cells)


def _is_wanted(pair: Pair, outcome: Outcome | None, text: str) -> bool:
    if outcome is not None and pair.outcome != outcome:
        return False
    ours, theirs = pair
    said = (ours.prompt, ours.target, ours.output, ours.parsed, theirs.output, theirs.parsed)
    return not text or any(text in one.casefold() for one in said if one)
