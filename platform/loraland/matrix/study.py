"""A whole space on the connected Ray cluster: what is missing is run, and put into one table.

Decides what is left and what each trial occupies; trials are `trial`'s, records the ledger's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from loraland.errors import InvalidConfiguration
from loraland.matrix.group import grouped
from loraland.matrix.ledger import CellStatus, Ledger
from loraland.matrix.space import Space
from loraland.matrix.table import write_table
from loraland.matrix.trial import OnEvent, Resources, default_resources, run_groups
from loraland.storage import Storage


class StudyReport(NamedTuple):
    """What a run of a space did, and where the space stands after it."""

    ran: int  # cells that were missing or had failed
    done: int  # of all cells
    failed: list[CellStatus]
    table: str  # of the results, below the storage root


def run_space(
    space: Space,
    storage_uri: str,
    ray: Any,
    *,
    fuse: int | str = 1,
    devices: int = 1,
    strategy: str = "ddp",
    cpus: float | None = None,
    gpus: float | None = None,
    on_event: OnEvent = lambda event: None,
    callbacks: Sequence[Any] = (),
) -> StudyReport:
    """Run the cells that have no result, each in a trial of its own or fused in groups.

    `devices` above 1 train each cell together by that strategy. `cpus` and `gpus` of one trial, or
    of one device's worker, go before what the space says of a base. A failed cell leaves the others
    alone. Raises InvalidConfiguration when the cluster could not hold a trial.
    """
    storage = Storage.open(storage_uri)
    cells = Ledger(storage).left(space.cells)
    if cells:
        if devices > 1 and cpus is None and not gpus:
            cpus = 1  # a worker each; a trial by itself would take the whole node
        needs = {base: _resources(space, base, ray, cpus, gpus) for base in space.bases}
        groups = grouped(
            cells,
            fuse,
            retry_collapsed=space.retry_collapsed,
            devices=devices,
            strategy=strategy,
        )
        run_groups(
            groups,
            storage_uri,
            [needs[group.cells[0].base] for group in groups],
            on_event,
            name=space.name,
            at_once=_at_once(ray, devices, needs.values()) if devices > 1 else None,
            callbacks=callbacks,
        )
    statuses = Ledger(storage).status(space.cells)
    return StudyReport(
        ran=len(cells),
        done=sum(status.state == "done" for status in statuses),
        failed=[status for status in statuses if status.state == "failed"],
        table=write_table(space, storage),
    )


def _at_once(ray: Any, devices: int, needs: Iterable[Resources]) -> int:
    """How many times the workers of one cell fit into the cluster.

    Raises InvalidConfiguration when they never do.
    """
    whole = ray.cluster_resources()
    most = min(
        int(whole.get(kind, 0) // (devices * asked))
        for need in needs
        for kind, asked in (("CPU", need.cpus), ("GPU", need.gpus))
        if asked
    )
    if most < 1:
        raise InvalidConfiguration(
            f"{devices} workers for one cell do not fit: the cluster has {whole.get('CPU', 0):g} "
            f"CPUs and {whole.get('GPU', 0):g} GPUs; give fewer --devices, or less --cpus to each"
        )
    return most


def _resources(
    space: Space, base: str, ray: Any, cpus: float | None, gpus: float | None
) -> Resources:
    demand = space.demands[base]
    return default_resources(
        ray,
        demand.cpus if cpus is None else cpus,
        demand.gpus if gpus is None else gpus,
    )
