"""Runs cells from their data to their score: gate, train, effect check, publish, judge.

One cell by itself, or several of one base that are trained together. Each stage leaves its result
in storage before the next begins: killed anywhere and started again, cells go on from there and end
with the same adapters. Knows nothing of Ray.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from loraland.adapters.names import ModelName
from loraland.bases.loading import LoadedBase
from loraland.errors import LoraLandError
from loraland.matrix.arithmetic import training_products
from loraland.matrix.cell import Cell, CellFailure, CellResult
from loraland.matrix.fusing import choose
from loraland.matrix.judging import require_judge
from loraland.matrix.work import OnEvent, Work
from loraland.storage import Storage
from loraland.training.fused import FusedMember, Outcome, train_fused
from loraland.training.parallel import Devices
from loraland.training.robust import require_fusable
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
    Raises MetricUnavailable before anything is paid for, DataRefused, TrainingDiverged, NoEffect,
    BaseUnavailable, SourceUnavailable, ...: every error names what to do, and starting the cell
    again is always safe.
    """
    require_judge(cell)
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
    require_judge(cell)
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
    space: str | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[tuple[Cell, CellResult | CellFailure]]:
    """Bring cells of one base and precision to their end, up to `slots` in training at a time.

    The base is loaded once. `slots` AUTO measures whether fusing pays, and how far, tells
    `on_note`, and keeps to it when the cells of that `space` are run again. Gives each cell with
    what became of it; one that fails leaves the others alone.
    Raises what concerns all: BaseUnavailable, NotEnoughMemory, what storage raises.
    """
    works: list[Work] = []
    for cell in cells:
        try:
            require_judge(cell)
            require_fusable(cell.recipe)
            works.append(Work.prepare(cell, storage, on_event, device, loop="fused"))
        except LoraLandError as error:
            yield cell, CellFailure(cell.label, error)
    finished = {work.cell.id: work.finished_model() for work in works}
    missing = [work for work in works if finished[work.cell.id] is None]
    base: LoadedBase | None = None
    if missing:
        begun = time.monotonic()
        base = missing[0].load_base()
        seats = _Seats(slots, space, time.monotonic() - begun, on_note)
        for work, outcome in _train(base, missing, seats):
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


class _Seats(NamedTuple):
    """How it is decided how many cells are trained at a time."""

    slots: int  # AUTO: by a probe
    space: str | None  # that remembers what a probe has decided
    load_s: float  # that the base took
    on_note: Callable[[str], None]


def _train(
    base: LoadedBase, works: Sequence[Work], seats: _Seats
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

    with (
        training_products(base),
        tempfile.TemporaryDirectory(prefix="loraland-") as place,
    ):
        members = [_member(work, Path(place) / work.cell.id) for work in works]
        slots = seats.slots
        if slots == AUTO:
            storage, load_s = works[0].storage, seats.load_s
            choice = choose(base, members, load_s=load_s, storage=storage, space=seats.space)
            slots = choice.slots
            seats.on_note(choice.note)
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


def free_memory() -> None:
    """Let go of what an earlier base of this process left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
