"""`loraland matrix`: plan, run and watch the cells of a space. Thin, like `cli`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraland import settings
from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.errors import InvalidConfiguration

if TYPE_CHECKING:
    from loraland.matrix.cell import Cell
    from loraland.matrix.space import Space
    from loraland.matrix.study import How
    from loraland.storage import Storage

matrix_app = typer.Typer(
    help="The matrix of a study: bases x tasks, from a space in tune_spaces/ or a file of yours.",
    no_args_is_help=True,
)

SpaceName = Annotated[
    str, typer.Argument(help="embedded, rehearsal, paper, search, or the path of a YAML file.")
]
Fuse = Annotated[
    str, typer.Option(help="Cells of a base that one trial trains at a time; or auto.")
]
Devices = Annotated[int, typer.Option(help="Workers that train one cell together.", min=1)]
Strategy = Annotated[str, typer.Option(help="With --devices: ddp, zero2 or zero3.")]
Cpus = Annotated[
    float | None,
    typer.Option(help="CPU cores of a trial, or a worker; by default as the space says."),
]
Gpus = Annotated[float | None, typer.Option(help="GPUs of a trial; by default as the space says.")]
Accelerator = Annotated[
    str | None,
    typer.Option(help="Type of GPU of a trial, such as A10G, or any; as the space says."),
]
Log = Annotated[
    str | None, typer.Option(help="Log trials to mlflow[=URI] or wandb[=PROJECT] as well.")
]


@matrix_app.command("plan")
@teaches
def matrix_plan(
    space: SpaceName,
    worker: Annotated[
        str, typer.Option(help="Type of the workers, from matrix/hardware.yaml.")
    ] = "g5.2xlarge",
    workers: Annotated[int, typer.Option(help="How many of them.", min=1)] = 4,
    on_demand: Annotated[
        bool, typer.Option("--on-demand", help="Workers at the price without spot.")
    ] = False,
    json_: Json = False,
) -> None:
    """What is done, what is left, and what that will take: hours, memory, money.

    Needs no GPU, no hub and no data. A speed that `loraland matrix probe` measured goes before
    assumptions.
    """
    from loraland.display import out
    from loraland.display_matrix import forecast_table, status_line, unjudged_lines
    from loraland.matrix.forecast import forecast
    from loraland.matrix.hardware import Cluster, read_probes
    from loraland.matrix.judging import unjudged
    from loraland.matrix.searched import status_of
    from loraland.matrix.space import load_space

    chosen, storage = load_space(space), open_storage()
    statuses = status_of(chosen, storage)
    left = [status.cell for status in statuses if status.state != "done"]
    cluster = Cluster(worker=worker, workers=workers, spot=not on_demand)
    found = forecast(chosen, cluster, cells=left, probes=read_probes(storage))
    refused = unjudged(left)
    if json_:
        print_json(
            {
                "space": chosen.name,
                "cells": [{"cell": s.cell.label, "state": s.state} for s in statuses],
                "unjudged": [cell.label for cell in left if cell.id in refused],
                "cluster": cluster._asdict(),
                "hours": found.hours,
                "wall_hours": found.wall_hours,
                "usd": found.usd,
                "bases": [base._asdict() for base in found.bases],
                "notes": list(found.notes),
            }
        )
        return
    out.print(status_line(chosen.name, statuses), highlight=False)
    out.print(forecast_table(found))
    for note in (*found.notes, *unjudged_lines(refused.values())):
        out.print(f"- {note}", markup=False, highlight=False)


@matrix_app.command("status")
@teaches
def matrix_status(space: SpaceName, json_: Json = False) -> None:
    """How many cells are done, which failed, and why; of which the adapter is gone."""
    from loraland.display import out
    from loraland.display_matrix import failure_lines, status_grid, status_line
    from loraland.matrix.searched import status_of
    from loraland.matrix.space import load_space

    chosen = load_space(space)
    statuses = status_of(chosen, open_storage())
    if json_:
        print_json(
            [
                {
                    "cell": s.cell.label,
                    "state": s.state,
                    "error": s.failure and {"code": s.failure.code, "message": s.failure.message},
                }
                for s in statuses
            ]
        )
        return
    out.print(status_line(chosen.name, statuses), highlight=False)
    out.print(status_grid(statuses))
    for line in failure_lines(statuses):
        out.print(line, markup=False, highlight=False)


@matrix_app.command("run")
@teaches
def matrix_run(
    space: SpaceName,
    fuse: Fuse = "1",
    devices: Devices = 1,
    strategy: Strategy = "ddp",
    cpus: Cpus = None,
    gpus: Gpus = None,
    accelerator: Accelerator = None,
    log: Log = None,
    json_: Json = False,
) -> None:
    """Run the cells that have no result, those that failed before included.

    Killed and started again, it goes on where it was. A space with a `search` is searched, and the
    best recipe becomes its cell.
    """
    from loraland.display import err
    from loraland.matrix.ledger import Ledger
    from loraland.matrix.space import Demand, load_space
    from loraland.matrix.study import How

    chosen, storage = load_space(space), open_storage()
    how = How(_group_size(fuse), devices, strategy, Demand(cpus, gpus, None, accelerator))
    _check(chosen, how)
    callbacks = _loggers(log, chosen.name)
    if chosen.search is not None:
        _search(chosen, how, callbacks, storage, json_)
        return
    left = Ledger(storage).left(chosen.cells)
    if left:
        _run_cells(chosen, left, how, callbacks)
    else:
        err.print("nothing is missing", highlight=False)
    _report_run(chosen, storage, len(left), json_)


@matrix_app.command("probe")
@teaches
def matrix_probe(
    space: SpaceName,
    base: Annotated[str | None, typer.Option(help="Of the space; by default its first.")] = None,
    updates: Annotated[int, typer.Option(help="That are measured.", min=1)] = 4,
    json_: Json = False,
) -> None:
    """Measure this machine's training speed on a base, for forecasts."""
    from loraland.display import out
    from loraland.matrix.probe import measure
    from loraland.matrix.space import load_space

    chosen = load_space(space)
    if base is not None and base not in chosen.bases:
        raise InvalidConfiguration(
            f"'{base}' is no base of space '{chosen.name}'; possible: {', '.join(chosen.bases)}"
        )
    wanted = base or chosen.bases[0]
    cell = next(cell for cell in chosen.cells if cell.base == wanted)
    probe = measure(cell, open_storage(), updates)
    if json_:
        print_json(probe.model_dump())
    else:
        out.print(
            f"{probe.base} on {probe.device}: {probe.tokens_per_s:.0f} trained tokens/s "
            f"({probe.note})",
            highlight=False,
        )


def _run_cells(chosen: Space, cells: Sequence[Cell], how: How, callbacks: Sequence[Any]) -> None:
    from loraland.cluster import ray_cluster
    from loraland.display_matrix import MatrixProgress
    from loraland.matrix.study import run_space

    with ray_cluster() as ray, MatrixProgress([cell.label for cell in cells]) as progress:
        run_space(
            chosen,
            settings.storage_uri(),
            ray,
            how,
            on_event=progress.show,
            callbacks=callbacks,
        )


def _report_run(chosen: Space, storage: Storage, ran: int, json_: bool) -> None:
    """Where a space stands after a run. Exits with 1 when a cell has failed."""
    from loraland.display import out
    from loraland.display_matrix import failure_lines, status_line
    from loraland.matrix.ledger import Ledger
    from loraland.matrix.table import table_path

    statuses = Ledger(storage).status(chosen.cells)
    failed = [status for status in statuses if status.state == "failed"]
    if json_:
        print_json(
            {
                "space": chosen.name,
                "ran": ran,
                "done": sum(status.state == "done" for status in statuses),
                "cells": len(statuses),
                "failed": [status.cell.label for status in failed],
                "table": table_path(chosen),
            }
        )
    else:
        out.print(status_line(chosen.name, statuses), highlight=False)
        for line in failure_lines(statuses):
            out.print(line, markup=False, highlight=False)
        where = storage.describe(table_path(chosen))
        out.print(f"results: {where}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _group_size(fuse: str) -> int | str:
    if fuse == "auto":
        return fuse
    if fuse.isdigit() and int(fuse) >= 1:
        return int(fuse)
    raise InvalidConfiguration(f"--fuse is '{fuse}'; give a number from 1 on, or auto")


def _check(chosen: Space, how: How) -> None:
    """Before anything starts. Raises InvalidConfiguration."""
    if chosen.search is not None and (how.fuse != 1 or how.devices != 1):
        raise InvalidConfiguration(
            f"space '{chosen.name}' is a search, which trains each configuration by itself on one "
            "device; leave out --fuse and --devices, or take `search:` out of the space"
        )
    if how.devices == 1:
        return
    from loraland.training.strategies import check_strategy

    if how.fuse != 1:
        raise InvalidConfiguration("--fuse and --devices exclude each other; give one of them")
    check_strategy(how.strategy)


def _loggers(log: str | None, name: str) -> list[Any]:
    from loraland.matrix.loggers import callback

    return [] if log is None else [callback(log, name)]


def _search(
    chosen: Space, how: How, callbacks: Sequence[Any], storage: Storage, json_: bool
) -> None:
    """Search, then run the best; what was tried is told first. Exits with 1 when that fails."""
    from dataclasses import replace

    from loraland.cluster import ray_cluster
    from loraland.display import err, out
    from loraland.display_matrix import MatrixProgress, failure_lines, search_table
    from loraland.matrix.judging import require_judge
    from loraland.matrix.placement import machines_of
    from loraland.matrix.search import run_search
    from loraland.matrix.study import needs_of, run_space

    require_judge(chosen.cells[0])
    assert chosen.search is not None
    with ray_cluster() as ray:
        machines = machines_of(ray)
        [needs] = needs_of(chosen, how, machines).values()
        err.print(
            f"searching: {chosen.search.samples} configurations, "
            f"{needs.cpus:g} CPUs and {needs.gpus:g} GPUs each",
            highlight=False,
        )
        report = run_search(chosen, settings.storage_uri(), needs, machines, callbacks)
        found = replace(chosen, cells=(report.best,), search=None)
        with MatrixProgress([report.best.label]) as progress:
            ended = run_space(
                found,
                settings.storage_uri(),
                ray,
                how,
                on_event=progress.show,
                callbacks=callbacks,
            )
    if json_:
        tried = [one.to_json() for one in report.tried]
        failed = [status.cell.label for status in ended.failed]
        print_json({"tried": tried, "cell": report.best.id, "failed": failed})
    else:
        out.print(search_table(report.tried))
        for line in failure_lines(ended.failed):
            out.print(line, markup=False, highlight=False)
    if ended.failed:
        raise typer.Exit(1)
