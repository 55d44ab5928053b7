"""The results of a space as one Parquet file, a row per finished cell.

    spaces/<name>/results.parquet

Written anew from the ledger each time, so that it may be deleted. Knows no models and no Ray.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from loraland.adapters.names import ModelName
from loraland.matrix.cell import Cell
from loraland.matrix.ledger import CellRecord, Ledger
from loraland.matrix.space import Space
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

SCHEMA = pa.schema(
    [
        ("base", pa.string()),
        ("task", pa.string()),
        ("category", pa.string()),
        ("seed", pa.int64()),
        ("recipe", pa.string()),
        ("data", pa.string()),  # real or rehearsal
        ("model", pa.string()),  # base/task@version
        ("version", pa.string()),
        ("metric", pa.string()),
        ("items", pa.int64()),
        ("score", pa.float64()),  # 0 to 1, as all means and their bounds below
        ("score_low", pa.float64()),
        ("score_high", pa.float64()),
        ("base_score", pa.float64()),
        ("base_low", pa.float64()),
        ("base_high", pa.float64()),
        ("lift", pa.float64()),  # score - base_score over the same items
        ("lift_low", pa.float64()),
        ("lift_high", pa.float64()),
        ("unparsable", pa.int64()),
        ("failures", pa.int64()),
        ("seconds", pa.float64()),
        ("attempts", pa.int64()),
        ("marks", pa.list_(pa.string())),
        ("cell", pa.string()),  # its id
        ("finished", pa.string()),  # ISO 8601, UTC
    ]
)


def table_path(space: Space) -> str:
    """Where the table of a space lies, below the storage root."""
    return f"spaces/{space.name}/results.parquet"


def results_table(space: Space, storage: Storage) -> pa.Table:
    """The finished cells of a space in their order. Raises StorageCorrupt."""
    records = Ledger(storage).results(space.cells)
    rows = [_row(cell, records[cell.id]) for cell in space.cells if cell.id in records]
    stamp = {"space": space.name, "cells": len(space.cells)}
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return table.replace_schema_metadata({b"loraland": json.dumps(stamp, sort_keys=True).encode()})


def write_table(space: Space, storage: Storage) -> str:
    """Store the table of what is finished by now; returns its path below the storage root."""
    buffer = io.BytesIO()
    parquet.write_table(results_table(space, storage), buffer, compression="zstd")
    storage.write(table_path(space), buffer.getvalue())
    return table_path(space)


def _row(cell: Cell, record: CellRecord) -> dict[str, Any]:
    score = record.score
    return {
        "base": cell.base_name,
        "task": cell.task,
        "category": get_task(cell.task).category,
        "seed": cell.seed,
        "recipe": cell.recipe.name,
        "data": cell.data,
        "model": record.model,
        "version": ModelName.parse(record.model).version,
        "metric": score.metric,
        "items": score.items,
        "score": score.mean,
        "score_low": score.low,
        "score_high": score.high,
        "base_score": score.base_mean,
        "base_low": score.base_low,
        "base_high": score.base_high,
        "lift": score.lift,
        "lift_low": score.lift_low,
        "lift_high": score.lift_high,
        "unparsable": score.unparsable,
        "failures": score.failures,
        "seconds": record.seconds,
        "attempts": record.attempts,
        "marks": list(record.marks),
        "cell": cell.id,
        "finished": record.finished,
    }
