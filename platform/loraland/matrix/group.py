"""Cells that one trial brings to their end, one by one or fused, each with its record.

A cell that has collapsed is trained once more at a gentler rate when the others have ended, and
marked. Decides nothing about where a group runs; knows nothing of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from loraland.adapters.registry import Registry
from loraland.errors import InvalidConfiguration, LoraLandError, TrainingDiverged
from loraland.evaluation.samples import read_samples
from loraland.matrix.cell import Cell, CellEvent, CellFailure, CellResult
from loraland.matrix.collapse import Collapse, find_collapse, gentler
from loraland.matrix.ledger import COLLAPSED, RETRIED, Ledger
from loraland.matrix.work import OnEvent
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

if TYPE_CHECKING:
    from loraland.matrix.run import Workers

AUTO = "auto"  # fuse: a probe decides
LARGEST = 64  # cells that one trial takes when a probe decides how many are trained at once


@dataclass(frozen=True, slots=True)
class Group:
    """What one trial is told."""

    cells: tuple[Cell, ...]  # of one base, precision and kind of rows
    fuse: int | str = 1  # cells that are trained at a time; 1: by the plain loop; or AUTO
    retry_collapsed: bool = True  # on one device; on several a collapse is only marked
    devices: int = 1  # that train one cell together; then its cells are not fused
    strategy: str = "ddp"  # how they share the work: ddp, zero2, zero3
    space: str | None = None  # that remembers what a probe has decided

    @property
    def label(self) -> str:
        """Short enough for a table."""
        more = f"+{len(self.cells) - 1}" if len(self.cells) > 1 else ""
        return f"{self.cells[0].label}{more}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; Ray carries this."""
        return {
            "cells": [cell.located().to_json() for cell in self.cells],
            "fuse": self.fuse,
            "retry_collapsed": self.retry_collapsed,
            "devices": self.devices,
            "strategy": self.strategy,
            "space": self.space,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Group:
        """Back from JSON values."""
        cells = tuple(Cell.from_json(cell) for cell in values["cells"])
        return cls(**(values | {"cells": cells}))


class Outcome(NamedTuple):
    """What became of one cell."""

    cell: Cell
    result: CellResult | CellFailure
    marks: tuple[str, ...] = ()


def grouped(
    cells: Sequence[Cell],
    fuse: int | str = 1,
    *,
    retry_collapsed: bool = True,
    devices: int = 1,
    strategy: str = "ddp",
    space: str | None = None,
) -> list[Group]:
    """Cells as groups: alone, or with others of their base, precision and rows.

    A group has at most `fuse` times two cells, so that a slot that gets free finds a next cell, and
    a failed trial loses little.
    """
    if fuse == 1:
        return [Group((cell,), 1, retry_collapsed, devices, strategy, space) for cell in cells]
    if devices > 1:
        raise InvalidConfiguration(
            f"{devices} devices for one cell and fused cells exclude each other; "
            "give --fuse or --devices"
        )
    most = LARGEST if fuse == AUTO else 2 * int(fuse)
    alike: dict[tuple[str, str, str], list[Cell]] = {}
    alone = [cell for cell in cells if cell.recipe.group_dro is not None]  # they cannot be fused
    for cell in cells:
        if cell in alone:
            continue
        alike.setdefault((cell.base, cell.recipe.precision, cell.data), []).append(cell)
    groups = grouped(alone, retry_collapsed=retry_collapsed, space=space)
    for members in alike.values():
        rest = iter(members)
        while taken := tuple(islice(rest, most)):
            groups.append(Group(taken, fuse, retry_collapsed, space=space))
    return groups


def run_group(
    group: Group,
    storage: Storage,
    on_event: OnEvent,
    *,
    device: str | None = None,
    workers: Workers | None = None,
) -> Iterator[Outcome]:
    """Bring every cell to its end and put down its record, in the order in which they end.

    `workers` train the cells of a group with several devices. Raises what is no cell's own fault,
    such as storage that cannot be reached.
    """
    ledger, retries = Ledger(storage), list[_Ended]()
    for ended in _timed(_ends(group, storage, on_event, device, workers)):
        why = _trouble(ended.cell, ended.found, storage)
        if why and group.retry_collapsed and workers is None:
            retries.append(ended)
            on_event(_note([ended.cell], f"{why}; once more, gentler"))
            continue
        collapsed = why is not None and isinstance(ended.found, CellResult)
        yield _record(ledger, ended, (COLLAPSED,) if collapsed else ())
    for ended, marks in _again(retries, group, storage, on_event, device):
        yield _record(ledger, ended, marks)


class _Ended(NamedTuple):
    """A cell at its end."""

    cell: Cell  # as it was asked for
    found: CellResult | CellFailure
    seconds: float  # since the end of the cell before


def _timed(ends: Iterator[tuple[Cell, CellResult | CellFailure]]) -> Iterator[_Ended]:
    begun = time.monotonic()
    for cell, found in ends:
        yield _Ended(cell, found, time.monotonic() - begun)
        begun = time.monotonic()


def _record(ledger: Ledger, ended: _Ended, marks: tuple[str, ...]) -> Outcome:
    cell, found, seconds = ended
    attempts = 2 if RETRIED in marks else 1
    if isinstance(found, CellResult):
        ledger.record_result(cell, found, seconds=seconds, marks=marks, attempts=attempts)
    else:
        ledger.record_failure(cell, found.error, attempts=attempts)
    return Outcome(cell, found, marks)


def _trouble(cell: Cell, found: CellResult | CellFailure, storage: Storage) -> str | None:
    """Why a run deserves a second one at a gentler rate."""
    if isinstance(found, CellResult):
        collapse = collapse_of(cell, found, storage)
        return collapse and f"collapsed, {collapse.kind}: {collapse.detail}"
    return found.error.message if isinstance(found.error, TrainingDiverged) else None


def collapse_of(cell: Cell, result: CellResult, storage: Storage) -> Collapse | None:
    """Whether a finished cell has learned nothing, by its stored answers and its curve."""
    samples, _ = read_samples(storage, result.score.samples)
    curve = Registry(storage).card(result.model).curve
    return find_collapse(get_task(cell.task), samples, result.score, curve)


def _ends(
    group: Group,
    storage: Storage,
    on_event: OnEvent,
    device: str | None,
    workers: Workers | None,
) -> Iterator[tuple[Cell, CellResult | CellFailure]]:
    """What becomes of each cell; of those that an error takes down together, that error."""
    left = {cell.id: cell for cell in group.cells}
    try:
        for cell, found in _run(group, storage, on_event, device, workers):
            if isinstance(found, CellFailure):
                _drop_frames(found.error)
            del left[cell.id]
            yield cell, found
    except LoraLandError as error:
        _drop_frames(error)
        for cell in left.values():
            yield cell, CellFailure(cell.label, error)


def _run(
    group: Group,
    storage: Storage,
    on_event: OnEvent,
    device: str | None,
    workers: Workers | None,
) -> Iterator[tuple[Cell, CellResult | CellFailure]]:
    from loraland.matrix import run

    if group.fuse != 1:
        slots = run.AUTO if group.fuse == AUTO else int(group.fuse)

        def tell(note: str) -> None:
            on_event(_note(group.cells, note))

        yield from run.run_fused(
            group.cells,
            storage,
            on_event,
            slots=slots,
            device=device,
            space=group.space,
            on_note=tell,
        )
        return
    for cell in group.cells:
        try:
            yield cell, run.run_cell(cell, storage, on_event, device=device, workers=workers)
        except LoraLandError as error:
            yield cell, CellFailure(cell.label, error)


def _again(
    ends: Sequence[_Ended], group: Group, storage: Storage, on_event: OnEvent, device: str | None
) -> Iterator[tuple[_Ended, tuple[str, ...]]]:
    """Cells that went wrong, as the better of their run and one at a gentler rate, with marks.

    They wait for the others, so that the base of those is gone when theirs is loaded, and share it.
    """
    from loraland.matrix.run import free_memory

    if not ends:
        return
    free_memory()
    softer = [replace(ended.cell, recipe=gentler(ended.cell.recipe)) for ended in ends]
    firsts = {cell.id: ended for cell, ended in zip(softer, ends, strict=True)}
    again = replace(group, cells=tuple(softer))
    for second in _timed(_ends(again, storage, on_event, device, None)):
        first = firsts[second.cell.id]
        found, marks = _better(first.found, second, storage)
        yield _Ended(first.cell, found, first.seconds + second.seconds), marks


def _drop_frames(error: BaseException | None) -> None:
    """Let go of the frames that an error came through, which hold its base in memory."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _better(
    first: CellResult | CellFailure, second: _Ended, storage: Storage
) -> tuple[CellResult | CellFailure, tuple[str, ...]]:
    worst = (RETRIED, COLLAPSED)
    if isinstance(second.found, CellFailure):  # the first is a result, or says what is wrong
        return first, worst if isinstance(first, CellResult) else (RETRIED,)
    if collapse_of(second.cell, second.found, storage) is None:
        return second.found, (RETRIED,)
    if isinstance(first, CellResult) and first.score.mean >= second.found.score.mean:
        return first, worst
    return second.found, worst


def _note(cells: Sequence[Cell], note: str) -> CellEvent:
    """A note about a whole group as an event of its first cell."""
    return CellEvent(cells[0].label, "base", 0, 0, note=note)
