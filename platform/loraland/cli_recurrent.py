"""`loraland recurrent ...`: studies of recurrent nets, the classical baseline, figures. Thin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from loraland.cli_common import Json, open_storage, print_json, teaches

recurrent_app = typer.Typer(
    help="LSTMs from first principles: studies, the classical baseline, figures.",
    no_args_is_help=True,
)

StudyName = Annotated[
    str, typer.Argument(help="A study in tune_spaces/recurrent/, or the path of a YAML file.")
]
Cpus = Annotated[float, typer.Option(help="CPU cores of a trial.", min=0.1)]
FLOW = "recurrent-flow.svg"


@recurrent_app.command("run")
@teaches
def recurrent_run(
    study: StudyName,
    cpus: Cpus = 1,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Without Ray, one trial after the other.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train every cell of STUDY with every seed that has no result, and show what came out.

    Each pair of cell and seed is a trial of Ray Tune. Killed and started again, it goes on.
    """
    from loraland.display import err
    from loraland.errors import TrainingDiverged
    from loraland.recurrent.recipe import load_study

    chosen = load_study(study)

    def tell(trial: str, updates: int, error: float) -> None:
        err.print(f"{trial}: update {updates}, error {error:.4f}", highlight=False)

    faults = _run_here(chosen, tell) if in_process else _run_on_ray(chosen, tell, cpus)
    _show(chosen, json_)
    if faults:
        raise TrainingDiverged("trials without a result: " + "; ".join(faults))


@recurrent_app.command("show")
@teaches
def recurrent_show(study: StudyName, json_: Json = False) -> None:
    """What STUDY has found so far."""
    from loraland.recurrent.recipe import load_study

    _show(load_study(study), json_)


@recurrent_app.command("judge")
@teaches
def recurrent_judge(
    what: Annotated[
        list[str],
        typer.Argument(help="A space, or its YAML file, then tasks of it; or tasks alone."),
    ],
    name: Annotated[str, typer.Option(help="Of the column.")] = "recurrent",
    max_items: Annotated[
        int | None, typer.Option(help="Held-out items; by default the space's, or 100.", min=1)
    ] = None,
    units: Annotated[
        Literal["bytes", "subwords"], typer.Option(help="What the net reads.")
    ] = "subwords",
    window: Annotated[int, typer.Option(help="Inputs that a step sees.", min=1)] = 1,
    epochs: Annotated[int, typer.Option(help="Over the train rows.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    json_: Json = False,
) -> None:
    """Train a recurrent classifier for each task with labels, and store its answers as samples.

    Then `loraland leaderboard SPACE --endpoint NAME` holds adapters against it. What has samples is
    not trained again.
    """
    from loraland.cli_endpoint import asked_questions
    from loraland.display import err, out
    from loraland.display_recurrent import baseline_table
    from loraland.recurrent.baseline import Baseline, judge_all
    from loraland.recurrent.text import TextRecipe

    recipe = TextRecipe(units=units, window=window, epochs=epochs)
    column = Baseline(name, recipe, seed)

    def tell(task: str, epoch: int, loss: float, right: float) -> None:
        err.print(f"{task}: epoch {epoch}, loss {loss:.3f}, held back {right:.3f}", highlight=False)

    found = judge_all(column, asked_questions(what, max_items), open_storage(), tell)
    if json_:
        print_json(
            [
                one._asdict() | {"score": one.score._asdict(), "majority": one.majority._asdict()}
                for one in found
            ]
        )
    else:
        out.print(baseline_table(name, found))


@recurrent_app.command("figures")
@teaches
def recurrent_figures(
    folder: Annotated[Path, typer.Argument(help="Where the SVG files go.")],
) -> None:
    """Draw gradient flow, and the learning curves of the studies whose results are in storage."""
    from loraland.display import err
    from loraland.recurrent.figures import curve_figure, flow_figure
    from loraland.recurrent.recipe import load_study, results, study_names

    folder.mkdir(parents=True, exist_ok=True)
    (folder / FLOW).write_text(flow_figure(), encoding="utf-8")
    err.print(f"wrote {folder / FLOW}", highlight=False)
    for name in study_names():
        study = load_study(name)
        found = results(study, open_storage())
        if any(found.values()):
            place = folder / f"recurrent-{name}.svg"
            place.write_text(curve_figure(study, found), encoding="utf-8")
            err.print(f"wrote {place}", highlight=False)


def _run_on_ray(study: Any, tell: Any, cpus: float) -> list[str]:
    from loraland import settings
    from loraland.cluster import ray_cluster
    from loraland.recurrent.study import run_trials

    with ray_cluster():
        return run_trials(study, settings.storage_uri(), tell, cpus)


def _run_here(study: Any, tell: Any) -> list[str]:
    from loraland.errors import TrainingDiverged
    from loraland.recurrent.keeping import run_and_keep
    from loraland.recurrent.recipe import left

    storage, faults = open_storage(), []
    for trial in left(study, storage):
        label = f"{trial.cell}-{trial.seed}"
        try:
            run_and_keep(trial, storage, lambda n, error, label=label: tell(label, n, error))  # type: ignore[misc]
        except TrainingDiverged as error:
            faults.append(f"{trial.cell} with seed {trial.seed}: {error.message}")
    return faults


def _show(study: Any, json_: bool) -> None:
    from dataclasses import asdict

    from loraland.display import err, out
    from loraland.display_recurrent import outcome_table
    from loraland.recurrent.outcomes import outcomes
    from loraland.recurrent.recipe import left, results

    storage = open_storage()
    found = outcomes(study, results(study, storage))
    if json_:
        print_json({"study": study.name, "cells": [asdict(one) for one in found]})
        return
    if found:
        out.print(outcome_table(study, found))
    if missing := len(left(study, storage)):
        err.print(f"{missing} trials have no result yet", highlight=False)
