"""The command `loraland`, thin: names the places, calls the library, shows what came back.

Results go to standard output (as a table, or as one JSON document with --json), everything else to
standard error.
"""

from __future__ import annotations

import logging
import os
import signal
import warnings
from typing import Annotated, Any

import typer

from loraland import settings
from loraland.bases.catalogue import Precision, get_base
from loraland.cli_analysis import analysis_app
from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.cli_endpoint import endpoint_app
from loraland.cli_evaluation import evaluation_app
from loraland.cli_generation import generation_app
from loraland.cli_keys import keys_app, tell_access
from loraland.cli_loadtest import loadtest_app
from loraland.cli_matrix import matrix_app
from loraland.cli_palate import palate_app
from loraland.cli_recurrent import recurrent_app
from loraland.cli_report import report_app
from loraland.cli_strata import strata_app
from loraland.serving.access.policy import AccessMode

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # our own bars are enough
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
# Where DeepSpeed is installed, PEFT imports it, and it logs to standard output.
logging.getLogger("DeepSpeed").addFilter(lambda record: False)

app = typer.Typer(
    help="""Fine-tune LoRA adapters on Ray, prove which of them win, serve all from one base.

    Adapters, samples and scores are kept in LORALAND_STORAGE (a folder, s3:// or gs://; by default
    ~/.loraland). Real data is read from LORALAND_DATA/<task>/{train,test}.parquet when that is set.

    First steps: `loraland demo`; then `loraland train smollm2-135m dates` and `loraland serve`.""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
tasks_app = typer.Typer(help="The tasks that can be learned.", no_args_is_help=True)
bases_app = typer.Typer(help="The bases that adapters stand on.", no_args_is_help=True)
adapters_app = typer.Typer(help="The registry of adapters.", no_args_is_help=True)
app.add_typer(tasks_app, name="tasks")
app.add_typer(bases_app, name="bases")
app.add_typer(adapters_app, name="adapters")
app.add_typer(matrix_app, name="matrix")
app.add_typer(endpoint_app, name="endpoint")
app.add_typer(keys_app, name="keys")
app.add_typer(strata_app, name="strata")
app.add_typer(palate_app, name="palate")
app.add_typer(recurrent_app, name="recurrent")
app.add_typer(analysis_app)  # its commands stand beside the others
app.add_typer(evaluation_app)
app.add_typer(generation_app)
app.add_typer(report_app)
app.add_typer(loadtest_app)

Model = Annotated[str, typer.Argument(help="BASE/TASK, BASE/TASK:ALIAS or BASE/TASK@VERSION.")]


@app.command()
@teaches
def demo(
    port: Annotated[int, typer.Option(help="HTTP port of the server; 0 takes a free one.")] = 0,
) -> None:
    """Three tasks, from data to answers over HTTP, in a few minutes on a laptop.

    Trains three adapters on the embedded base through Ray Tune, judges them against the base,
    publishes them, serves all of them, and asks base and adapters the same questions. Run again, it
    goes on where it was; with everything trained it only serves and asks.
    """
    from loraland.demo import run_demo

    run_demo(port)


@tasks_app.command("list")
@teaches
def tasks_list(json_: Json = False) -> None:
    """All tasks: the 31 of the report and the generated ones."""
    from loraland.display import out, task_table
    from loraland.tasks.catalogue import all_tasks

    tasks = all_tasks()
    if json_:
        keys = (
            "name",
            "category",
            "description",
            "metric",
            "labels",
            "generator",
            "evaluation_split",
        )
        print_json([{key: getattr(task, key) for key in keys} for task in tasks])
    else:
        out.print(task_table(tasks))


@tasks_app.command("show")
@teaches
def tasks_show(
    task: Annotated[str, typer.Argument(help="A name from `loraland tasks list`.")],
    rows: Annotated[int, typer.Option(help="Held-out items to show with their answers.")] = 2,
) -> None:
    """The prompt of a task, and some of its items as every model sees them."""
    from loraland.display import out
    from loraland.tasks.catalogue import get_task
    from loraland.tasks.sources import load_split

    found = get_task(task)
    out.print(
        f"{found.name}: {found.description} (metric {found.metric})", highlight=False, markup=False
    )
    split = load_split(found, "test", limit=rows)
    for row in split.rows:
        item = found.for_split("test").item(row)
        out.rule(split.source)
        out.print(f"{item.prompt} ", end="", markup=False, highlight=False)
        out.print(item.target, style="green", markup=False, highlight=False)


@bases_app.command("list")
@teaches
def bases_list(json_: Json = False) -> None:
    """All bases: the ten of the report and the one that is installed."""
    from loraland.bases.catalogue import all_bases
    from loraland.display import base_table, out

    if json_:
        print_json([base.model_dump() for base in all_bases()])
    else:
        out.print(base_table(all_bases()))


@app.command()
@teaches
def train(
    base: Annotated[str, typer.Argument(help="A base, or the path of a local model folder.")],
    task: Annotated[str, typer.Argument(help="A task of the catalogue.")],
    recipe: Annotated[
        str, typer.Option(help="quick, report, or the path of a YAML file.")
    ] = "quick",
    max_examples: Annotated[
        int | None,
        typer.Option(
            help="Rows of the train split; by default all, or 300 of a generated task.", min=2
        ),
    ] = None,
    max_items: Annotated[int, typer.Option(help="Held-out items to judge on.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of shuffling, initial weights and dropout.")] = 0,
    cpus: Annotated[
        float | None, typer.Option(help="CPU cores of the trial; by default a node's.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of the trial; by default 1 if there is one.")
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Without Ray, in this process.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train an adapter for TASK on BASE, judge it against its base, publish it.

    Killed and started again with the same arguments, it goes on where it was and ends with the same
    adapter.
    """
    from loraland.matrix.cell import Cell
    from loraland.tasks.catalogue import get_task
    from loraland.training.recipe import get_recipe

    get_task(task)  # a wrong name is told before anything is started
    cell = Cell(base, task, get_recipe(recipe), seed, max_examples, max_items)
    if not cell.has_local_base:
        get_base(base)
    _report([_run_here(cell) if in_process else _run_on_ray(cell, cpus, gpus)], json_)


@app.command()
@teaches
def evaluate(
    model: Model,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask every item anew.")] = False,
    max_items: Annotated[
        int | None, typer.Option(help="Items, with --fresh; by default as stored.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="With --fresh: the base's folder, if not in the catalogue.")
    ] = None,
    json_: Json = False,
) -> None:
    """Score an adapter again.

    From its stored samples (seconds, no model), or with --fresh from new answers.
    """
    from loraland.display import CellProgress, out, score_table
    from loraland.evaluation.published import regrade_model
    from loraland.storage import Storage

    storage = Storage.open(settings.storage_uri())
    if fresh:
        from loraland.evaluation.model import evaluate_model
        from loraland.matrix.cell import CellEvent

        with CellProgress([model]) as progress:
            done = evaluate_model(
                model,
                storage,
                base=base,
                max_items=max_items,
                on_answer=lambda n, total: progress.show(CellEvent(model, "judge", n, total)),
            )
    else:
        done = regrade_model(model, storage)
    if json_:
        print_json(
            {
                "model": done.model,
                "computed": done.computed.model_dump(),
                "stored": done.stored and done.stored.model_dump(),
                "reproduced": done.reproduced,
            }
        )
        return
    rows = [("computed now", done.computed)] + ([("stored", done.stored)] if done.stored else [])
    out.print(score_table(rows, done.model))
    if done.reproduced is not None:
        out.print(
            "the stored score was reproduced"
            if done.reproduced
            else "[red]the stored score differs[/]"
        )


@adapters_app.command("list")
@teaches
def adapters_list(json_: Json = False) -> None:
    """Every version in the registry, with aliases and scores."""
    from loraland.display import adapter_table, err, out

    entries = _registry().list()
    if json_:
        print_json(
            [
                {"name": str(e.name), "aliases": e.aliases, "card": e.card.model_dump()}
                for e in entries
            ]
        )
    elif entries:
        out.print(adapter_table(entries))
    else:
        err.print(
            f"no adapters in {settings.storage_uri()} yet; "
            "`loraland train smollm2-135m dates` makes one"
        )


@adapters_app.command("show")
@teaches
def adapters_show(model: Model) -> None:
    """The card of an adapter, as JSON: data, recipe, curve, scores, canary, versions."""
    print_json(_registry().card(model).model_dump())


@adapters_app.command("alias")
@teaches
def adapters_alias(
    model: Model,
    alias: Annotated[str, typer.Argument(help="A new or existing alias, such as prod.")],
) -> None:
    """Point an alias at a version; servers follow within a second or two."""
    from loraland.display import out

    out.print(f"{_registry().alias(model, alias)} is {alias} now", highlight=False)


@adapters_app.command("delete")
@teaches
def adapters_delete(model: Model) -> None:
    """Delete a version (BASE/TASK@VERSION). Refused while an alias points at it."""
    from loraland.display import out

    _registry().delete(model)
    out.print(f"{model} is deleted", highlight=False)


@app.command()
@teaches
def serve(
    base: Annotated[str, typer.Option(help="A base of the catalogue.")] = "smollm2-135m",
    precision: Annotated[
        Precision, typer.Option(help="As the adapters were trained, or they meet another base.")
    ] = "nf4",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="HTTP port.")] = 8000,
    cpus: Annotated[
        float | None, typer.Option(help="CPU cores of the replica; by default all.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of the replica; by default 1 if there is one.")
    ] = None,
    access: Annotated[
        AccessMode,
        typer.Option(
            help="Whether API keys are needed; auto: unless --host is this machine's own."
        ),
    ] = "auto",
) -> None:
    """Serve a base and every adapter the registry has for it, with the OpenAI API, until Ctrl-C.

    `serve run serve_apps.lora_land:app` does the same on a cluster.
    """
    from loraland.cluster import ray_cluster
    from loraland.display import err
    from loraland.matrix.trial import default_resources
    from loraland.serving.local import running_app

    get_base(base)  # a wrong name is told before anything is started
    tell_access(access, host)
    with ray_cluster(own=True) as ray:
        resources = default_resources(ray, cpus, gpus)
        err.print(f"loading {base} in {precision}", highlight=False)
        share = (resources.cpus, resources.gpus)
        with running_app(base, precision, host, port, share, access) as url:
            err.print(
                f"serving {base} and its adapters at {url}/v1; Ctrl-C ends it", highlight=False
            )
            signal.pause()


def _run_on_ray(cell: Any, cpus: float | None, gpus: float | None) -> Any:
    from loraland.cluster import ray_cluster
    from loraland.display import CellProgress, err
    from loraland.matrix.trial import default_resources, run_cells

    with ray_cluster() as ray, CellProgress([cell.label]) as progress:
        resources = default_resources(ray, cpus, gpus)
        err.print(f"on Ray: {resources.cpus:g} CPUs, {resources.gpus:g} GPUs", highlight=False)
        if (free := ray.available_resources().get("CPU", 0)) < resources.cpus:
            err.print(f"waiting for others to end: {free:g} CPUs are free now", highlight=False)
        [outcome] = run_cells([cell], settings.storage_uri(), resources, progress.show)
    return outcome


def _run_here(cell: Any) -> Any:
    from loraland.display import CellProgress
    from loraland.matrix.run import run_cell
    from loraland.storage import Storage

    with CellProgress([cell.label]) as progress:
        return run_cell(cell, Storage.open(settings.storage_uri()), progress.show)


def _report(outcomes: list[Any], json_: bool) -> None:
    from loraland.display import err, out, score_table
    from loraland.matrix.cell import CellFailure

    for outcome in outcomes:
        if isinstance(outcome, CellFailure):
            raise outcome.error
    for outcome in outcomes:
        for warning in outcome.warnings:
            err.print(
                f"data gate warning: {warning}", style="yellow", markup=False, highlight=False
            )
    if json_:
        print_json(
            [o._asdict() | {"score": o.score.model_dump()} for o in outcomes]
            if len(outcomes) > 1
            else outcomes[0]._asdict() | {"score": outcomes[0].score.model_dump()}
        )
    else:
        out.print(score_table([(o.model, o.score) for o in outcomes]))
        out.print(f"kept in {settings.storage_uri()}", highlight=False)


def _registry() -> Any:
    from loraland.adapters.registry import Registry

    return Registry(open_storage())


if __name__ == "__main__":
    app()
