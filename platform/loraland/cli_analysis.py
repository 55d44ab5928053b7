"""`loraland paper`, `heuristics`, `forecast`: what the report's numbers say. Thin, like `cli`."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from loraland.cli_common import Json, print_json, teaches
from loraland.errors import InvalidConfiguration

analysis_app = typer.Typer()

TaskName = Annotated[
    str | None, typer.Argument(help="A task of the catalogue (`loraland tasks list`).")
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="In place of TASK: a .parquet or .jsonl file with columns prompt and completion, or a "
        "folder with train.parquet or train.jsonl."
    ),
]
TokenizerPath = Annotated[
    Path | None, typer.Option(help="A tokenizer.json or its folder: lengths in tokens.")
]
Rows = Annotated[int, typer.Option(help="Examples to look at, drawn with a fixed seed.", min=1)]


@analysis_app.command()
@teaches
def paper(
    by: Annotated[
        Literal["base", "task", "category"] | None,
        typer.Option(help="Means by base, task or category in place of the headlines."),
    ] = None,
    csv_: Annotated[bool, typer.Option("--csv", help="The table as CSV.")] = False,
    json_: Json = False,
) -> None:
    """The LoRA Land report's headlines, computed again from its own table of 310 scores.

    Says what agrees, what does not, and why.
    """
    from loraland.analysis.claims import check_bases, claims
    from loraland.analysis.marginals import BY, overall
    from loraland.analysis.study import load_study
    from loraland.display import out
    from loraland.display_analysis import base_check_table, claim_table, marginal_table

    if csv_ and json_:
        raise InvalidConfiguration("both --csv and --json are given; give one")
    study = load_study()
    if json_:
        print_json(
            {
                "claims": [_claim(claim) for claim in claims(study)],
                "bases": _nested(check_bases(study)),
                "overall": _nested(overall(study)),
                "by": {name: _nested(of(study)) for name, of in BY.items()},
            }
        )
    elif by is not None:
        lines = [*BY[by](study), overall(study)]
        if csv_:
            _print_csv([line._asdict() for line in lines])
        else:
            out.print(marginal_table(lines, by))
    elif csv_:
        _print_csv([_claim(claim) for claim in claims(study)])
    else:
        out.print(claim_table(claims(study)))
        out.print()
        out.print(base_check_table(check_bases(study)))


@analysis_app.command()
@teaches
def heuristics(
    task: TaskName = None,
    data: Data = None,
    unit: Annotated[
        Literal["words", "characters"], typer.Option(help="Of lengths, without a tokenizer.")
    ] = "words",
    tokenizer: TokenizerPath = None,
    rows: Rows = 500,
    recount: Annotated[
        bool,
        typer.Option(
            "--recount", help="Without TASK: count every task in LORALAND_DATA anew (seconds each)."
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """How complex the data of a task looks: lengths, likeness of input and output, compressibility.

    Without TASK: how these go with the scores of the report's tasks, beside its Figure 8.
    """
    from loraland.display import out
    from loraland.display_analysis import heuristics_lines, heuristics_table

    if task is None and data is None:
        _refuse_without_task(tokenizer=tokenizer)
        _figure8(rows, recount, json_)
        return
    if recount:
        raise InvalidConfiguration("--recount counts every task at hand; leave TASK or --data away")
    found, source = _measured(task, data, unit, tokenizer, rows)
    if json_:
        print_json({"source": source} | _nested(found))
    else:
        out.print(heuristics_table(found, task or str(data)))
        _print_lines(heuristics_lines(found, source))


@analysis_app.command()
@teaches
def forecast(
    task: TaskName = None,
    data: Data = None,
    base: Annotated[
        str | None, typer.Option(help="One of the report's ten bases; by default each.")
    ] = None,
    base_score: Annotated[
        float | None, typer.Option(help="Score of --base alone on the task, if it was measured.")
    ] = None,
    tokenizer: TokenizerPath = None,
    rows: Rows = 500,
    json_: Json = False,
) -> None:
    """What a task can expect of an adapter before it is trained, from the report's 310 cells.

    Without TASK: how good such forecasts are, each task of the report foretold from the others.
    """
    from loraland.analysis.outlook import assess, check_base, foretell, learn
    from loraland.analysis.study import load_study
    from loraland.analysis.traits import published_traits, traits_of
    from loraland.display import err, out
    from loraland.display_analysis import (
        assessment_table,
        honest_words,
        neighbour_table,
        outlook_lines,
        outlook_table,
    )
    from loraland.tasks.catalogue import get_task

    study = load_study()
    if task is None and data is None:
        _refuse_without_task(base=base, base_score=base_score, tokenizer=tokenizer)
        found = assess(study, lambda known: err.print(f"judging {known}", highlight=False))
        if json_:
            print_json(_nested(found))
            return
        out.print(assessment_table(found))
        _print_lines(honest_words(found))
        return
    check_base(study, base, base_score)
    known = published_traits(study)
    if data is None and task in known:
        traits = known[task]  # the report's own facts: no rows are needed
    else:
        measured, _ = _measured(task, data, "characters", tokenizer, rows)
        traits = traits_of(measured, get_task(task) if task else None)
    learned = learn(study, base_score is not None, without=task)
    outlook = foretell(study, learned, traits, base, base_score)
    published = {cell.base: cell.tuned for cell in study.cells if cell.task == task}
    name = task or str(data)
    if json_:
        print_json({"task": name} | _nested(outlook) | {"published": published or None})
        return
    out.print(outlook_table(outlook, published, f"{name}: what an adapter can expect"))
    out.print()
    out.print(neighbour_table(outlook))
    _print_lines(outlook_lines(outlook))


def _refuse_without_task(**options: object) -> None:
    """Options that say something of one task. Raises InvalidConfiguration when one is given."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise InvalidConfiguration(f"{', '.join(given)} without a task; name TASK or --data")


def _print_lines(lines: Sequence[str]) -> None:
    from loraland.display import out

    for line in lines:
        out.print(f"- {line}", markup=False, highlight=False)


def _measured(
    task: str | None, data: Path | None, unit: str, tokenizer: Path | None, rows: int
) -> tuple[Any, str]:
    """The heuristics of a task or a file, and where the rows are from."""
    from loraland.analysis.examples import of_file, of_task, token_length
    from loraland.analysis.heuristics import measure
    from loraland.tasks.catalogue import get_task

    if task is not None and data is not None:
        raise InvalidConfiguration(f"both task '{task}' and --data {data} are given; give one")
    length = None if tokenizer is None else token_length(tokenizer)
    found = of_file(data, rows) if data is not None else of_task(get_task(str(task)), rows)
    unit = unit if length is None else "tokens"
    return measure(found.examples, unit, length, found.total), found.source


def _figure8(rows: int, recount: bool, json_: bool) -> None:
    from loraland.analysis.correlation import QUALITIES, discoveries, matrix, qualities
    from loraland.analysis.heuristics import NAMES
    from loraland.analysis.outlook import counted_heuristics
    from loraland.analysis.study import load_study
    from loraland.display import out
    from loraland.display_analysis import correlation_lines, correlation_table

    counted = _recounted(rows) if recount else counted_heuristics()
    values = {name: row | counted.get(name, {}) for name, row in qualities(load_study()).items()}
    found = matrix(values, QUALITIES, NAMES)
    holding = discoveries(found)
    if json_:
        print_json(
            {
                "tasks": sorted(counted),
                "correlations": [
                    _nested(one) | {"survives_correction": one in holding} for one in found
                ],
            }
        )
        return
    out.print(correlation_table(found))
    _print_lines(correlation_lines(found, holding, sorted(counted)))


def _recounted(rows: int) -> dict[str, dict[str, float]]:
    from loraland.analysis.correlation import LEAST
    from loraland.analysis.examples import of_task, tasks_at_hand
    from loraland.analysis.heuristics import measure
    from loraland.display import err

    tasks = tasks_at_hand()
    if len(tasks) < LEAST:
        raise InvalidConfiguration(
            f"LORALAND_DATA has train rows of {len(tasks)} of the report's tasks; a correlation "
            f"needs {LEAST}. Add more, or leave --recount away to use the counts that are shipped"
        )
    found = {}
    for task in tasks:
        err.print(f"counting {task.name}", highlight=False)
        read = of_task(task, rows)
        found[task.name] = measure(read.examples, "characters", train_examples=read.total).values()
    return found


def _claim(claim: Any) -> dict[str, Any]:
    return {**claim._asdict(), "agrees": claim.agrees}


def _nested(value: Any) -> Any:
    """Named tuples as objects, all the way down; what is not finite as null."""
    if hasattr(value, "_asdict"):
        return {name: _nested(part) for name, part in value._asdict().items()}
    if isinstance(value, list):
        return [_nested(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
