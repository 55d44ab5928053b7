"""`loraland matrix`: plan, run and watch the cells of a space. Thin, like `cli`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loraland import settings
from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.errors import InvalidConfiguration

matrix_app = typer.Typer(
    help="The matrix of a study: bases x tasks, from a space in tune_spaces/ or a file of yours.",
    no_args_is_help=True,
)

SpaceName = Annotated[
    str, typer.Argument(help="embedded, rehearsal, paper, search, or the path of a YAML file.")
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
    from loraland.display_matrix import forecast_table, status_line
    from loraland.matrix.forecast import forecast
    from loraland.matrix.hardware import Cluster, read_probes
    from loraland.matrix.ledger import Ledger
    from loraland.matrix.space import load_space

    chosen, storage = load_space(space), open_storage()
    statuses = Ledger(storage).status(chosen.cells)
    left = [status.cell for status in statuses if status.state != "done"]
    cluster = Cluster(worker=worker, workers=workers, spot=not on_demand)
    found = forecast(chosen, cluster, cells=left, probes=read_probes(storage))
    if json_:
        print_json(
            {
                "space": chosen.name,
                "cells": [{"cell": s.cell.label, "state": s.state} for s in statuses],
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
    for note in found.notes:
        out.print(f"- {note}", markup=False, highlight=False)


@matrix_app.command("status")
@teaches
def matrix_status(space: SpaceName, json_: Json = False) -> None:
    """How many cells are done, which failed, and why."""
    from loraland.display import out
    from loraland.display_matrix import failure_lines, status_grid, status_line
    from loraland.matrix.ledger import Ledger
    from loraland.matrix.space import load_space

    chosen = load_space(space)
    statuses = Ledger(open_storage()).status(chosen.cells)
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
    fuse: Annotated[
        str, typer.Option(help="Cells of a base that one trial trains at a time; or auto.")
    ] = "1",
    devices: Annotated[int, typer.Option(help="Workers that train one cell together.", min=1)] = 1,
    strategy: Annotated[str, typer.Option(help="With --devices: ddp, zero2 or zero3.")] = "ddp",
    cpus: Annotated[
        float | None,
        typer.Option(help="CPU cores of a trial, or a worker; by default as the space says."),
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of a trial; by default as the space says.")
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="Log trials to mlflow[=URI] or wandb[=PROJECT] as well.")
    ] = None,
    json_: Json = False,
) -> None:
    """Run the cells that have no result, those that failed before included.

    Killed and started again, it goes on where it was. A space with a `search` is searched, and the
    best recipe becomes its cell.
    """
    from loraland.display import err, out
    from loraland.display_matrix import failure_lines, status_line
    from loraland.matrix.ledger import Ledger
    from loraland.matrix.space import load_space

    chosen, storage = load_space(space), open_storage()
    if chosen.search is not None:
        _search(chosen, cpus, gpus, json_)
        return
    size = _group_size(fuse)
    _check_devices(size, devices, strategy)
    left = Ledger(storage).left(chosen.cells)
    if left:
        how = {"fuse": size, "devices": devices, "strategy": strategy, "cpus": cpus, "gpus": gpus}
        _run_cells(chosen, left, log, how)
    else:
        err.print("nothing is missing", highlight=False)
    statuses = Ledger(storage).status(chosen.cells)
    failed = [status for status in statuses if status.state == "failed"]
    if json_:
        print_json(
            {
                "space": chosen.name,
                "ran": len(left),
                "done": sum(status.state == "done" for status in statuses),
                "cells": len(statuses),
                "failed": [status.cell.label for status in failed],
                "table": f"spaces/{chosen.name}/results.parquet",
            }
        )
    else:
        out.print(status_line(chosen.name, statuses), highlight=False)
        for line in failure_lines(statuses):
            out.print(line, markup=False, highlight=False)
        out.print(
            f"results: {storage.describe(f'spaces/{chosen.name}/results.parquet')}",
            highlight=False,
            soft_wrap=True,
        )
    if failed:
        raise typer.Exit(1)


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


def _run_cells(chosen: Any, left: list[Any], log: str | None, how: dict[str, Any]) -> None:
    from loraland.cluster import ray_cluster
    from loraland.display_matrix import MatrixProgress
    from loraland.matrix.study import run_space

    callbacks = _loggers(log, chosen.name)
    with ray_cluster() as ray, MatrixProgress([cell.label for cell in left]) as progress:
        run_space(
            chosen,
            settings.storage_uri(),
            ray,
            on_event=progress.show,
            callbacks=callbacks,
            **how,
        )


def _group_size(fuse: str) -> int | str:
    if fuse == "auto":
        return fuse
    if fuse.isdigit() and int(fuse) >= 1:
        return int(fuse)
    raise InvalidConfiguration(f"--fuse is '{fuse}'; give a number from 1 on, or auto")


def _check_devices(size: int | str, devices: int, strategy: str) -> None:
    """Before anything starts. Raises InvalidConfiguration."""
    if devices == 1:
        return
    from loraland.training.strategies import check_strategy

    if size != 1:
        raise InvalidConfiguration("--fuse and --devices exclude each other; give one of them")
    check_strategy(strategy)


def _loggers(log: str | None, name: str) -> list[Any]:
    from loraland.matrix.loggers import callback

    return [] if log is None else [callback(log, name)]


def _search(chosen: Any, cpus: float | None, gpus: float | None, json_: bool) -> None:
    from dataclasses import replace

    from loraland.cluster import ray_cluster
    from loraland.display import err, out
    from loraland.display_matrix import MatrixProgress, search_table
    from loraland.matrix.search import run_search
    from loraland.matrix.study import run_space
    from loraland.matrix.trial import default_resources

    demand = chosen.demands[chosen.bases[0]]
    with ray_cluster() as ray:
        needs = default_resources(ray, cpus or demand.cpus, demand.gpus if gpus is None else gpus)
        err.print(
            f"searching: {chosen.search.samples} configurations, "
            f"{needs.cpus:g} CPUs and {needs.gpus:g} GPUs each",
            highlight=False,
        )
        report = run_search(chosen, settings.storage_uri(), needs)
        found = replace(chosen, cells=(report.best,), search=None)
        with MatrixProgress([report.best.label]) as progress:
            run_space(
                found, settings.storage_uri(), ray, cpus=cpus, gpus=gpus, on_event=progress.show
            )
    if json_:
        print_json({"tried": [one._asdict() for one in report.tried], "cell": report.best.id})
    else:
        out.print(search_table(report.tried))
