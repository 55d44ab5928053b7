"""Reads a trace of requests from CSV or JSON lines: when, which adapter, how many tokens.

All mistakes are told together, with their lines. Prompts are not in a trace; random tokens of the
same number stand in for them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraland.errors import InvalidConfiguration

MOST_ROWS, MOST_BYTES, MOST_SHOWN = 1_000_000, 256 << 20, 10
MOST_TOKENS = 1_000_000  # of a prompt or an answer
COLUMNS = ("time", "adapter", "prompt_tokens", "new_tokens")


class TraceRow(BaseModel):
    """One request of a trace."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    at_s: Annotated[float, Field(alias="time", ge=0, le=10_000_000)]  # since the trace began
    adapter: Annotated[str, Field(max_length=256)]  # a task, a full model name, or "": the base
    prompt_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)]
    new_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)]


def read_trace(path: Path) -> list[TraceRow]:
    """The rows of a file .csv or .jsonl by time, the first at 0 s.

    Other columns are ignored. Raises InvalidConfiguration.
    """
    if not path.is_file():
        raise InvalidConfiguration(f"there is no trace {path}")
    if path.stat().st_size > MOST_BYTES:
        raise InvalidConfiguration(f"trace {path} is larger than {MOST_BYTES} bytes; cut it")
    readers = {".csv": _csv, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise InvalidConfiguration(f"trace {path} ends in neither of {', '.join(readers)}")
    try:
        return parsed(readers[path.suffix](path.read_text(encoding="utf-8")), str(path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidConfiguration(f"trace {path} cannot be read: {error}") from error


def parsed(lines: Iterable[tuple[int, Any]], name: str) -> list[TraceRow]:
    """Rows from numbered mappings. Raises InvalidConfiguration."""
    rows, mistakes = list[TraceRow](), list[str]()
    for number, fields in lines:
        try:
            rows.append(TraceRow.model_validate(_known(fields)))
        except ValidationError as error:
            mistakes += [f"line {number}: {_told(detail)}" for detail in error.errors()]
        if len(rows) > MOST_ROWS:
            mistakes.append(f"more than {MOST_ROWS} rows")
        if len(mistakes) > MOST_SHOWN:
            break
    if mistakes or not rows:
        told = "\n- ".join(mistakes[:MOST_SHOWN] or ["it has no rows"])
        raise InvalidConfiguration(
            f"trace {name} is wrong; each row needs {', '.join(COLUMNS)}:\n- {told}"
        )
    rows.sort(key=lambda row: row.at_s)
    begun = rows[0].at_s
    return [row.model_copy(update={"at_s": row.at_s - begun}) for row in rows]


def _csv(text: str) -> Iterable[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text))
    return ((reader.line_num, row) for row in reader)


def _json_lines(text: str) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _known(fields: Any) -> Any:
    if not isinstance(fields, Mapping):
        return fields
    return {name: fields[name] for name in COLUMNS if fields.get(name) is not None}


def _told(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else "no JSON object"
