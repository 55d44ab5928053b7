"""`loraland generate` and `grade`: answers and scores of finished cells. Thin, like `cli`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraland import settings
from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.cli_matrix import Accelerator, Cpus, Gpus, SpaceName
from loraland.errors import InvalidConfiguration

if TYPE_CHECKING:
    from loraland.matrix.cell import Cell
    from loraland.matrix.columns import Asking, Plan, Trouble
    from loraland.matrix.rescoring import Rescoring
    from loraland.matrix.space import Space
    from loraland.storage import Storage

generation_app = typer.Typer()

Bases = Annotated[
    list[str] | None, typer.Option("--base", help="Only cells of this base; repeatable.")
]
MaxItems = Annotated[
    int | None,
    typer.Option(help="Held-out items per cell, where a score stands on fewer.", min=1),
]
OnRay = Annotated[
    bool, typer.Option("--ray", help="Each base as a task on Ray, several at a time.")
]


@generation_app.command()
@teaches
def generate(
    space: SpaceName,
    base: Bases = None,
    max_items: MaxItems = None,
    ray: OnRay = False,
    cpus: Cpus = None,
    gpus: Gpus = None,
    accelerator: Accelerator = None,
    json_: Json = False,
) -> None:
    """Ask what the finished cells of SPACE have no answers to, then score them.

    Adapters whose samples are missing or damaged, or that were judged on fewer than --max-items
    items, are asked together with their base, all of one base in one engine. Answers are kept as
    they come: killed and started again, it asks only the rest. `loraland grade` scores without
    asking; `loraland matrix run` trains and judges cells that are not finished.
    """
    if not ray and (cpus, gpus, accelerator) != (None, None, None):
        raise InvalidConfiguration(
            "--cpus, --gpus and --accelerator say what a task on Ray gets; give --ray too"
        )
    chosen, storage = _space(space), open_storage()
    cells, found = _plan(chosen, storage, base, max_items)
    if ray:
        ended = _on_ray(chosen, found, max_items, (cpus, gpus, accelerator))
    else:
        ended = _here(found, storage)
    _report(chosen, storage, cells, found, ended, json_)


@generation_app.command()
@teaches
def grade(
    space: SpaceName, base: Bases = None, max_items: MaxItems = None, json_: Json = False
) -> None:
    """Score the finished cells of SPACE anew from stored answers; no model is loaded.

    For answers that were generated where they could not be graded (with the same --max-items), and
    after a grader has changed. Scores that come out the same are left as they are.
    """
    from loraland.matrix.columns import NOT_ASKED

    chosen, storage = _space(space), open_storage()
    cells, found = _plan(chosen, storage, base, max_items)
    ended = [(NOT_ASKED, _rescored(column, storage)) for column in found.columns]
    _report(chosen, storage, cells, found, ended, json_)


def _space(name: str) -> Space:
    from loraland.matrix.space import load_space

    return load_space(name)


def _plan(
    chosen: Space, storage: Storage, bases: Sequence[str] | None, max_items: int | None
) -> tuple[list[Cell], Plan]:
    from loraland.matrix.columns import cells_of, plan

    cells = cells_of(chosen, storage, bases)
    return cells, plan(cells, storage, max_items)


def _here(found: Plan, storage: Storage) -> list[tuple[Asking, Rescoring]]:
    from loraland.display import CellProgress
    from loraland.matrix.asking import ask_column

    ended = []
    with CellProgress([column.label for column in found.columns]) as progress:
        for column in found.columns:
            asking = ask_column(column, storage, progress.show)
            ended.append((asking, _rescored(column, storage)))
    return ended


def _rescored(column: Any, storage: Storage) -> Rescoring:
    from loraland.matrix.rescoring import rescore

    return rescore(column.candidates, storage)


def _on_ray(
    chosen: Space,
    found: Plan,
    max_items: int | None,
    asked: tuple[float | None, float | None, str | None],
) -> list[tuple[Asking, Rescoring]]:
    from loraland.cluster import ray_cluster
    from loraland.display import CellProgress
    from loraland.matrix.placement import machines_of
    from loraland.matrix.space import Demand
    from loraland.matrix.study import How, needs_of

    cpus, gpus, accelerator = asked
    how = How(demand=Demand(cpus, gpus, None, accelerator))
    labels = [column.label for column in found.columns]
    with ray_cluster() as ray, CellProgress(labels) as progress:
        from loraland.matrix.asking_on_ray import ask_on_ray

        needs = needs_of(chosen, how, machines_of(ray))
        uri = settings.storage_uri()
        ended = ask_on_ray(found.columns, uri, needs, max_items, progress.show)
    return [(one.asking, one.rescoring) for one in ended]


def _report(
    chosen: Space,
    storage: Storage,
    cells: Sequence[Cell],
    found: Plan,
    ended: Sequence[tuple[Asking, Rescoring]],
    json_: bool,
) -> None:
    """What was asked and scored. Exits with 1 when a cell could not be."""
    from loraland.display import err, out
    from loraland.matrix.columns import write_results

    scored = [one for _, rescoring in ended for one in rescoring.scored]
    troubles = _troubles(found, ended)
    changed = sum(one.changed for one in scored)
    if changed:
        write_results(chosen, storage)
    told = {
        "space": chosen.name,
        "cells": len(cells),
        "finished": len(scored) + len(troubles),
        "asked": sum(asking.asked for asking, _ in ended),
        "borrowed": sum(asking.borrowed for asking, _ in ended),
        "scored": len(scored),
        "changed": changed,
    }
    if json_:
        failed = [
            {"cell": one.cell.label, "code": one.error.code, "message": one.error.message}
            for one in troubles
        ]
        print_json(told | {"failed": failed})
    else:
        out.print(
            "{space}: {finished} of {cells} cells are finished; {asked} answers were asked, "
            "{borrowed} were known from shorter exams; {scored} cells are scored, {changed} of "
            "them otherwise than before".format(**told),
            highlight=False,
        )
        if not told["finished"]:
            err.print("no cell is finished; `loraland matrix run` trains and judges them")
        for one in troubles:
            line = f"{one.cell.label}: {one.error.code}: {one.error.message}"
            err.print(line, markup=False, highlight=False)
    if troubles:
        raise typer.Exit(1)


def _troubles(found: Plan, ended: Sequence[tuple[Asking, Rescoring]]) -> list[Trouble]:
    """One for each cell: what went wrong first, which is why the rest did."""
    firsts: dict[str, Trouble] = {}
    for asking, rescoring in ended:
        for trouble in (*asking.troubles, *rescoring.troubles):
            firsts.setdefault(trouble.cell.id, trouble)
    for trouble in found.troubles:
        firsts.setdefault(trouble.cell.id, trouble)
    return list(firsts.values())
