"""A whole space on the connected Ray cluster: what is missing is run, and put into one table.

Decides what is left; what a trial occupies is `placement`'s, trials are `trial`'s, records the
ledger's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from loraland.matrix.cell import FAILED, Cell, CellEvent
from loraland.matrix.group import grouped
from loraland.matrix.judging import unjudged
from loraland.matrix.ledger import CellStatus, Ledger
from loraland.matrix.placement import Machines, Resources, machines_of, place, places
from loraland.matrix.space import Demand, Space
from loraland.matrix.table import write_table
from loraland.matrix.trial import OnEvent, run_groups
from loraland.storage import Storage


class How(NamedTuple):
    """How cells are run, where the caller has a word in it."""

    fuse: int | str = 1  # cells that are trained at a time; 1: by the plain loop; or AUTO
    devices: int = 1  # above 1: that train each cell together
    strategy: str = "ddp"  # and how they share it
    demand: Demand = Demand()  # of a trial, or a worker; goes before what the space says


class StudyReport(NamedTuple):
    """What a run of a space did, and where the space stands after it."""

    ran: int  # cells that were missing, lost, or had failed
    done: int  # of all cells
    failed: list[CellStatus]
    table: str  # of the results, below the storage root


def run_space(
    space: Space,
    storage_uri: str,
    ray: Any,
    how: How = How(),  # noqa: B008  immutable
    *,
    on_event: OnEvent = lambda event: None,
    callbacks: Sequence[Any] = (),
) -> StudyReport:
    """Run the cells that have no result, each in a trial of its own or fused in groups.

    A failed cell leaves the others alone; one that could not be judged here fails at once. Raises
    InvalidConfiguration when the cluster could never hold a trial; on one that grows, trials wait
    for machines that have yet to come.
    """
    storage = Storage.open(storage_uri)
    cells = Ledger(storage).left(space.cells)
    _run(space, _judged(cells, storage, on_event), storage_uri, ray, how, on_event, callbacks)
    statuses = Ledger(storage).status(space.cells)
    return StudyReport(
        ran=len(cells),
        done=sum(status.state == "done" for status in statuses),
        failed=[status for status in statuses if status.state == "failed"],
        table=write_table(space, storage),
    )


def needs_of(space: Space, how: How, machines: Machines) -> dict[str, Resources]:
    """What a trial, or a worker, of each base gets. Raises InvalidConfiguration."""
    # A worker that leaves its cores open gets one; a trial by itself would take the whole node.
    least = Demand() if how.devices == 1 else Demand(cpus=1)
    asked = {base: how.demand.over(space.demands[base]).over(least) for base in space.bases}
    return {base: place(demand, machines) for base, demand in asked.items()}


def _run(
    space: Space,
    cells: Sequence[Cell],
    storage_uri: str,
    ray: Any,
    how: How,
    on_event: OnEvent,
    callbacks: Sequence[Any],
) -> None:
    if not cells:
        return
    machines = machines_of(ray)
    needs = needs_of(space, how, machines)
    groups = grouped(
        cells,
        how.fuse,
        retry_collapsed=space.retry_collapsed,
        devices=how.devices,
        strategy=how.strategy,
        space=space.name,
    )
    at_once = None
    if how.devices > 1:
        at_once = min(places(need, machines, how.devices) for need in needs.values())
    run_groups(
        groups,
        storage_uri,
        [needs[group.cells[0].base] for group in groups],
        on_event,
        name=space.name,
        at_once=at_once,
        callbacks=callbacks,
    )


def _judged(cells: Sequence[Cell], storage: Storage, on_event: OnEvent) -> list[Cell]:
    """The cells that can be judged here; the others get their failure before anything starts."""
    why = unjudged(cells)
    for cell in cells:
        if (error := why.get(cell.id)) is not None:
            Ledger(storage).record_failure(cell, error)
            on_event(CellEvent(cell.label, FAILED, 1, 1, note=error.message))
    return [cell for cell in cells if cell.id not in why]
