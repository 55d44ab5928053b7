"""Runs cells from their data to their score: gate, train, effect check, publish, judge.

One cell by itself, or several of one base that are trained together. Each stage leaves its result
in storage before the next begins: killed anywhere and started again, cells go on from there and end
with the same adapters. Knows nothing of Ray.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loraland.adapters.names import ModelName
from loraland.bases.loading import LoadedBase
from loraland.errors import LoraLandError
from loraland.matrix.cell import Cell, CellEvent, CellFailure, CellResult
from loraland.matrix.work import OnEvent, Work
from loraland.storage import Storage
from loraland.training.fused import FusedMember, Outcome, train_fused
from loraland.training.gain import measure_gain
from loraland.training.parallel import Devices
from loraland.training.strategies import StrategyName

__all__ = ["OnEvent", "run_cell", "run_fused"]

Workers = tuple[Devices, StrategyName]

AUTO = 0  # slots: as many as a probe finds worth while


def run_cell(
    cell: Cell,
    storage: Storage,
    on_event: OnEvent = lambda event: None,
    *,
    device: str | None = None,
    workers: Workers | None = None,
) -> CellResult:
    """Bring a cell to its end, doing only what is missing.

    `device` is where the base goes; None takes a GPU where there is one. With `workers` the
    training is theirs, on the connected Ray cluster.
    Raises DataRefused, TrainingDiverged, NoEffect, BaseUnavailable, SourceUnavailable, ...: every
    error names what to do, and starting the cell again is always safe.
    """
    work = Work.prepare(cell, storage, on_event, device, "plain" if workers is None else "parallel")
    finished = work.finished_model()
    base: LoadedBase | None = None  # loaded only when something is left to do
    trained = finished is None
    if finished is None and workers is None:
        base = work.load_base()
        finished = work.train_and_publish(base)
    elif finished is None and workers is not None:
        with tempfile.TemporaryDirectory(prefix="loraland-") as place:
            adapter = work.train_on_workers(*workers, Path(place))
            base = work.load_base()
            finished = work.publish(base, adapter)
    assert finished is not None
    return _judged(work, finished, lambda: base or work.load_base(), trained=trained)


def train_on_workers(cell: Cell, storage: Storage, on_event: OnEvent, workers: Workers) -> None:
    """Only the training of a cell, if it is missing; needs no device here. Raises like `run_cell`.

    `run_cell` with the same workers goes on from there, on another machine if need be.
    """
    work = Work.prepare(cell, storage, on_event, "cpu", "parallel")
    if work.finished_model() is None:
        with tempfile.TemporaryDirectory(prefix="loraland-") as place:
            work.train_on_workers(*workers, Path(place))


def run_fused(
    cells: Sequence[Cell],
    storage: Storage,
    on_event: OnEvent = lambda event: None,
    *,
    slots: int,
    device: str | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[tuple[Cell, CellResult | CellFailure]]:
    """Bring cells of one base and precision to their end, up to `slots` in training at a time.

    The base is loaded once. `slots` AUTO measures whether fusing pays, and how far, and tells
    `on_note`. Gives each cell with what became of it; one that fails leaves the others alone.
    Raises what concerns all: BaseUnavailable, NotEnoughMemory, what storage raises.
    """
    works: list[Work] = []
    for cell in cells:
        try:
            works.append(Work.prepare(cell, storage, on_event, device, loop="fused"))
        except LoraLandError as error:
            yield cell, CellFailure(cell.label, error)
    finished = {work.cell.id: work.finished_model() for work in works}
    missing = [work for work in works if finished[work.cell.id] is None]
    base = missing[0].load_base() if missing else None
    if base is not None:
        for work, outcome in _train(base, missing, slots, on_note):
            if isinstance(outcome, LoraLandError):
                yield work.cell, CellFailure(work.cell.label, outcome)
            else:
                finished[work.cell.id] = outcome

    def loaded() -> LoadedBase:
        nonlocal base
        base = base or works[0].load_base()
        return base

    for work in works:
        if (name := finished[work.cell.id]) is None:
            continue  # it failed, and that was told
        try:
            yield work.cell, _judged(work, name, loaded, trained=work in missing)
        except LoraLandError as error:
            yield work.cell, CellFailure(work.cell.label, error)


def _judged(
    work: Work, name: ModelName, loaded: Callable[[], LoadedBase], *, trained: bool
) -> CellResult:
    work.checkpoints.clear()  # also what a kill after the result was written left
    score = work.stored_score(name) or work.judge(loaded(), name)
    work.tell("done", 1, 1)
    return work.result(name, score, trained=trained)


def _train(
    base: LoadedBase, works: Sequence[Work], slots: int, on_note: Callable[[str], None]
) -> list[tuple[Work, ModelName | LoraLandError]]:
    by_name = {work.cell.id: work for work in works}
    outcomes: list[tuple[Work, ModelName | LoraLandError]] = []

    def publish(name: str, outcome: Outcome) -> None:
        work = by_name[name]
        try:
            found = outcome if isinstance(outcome, LoraLandError) else work.publish(base, outcome)
        except LoraLandError as error:  # no effect
            found = error
        outcomes.append((work, found))

    with tempfile.TemporaryDirectory(prefix="loraland-") as place:
        members = [_member(work, Path(place) / work.cell.id) for work in works]
        if slots == AUTO:
            gain = measure_gain(base, members)
            slots = gain.slots
            on_note(str(gain))
        train_fused(base, members, slots=slots, on_finished=publish)
    return outcomes


def _member(work: Work, folder: Path) -> FusedMember:
    training, validation = work.examples()
    return FusedMember(
        work.cell.id,
        training,
        validation,
        work.cell.recipe,
        work.cell.seed,
        folder,
        work.checkpoints,
        work.on_update,
    )


def note_of(cells: Sequence[Cell], note: str) -> CellEvent:
    """A note about a whole group as an event of its first cell."""
    return CellEvent(cells[0].label, "base", 0, 0, note=note)
