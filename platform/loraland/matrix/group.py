"""Cells that one trial brings to their end, one by one or fused, each with its record.

A cell that has collapsed is trained once more at a gentler rate, and marked. Decides nothing about
where a group runs; knows nothing of Ray.
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
from loraland.matrix.cell import Cell, CellFailure, CellResult
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
) -> list[Group]:
    """Cells as groups: alone, or with others of their base, precision and rows.

    A group has at most `fuse` times two cells, so that a slot that gets free finds a next cell, and
    a failed trial loses little.
    """
    if fuse == 1:
        return [Group((cell,), 1, retry_collapsed, devices, strategy) for cell in cells]
    if devices > 1:
        raise InvalidConfiguration(
            f"{devices} devices for one cell and fused cells exclude each other; "
            "give --fuse or --devices"
        )
    most = LARGEST if fuse == AUTO else 2 * int(fuse)
    alike: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.base, cell.recipe.precision, cell.data), []).append(cell)
    groups = []
    for members in alike.values():
        rest = iter(members)
        while taken := tuple(islice(rest, most)):
            groups.append(Group(taken, fuse, retry_collapsed))
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
    ledger, begun = Ledger(storage), time.monotonic()
    for cell, found in _run(group, storage, on_event, device, workers):
        marks: tuple[str, ...] = ()
        if why := _trouble(cell, found, storage):
            marks = (COLLAPSED,) if isinstance(found, CellResult) else ()
            if group.retry_collapsed and workers is None:
                found, marks = _again(cell, found, why, storage, on_event, device)
        seconds = time.monotonic() - begun
        attempts = 2 if RETRIED in marks else 1
        if isinstance(found, CellResult):
            ledger.record_result(cell, found, seconds=seconds, marks=marks, attempts=attempts)
        else:
            ledger.record_failure(cell, found.error)
        yield Outcome(cell, found, marks)
        begun = time.monotonic()


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
            on_event(run.note_of(group.cells, note))

        yield from run.run_fused(
            group.cells, storage, on_event, slots=slots, device=device, on_note=tell
        )
        return
    for cell in group.cells:
        try:
            yield cell, run.run_cell(cell, storage, on_event, device=device, workers=workers)
        except LoraLandError as error:
            yield cell, CellFailure(cell.label, error)


def _again(
    cell: Cell,
    first: CellResult | CellFailure,
    why: str,
    storage: Storage,
    on_event: OnEvent,
    device: str | None,
) -> tuple[CellResult | CellFailure, tuple[str, ...]]:
    """The better of a run that went wrong and one at a gentler rate, with its marks."""
    from loraland.matrix import run

    softer = replace(cell, recipe=gentler(cell.recipe))
    on_event(run.note_of([cell], f"{why}; once more, gentler"))
    worst = (RETRIED, COLLAPSED)
    try:
        second = run.run_cell(softer, storage, on_event, device=device)
    except LoraLandError:  # the first is a result, if a poor one, or says what is wrong
        return first, worst if isinstance(first, CellResult) else (RETRIED,)
    if collapse_of(softer, second, storage) is None:
        return second, (RETRIED,)
    if isinstance(first, CellResult) and first.score.mean >= second.score.mean:
        return first, worst
    return second, worst
