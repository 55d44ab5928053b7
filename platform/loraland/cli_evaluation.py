"""`loraland leaderboard`, `promote` and `promotions`. Thin, like `cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from loraland.cli_common import (
    Correction,
    Endpoints,
    Json,
    Published,
    open_storage,
    print_json,
    teaches,
)
from loraland.errors import InvalidConfiguration

evaluation_app = typer.Typer()

Format = Literal["table", "csv", "json", "parquet"]


@evaluation_app.command()
@teaches
def leaderboard(
    space: Annotated[str, typer.Argument(help="A space, or the path of a YAML file.")],
    correction: Correction = "holm",
    endpoint: Endpoints = None,
    published: Published = False,
    cells: Annotated[bool, typer.Option("--cells", help="A line for every adapter.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="What to write.")] = "table",
    to: Annotated[
        Path | None, typer.Option("--out", help="A file to write to, in place of the screen.")
    ] = None,
) -> None:
    """The finished cells of SPACE: scores, lifts, intervals, and which adapters beat their base.

    A claim is made only after correction over all comparisons. Needs no model; reads results and
    samples from storage. `loraland report` writes it as HTML.
    """
    from loraland.evaluation.leaderboard import leaderboard as build
    from loraland.matrix.space import load_space
    from loraland.matrix.standings import standings
    from loraland.report.overlays import report_figures

    chosen = load_space(space)
    judged = standings(chosen, open_storage(), endpoint or [])
    overlays = report_figures() if published else []
    board = build(chosen.name, judged, len(chosen.cells), correction=correction, overlays=overlays)
    if format_ == "table" and to is None:
        _show(board, cells)
    else:
        _write(board, format_, to)


@evaluation_app.command()
@teaches
def promote(
    model: Annotated[str, typer.Argument(help="BASE/TASK (its latest), or BASE/TASK@VERSION.")],
    margin: Annotated[
        float, typer.Option(help="The lower bound of the lift must exceed this.")
    ] = 0.0,
    over: Annotated[
        Literal["auto", "base", "alias"],
        typer.Option(help="The rival: the alias's present version, or the base; auto: if any."),
    ] = "auto",
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "prod",
    guard: Annotated[
        list[str] | None,
        typer.Option(help="Another tolerance, such as unparsable=0.05; repeatable."),
    ] = None,
    guard_task: Annotated[
        list[str] | None,
        typer.Option(help="A task whose score may fall by so much, such as topics=0.02."),
    ] = None,
    json_: Json = False,
) -> None:
    """Move `prod` to a version, if its lift clears the margin and no guard falls.

    The decision is kept with its evidence; refused, the command ends with exit code 1.
    """
    from loraland.display import out
    from loraland.display_leaderboard import guard_table, promotion_lines
    from loraland.evaluation.promote import promote as decide

    done = decide(model, open_storage(), _gate(alias, over, margin, guard, guard_task))
    if json_:
        print_json(
            {
                "model": str(done.model),
                "alias": done.alias,
                "moved": done.moved,
                "record": done.record,
                "decision": done.decision and done.decision.model_dump(mode="json"),
            }
        )
    else:
        if done.decision is not None:
            out.print(guard_table(done.decision))
        for line in promotion_lines(done):
            out.print(line, markup=False, highlight=False)
    if done.refused:
        raise typer.Exit(1)


@evaluation_app.command()
@teaches
def promotions(
    model: Annotated[str, typer.Argument(help="BASE/TASK.")],
    json_: Json = False,
) -> None:
    """Every decision that was made about promoting versions of an adapter, the oldest first."""
    from loraland.display import err, out
    from loraland.evaluation.promote import decisions

    found = decisions(model, open_storage())
    if json_:
        print_json([{"record": place} | one.model_dump(mode="json") for place, one in found])
        return
    if not found:
        err.print(f"nothing was decided about {model} yet", highlight=False)
    for _, one in found:
        verdict = f"became {one.gate.alias}" if one.promoted else "refused: " + one.reasons[0]
        line = f"{one.decided} {one.model} lift {one.lift.mean:+.3f} over {one.rival or 'base'}: "
        out.print(line + verdict, markup=False, highlight=False)


def _show(board: Any, cells: bool) -> None:
    from loraland.display import err, out
    from loraland.display_leaderboard import at_full_width, cell_table, lift_matrix, mean_table

    out.print(f"{board.name}: {len(board.rows)} of {board.cells} cells", highlight=False)
    if not board.rows:
        err.print(f"no cell is finished; `loraland matrix run {board.name}` runs them")
        return
    for claim in board.claims:
        out.print(f"- {claim}", markup=False, highlight=False)
    out.print(lift_matrix(board))
    out.print(mean_table(board))
    if cells:  # a screen that is too narrow breaks the lines and loses nothing
        out.print(at_full_width(cell_table(board)), crop=False)


def _write(board: Any, format_: Format, to: Path | None) -> None:
    from loraland.display import err
    from loraland.evaluation import leaderboard_formats as formats

    if format_ == "table":
        raise InvalidConfiguration(
            "--out needs --format csv, json or parquet; `loraland report` writes HTML"
        )
    if format_ == "parquet":
        if to is None:
            raise InvalidConfiguration("Parquet is no text; name a file with --out")
        content = formats.as_parquet(board)
    else:
        text = {"csv": formats.as_csv, "json": formats.as_json}
        content = text[format_](board).encode()
    if to is None:
        sys.stdout.write(content.decode())
        return
    to.write_bytes(content)
    err.print(f"wrote {to}", highlight=False)


def _gate(
    alias: str,
    over: Any,
    margin: float,
    guard: Sequence[str] | None,
    guard_task: Sequence[str] | None,
) -> Any:
    """Raises InvalidConfiguration."""
    from pydantic import ValidationError

    from loraland.evaluation.promotion import Gate

    try:
        return Gate(
            alias=alias,
            over=over,
            margin=margin,
            tolerances=_numbers("--guard", guard or []),
            tasks=_numbers("--guard-task", guard_task or []),
        )
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InvalidConfiguration("the gate is wrong: " + "; ".join(faults)) from None


def _numbers(option: str, texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise InvalidConfiguration(
                f"{option} is '{text}'; write NAME=NUMBER, such as unparsable=0.05"
            ) from None
    return found
