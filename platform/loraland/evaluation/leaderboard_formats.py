"""A leaderboard as records, CSV, JSON and Parquet. Pure text and bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from loraland.evaluation.leaderboard import BASE, Claim, Duel, Leaderboard, Row
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
