"""`loraland endpoint ask`: an outside model on the items of a space or of tasks. Thin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraland.cli_common import Json, open_storage, print_json, teaches

if TYPE_CHECKING:
    from loraland.evaluation.endpoint import Endpoint
    from loraland.evaluation.endpoint_run import Report
    from loraland.tasks.sources import Split
    from loraland.tasks.task import Task

endpoint_app = typer.Typer(
    help="Outside models behind an OpenAI-compatible URL, as opponents on a leaderboard.",
    no_args_is_help=True,
)


@endpoint_app.command("ask")
@teaches
def endpoint_ask(
    settings: Annotated[Path, typer.Argument(help="The endpoint's YAML file.")],
    what: Annotated[
        list[str],
        typer.Argument(help="A space, or its YAML file, then tasks of it; or tasks alone."),
    ],
    max_items: Annotated[
        int | None,
        typer.Option(help="Held-out items of each task; by default the space's, or 100.", min=1),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take; needs no key.")
    ] = False,
    json_: Json = False,
) -> None:
    """Ask an endpoint the items of SPACE, or of TASKs, and store its samples.

    What was answered before is not asked again; killed and started again, it goes on. Then
    `loraland leaderboard SPACE --endpoint NAME` holds adapters against it.
    """
    from loraland.display import err, out
    from loraland.display_endpoint import estimate_lines, report_table, spent_line
    from loraland.evaluation.endpoint import key_from, load_endpoint
    from loraland.evaluation.endpoint_run import forecast_endpoint

    endpoint, storage = load_endpoint(settings), open_storage()
    questions = asked_questions(what, max_items)
    if dry_run:
        found = forecast_endpoint(endpoint, questions, storage)
        if json_:
            print_json(_plain(found))
        else:
            for line in estimate_lines(endpoint, found):
                out.print(line, markup=False, highlight=False)
        return
    key = key_from(endpoint, os.environ)
    for line in estimate_lines(endpoint, forecast_endpoint(endpoint, questions, storage)):
        err.print(line, markup=False, highlight=False)
    report = _ask(endpoint, key, questions, storage)
    if json_:
        if report.error is None:
            print_json(_as_json(endpoint, report))
    elif report.judged:
        out.print(report_table(endpoint, report))
    err.print(spent_line(endpoint, report), markup=False, highlight=False)
    if report.error is not None:
        raise report.error


def asked_questions(what: list[str], max_items: int | None) -> list[tuple[Task, Split]]:
    """Raises InvalidConfiguration, UnknownTask, SourceUnavailable."""
    from loraland.matrix.questions import questions_of, questions_on
    from loraland.matrix.space import load_space, space_names

    first, *rest = what
    if first in space_names() or first.endswith((".yaml", ".yml")):
        return questions_of(load_space(first), rest, max_items)
    return questions_on(what, max_items)


def _ask(endpoint: Endpoint, key: str | None, questions: Any, storage: Any) -> Report:
    from loraland.display import CellProgress
    from loraland.evaluation.endpoint_run import ask_endpoint
    from loraland.matrix.cell import CellEvent

    labels = [f"{endpoint.name}/{task.name}" for task, _ in questions]
    with CellProgress(labels) as progress:
        return ask_endpoint(
            endpoint,
            key,
            questions,
            storage,
            lambda task, done, total: progress.show(
                CellEvent(f"{endpoint.name}/{task}", "judge", done, total, note="asking")
            ),
        )


def _as_json(endpoint: Endpoint, report: Report) -> dict[str, Any]:
    tasks = [
        _plain(one) | {"score": one.score._asdict(), "stamp": one.stamp["endpoint"]}
        for one in report.judged
    ]
    return {
        "endpoint": endpoint.name,
        "tasks": tasks,
        "requests": report.requests,
        "spent": _plain(report.spent),
        "spent_in_all": _plain(report.spent_in_all),
    }


def _plain(one: Any) -> dict[str, Any]:
    """A NamedTuple as JSON values: money as a number."""
    from decimal import Decimal

    return {
        name: float(value)
        if isinstance(value, Decimal)
        else _plain(value)
        if hasattr(value, "_asdict")
        else value
        for name, value in one._asdict().items()
    }
