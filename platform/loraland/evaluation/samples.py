"""Every answer a model gave, as rows of Parquet: what was asked, said, understood and scored.

A score is computed from these rows alone, so that grading again needs no model. Samples that are
not graded yet have no reading and the score 0; they lie in parts (`evaluation/parts.py`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from loraland.errors import SamplesMissing, StorageCorrupt
from loraland.storage import Storage
from loraland.tasks.task import Item


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one item."""

    item: int  # index in the split
    prompt: str
    target: str
    row: str  # the item's columns as JSON, for graders that need them
    output: str
    parsed: str | None  # None: the grader could not read the output
    score: float  # in [0, 1]; 0 for a failure
    failure: str | None  # why there is no output; counted as a wrong answer
    finish_reason: str  # stop, length or cancelled
    prompt_tokens: int
    tokens: int  # generated
    ms: float  # from submission to the last token
    secondary: Mapping[str, float] = field(default_factory=dict)  # scores beside it, in [0, 1]

    @classmethod
    def unanswered(cls, index: int, item: Item) -> Sample:
        """What stands for an item before it has an answer, and if there is none."""
        return cls(
            item=index,
            prompt=item.prompt,
            target=item.target,
            row=row_of(item),
            output="",
            parsed=None,
            score=0.0,
            failure=None,
            finish_reason="failed",
            prompt_tokens=0,
            tokens=0,
            ms=0.0,
        )


def row_of(item: Item) -> str:
    """The columns of an item as samples keep them: JSON, keys sorted."""
    return json.dumps(dict(item.row), sort_keys=True, ensure_ascii=False, default=str)


_SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("row", pa.string()),
        ("output", pa.string()),
        ("parsed", pa.string()),
        ("score", pa.float64()),
        ("failure", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("tokens", pa.int64()),
        ("ms", pa.float64()),
        ("secondary", pa.string()),  # JSON: the names differ from task to task
    ]
)


def write_samples(
    storage: Storage, path: str, samples: Sequence[Sample], stamp: dict[str, Any]
) -> None:
    """Store samples; a stamp of what made them goes into the file's metadata."""
    rows = [
        asdict(sample) | {"secondary": json.dumps(dict(sample.secondary), sort_keys=True)}
        for sample in samples
    ]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    table = table.replace_schema_metadata({b"loraland": json.dumps(stamp, sort_keys=True).encode()})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    storage.write(path, buffer.getvalue())


def read_samples(storage: Storage, path: str) -> tuple[list[Sample], dict[str, Any]]:
    """Samples and their stamp. Raises SamplesMissing, and StorageCorrupt for a damaged file."""
    try:
        content = storage.read(path)
    except FileNotFoundError:
        raise SamplesMissing(
            f"no samples at {storage.describe(path)}; "
            "`loraland evaluate MODEL --fresh` generates them anew"
        ) from None
    try:
        return _parse(content)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageCorrupt(
            f"the samples at {storage.describe(path)} cannot be read ({reason}); "
            "`loraland generate SPACE` asks for them again"
        ) from None


def _parse(content: bytes) -> tuple[list[Sample], dict[str, Any]]:
    table = parquet.read_table(io.BytesIO(content))
    stamp = json.loads((table.schema.metadata or {}).get(b"loraland", b"{}"))
    if not isinstance(stamp, dict):
        raise ValueError("its stamp is no JSON object")
    rows = [
        row | {"secondary": json.loads(row.get("secondary", "{}"))} for row in table.to_pylist()
    ]
    return [Sample(**row) for row in rows], stamp
