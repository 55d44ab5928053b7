"""A leaderboard as records, CSV, JSON, Parquet and a fragment of HTML. Pure text and bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from loraland.evaluation.leaderboard import BASE, Claim, Duel, Leaderboard, Marginal, Row
from loraland.evaluation.statistics import Interval

Record = dict[str, Any]


def records(board: Leaderboard) -> list[Record]:
    """A flat record per adapter, with the same fields for all; what is not known is None.

    Scores, lifts and their bounds lie in [-1, 1]. An endpoint's fields begin with its name, those
    of an overlay are its name.
    """
    return [_record(row, board) for row in board.rows]


def as_csv(board: Leaderboard) -> str:
    """The records with a header line; what is not known is empty."""
    rows = [row | {"marks": " ".join(row["marks"])} for row in records(board)]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def as_document(board: Leaderboard) -> Record:
    """Everything, as JSON values."""
    return {
        "name": board.name,
        "cells": board.cells,
        "finished": len(board.rows),
        "claims": [_claim(claim) for claim in board.claims],
        "marginals": [marginal._asdict() for marginal in board.marginals],
        "rows": records(board),
    }


def as_json(board: Leaderboard) -> str:
    """Everything, as one JSON document."""
    return json.dumps(as_document(board), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_parquet(board: Leaderboard) -> bytes:
    """The records; name and claims are in the metadata of the file under `loraland`."""
    rows = records(board)
    names = list(rows[0]) if rows else []
    table = pa.table(
        {name: pa.array([row[name] for row in rows], _type_of(name, rows)) for name in names}
    )
    stamp = {key: value for key, value in as_document(board).items() if key not in ("rows",)}
    table = table.replace_schema_metadata({b"loraland": json.dumps(stamp, sort_keys=True).encode()})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def as_html(board: Leaderboard) -> str:
    """A `section` without styles or scripts: claims, the matrix of lifts, means, all cells."""
    claims = "".join(f"<li>{escape(str(claim))}</li>" for claim in board.claims)
    return (
        '<section class="leaderboard">\n'
        f"<h2>{escape(board.name)}: {len(board.rows)} of {board.cells} cells</h2>\n"
        f"<ul class='claims'>{claims}</ul>\n"
        f"{_matrix_html(board)}\n{_means_html(board)}\n{_cells_html(board)}\n</section>\n"
    )


def _record(row: Row, board: Leaderboard) -> Record:
    duel = row.against_base
    return {
        "base": row.base,
        "task": row.task,
        "category": row.category,
        "metric": row.metric,
        "model": row.model,
        "items": row.items,
        "units": duel.units,
        **_bounds("score", row.score),
        **_bounds("base_score", duel.score),
        **_test("", duel),
        "unparsable": row.unparsable,
        "base_unparsable": row.base_unparsable,
        "failures": row.failures,
        "marks": list(row.marks),
        **_endpoints(row.duels, board.opponents),
        **{name: row.overlays.get(name) for name in board.overlays},
    }


def _endpoints(duels: Mapping[str, Duel], opponents: Iterable[str]) -> Record:
    found: Record = {}
    for name in opponents:
        if name != BASE:
            duel = duels.get(name)
            found |= _bounds(f"{name}_score", duel and duel.score)
            found |= _test(f"{name}_", duel)
    return found


def _bounds(name: str, interval: Interval | None) -> Record:
    mean, low, high = interval or (None, None, None)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _test(prefix: str, duel: Duel | None) -> Record:
    fields = ("p_value", "adjusted_p", "verdict", "detectable", "detectable_corrected")
    return _bounds(f"{prefix}lift", duel and duel.lift) | {
        f"{prefix}{field}": getattr(duel, field, None) for field in fields
    }


def _claim(claim: Claim) -> Record:
    return claim._asdict() | {"tested": claim.tested, "text": str(claim)}


def _type_of(name: str, rows: Iterable[Record]) -> pa.DataType | None:
    """Of a column; without a value in sight all are numbers but the verdicts."""
    if any(row[name] is not None for row in rows):
        return pa.list_(pa.string()) if name == "marks" else None
    return pa.string() if name.endswith("verdict") else pa.float64()


def _matrix_html(board: Leaderboard) -> str:
    """A row per task, a column per base, the lift with its interval in each cell."""
    bases, tasks = board.of_kind("base"), board.of_kind("task")
    cells = {(row.base, row.task): row for row in board.rows}
    head = ["task", *(base.name for base in bases), "all"]
    body = [
        [
            escape(task.name),
            *(_lift_html(cells.get((base.name, task.name))) for base in bases),
            _mean_html(task),
        ]
        for task in tasks
    ]
    body += [["all", *map(_mean_html, bases), *map(_mean_html, board.of_kind("all"))]]
    return _table("matrix", "Lift over the base, with 95 % interval", head, body)


def _lift_html(row: Row | None) -> str:
    if row is None:
        return ""
    duel = row.against_base
    verdict = escape(duel.verdict or "untested")
    shown = f"{duel.lift.mean:+.3f} <small>{_range(duel.lift.low, duel.lift.high)}</small>"
    return f'<span class="{verdict}" title="{escape(row.model)}: {verdict}">{shown}</span>'


def _mean_html(marginal: Marginal) -> str:
    return f"{marginal.lift:+.3f} <small>{_range(marginal.lift_low, marginal.lift_high)}</small>"


def _means_html(board: Leaderboard) -> str:
    head = ["mean over", "cells", "base", "adapter", "lift", "better", "worse"]
    body = [
        [
            escape(f"{one.kind} {one.name}" if one.kind != "all" else "all"),
            str(one.cells),
            f"{one.base_score:.3f}",
            f"{one.score:.3f}",
            _mean_html(one),
            str(one.better),
            str(one.worse),
        ]
        for one in board.marginals
    ]
    return _table("means", "Means over cells of the same weight", head, body)


def _cells_html(board: Leaderboard) -> str:
    found = records(board)
    head = list(found[0]) if found else []
    return _table("cells", "All cells", head, [[_plain(v) for v in row.values()] for row in found])


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return escape(" ".join(map(str, value)))
    return "" if value is None else escape(str(value))


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.2f}..{high:+.2f}"


def _table(name: str, caption: str, head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """Cells of the body are HTML already."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    rows = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return (
        f'<table class="{name}"><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    )
