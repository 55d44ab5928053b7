"""Where examples to measure are read from: a task of the catalogue, or a file of a user's own.

Reads rows; decides nothing about them but which are looked at.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loraland import settings
from loraland.analysis.heuristics import Example, Length
from loraland.errors import DataRefused, InvalidConfiguration, SourceUnavailable
from loraland.tasks.catalogue import report_tasks
from loraland.tasks.sources import GENERATED_ROWS, load_split
from loraland.tasks.task import Task, as_text

COLUMNS = ("prompt", "completion")
SAMPLED = 500  # examples that are looked at; ROUGE-L of long texts takes milliseconds each


class Examples(NamedTuple):
    """Some examples of a task, and how many there are."""

    examples: list[Example]
    total: int  # train examples
    source: str


def of_task(task: Task, limit: int = SAMPLED, seed: int = 0) -> Examples:
    """A seeded sample of a task's train rows.

    `total` is the published number of train rows where there is one: a folder may hold a sample.
    Raises SourceUnavailable as `load_split` does.
    """
    split = load_split(task, "train", limit=limit, seed=seed)
    found = [Example(item.prompt, item.target) for item in split.items()]
    published = (task.splits or {}).get("train")
    # A generator has no end: what training takes of it by default.
    total = published or (GENERATED_ROWS if task.generator else len(found))
    return Examples(found, total, split.source)


def of_file(path: Path, limit: int = SAMPLED, seed: int = 0) -> Examples:
    """A seeded sample of a user's rows with columns prompt and completion.

    `path` is a Parquet or JSONL file, or a folder with train.parquet or train.jsonl. Raises
    SourceUnavailable when it cannot be read, DataRefused when columns or values are missing,
    InvalidConfiguration for a limit below 1.
    """
    if limit < 1:
        raise InvalidConfiguration(f"rows is {limit}; give at least 1")
    file = _file(path)
    rows = _parquet(file) if file.suffix == ".parquet" else _jsonl(file)
    if not rows:
        raise DataRefused(f"{file} has no rows; give at least one")
    chosen: Sequence[int] = range(len(rows))
    if len(rows) > limit:
        chosen = sorted(random.Random(seed).sample(chosen, limit))
    return Examples([_example(file, n, rows[n]) for n in chosen], len(rows), str(file))


def tasks_at_hand() -> list[Task]:
    """The report's tasks whose train rows lie in the folder that LORALAND_DATA names."""
    folder = settings.data_folder()
    if folder is None:
        raise SourceUnavailable(
            f"{settings.DATA} is not set; set it to a folder with <task>/train.parquet and "
            "<task>/test.parquet of as many of the report's tasks as you have"
        )
    return [task for task in report_tasks() if (folder / task.name / "train.parquet").exists()]


def token_length(path: Path) -> Length:
    """A length in tokens of a tokenizer.json, or of a model folder that has one.

    Special tokens are not counted. Raises SourceUnavailable when there is none.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises this bare class for whatever is wrong
        raise SourceUnavailable(
            f"{file} is no tokenizer ({error}); give a tokenizer.json or a folder that has one"
        ) from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _file(path: Path) -> Path:
    if path.is_dir():
        for name in ("train.parquet", "train.jsonl"):
            if (path / name).exists():
                return path / name
        raise SourceUnavailable(f"{path} has neither train.parquet nor train.jsonl; add one")
    if not path.exists():
        raise SourceUnavailable(f"{path} does not exist; give a folder, or a .parquet or .jsonl")
    if path.suffix not in (".parquet", ".jsonl"):
        raise SourceUnavailable(f"{path} is neither .parquet nor .jsonl; convert it to one of them")
    return path


def _parquet(file: Path) -> Sequence[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            wanted = [name for name in COLUMNS if name in names]
            rows: list[dict[str, Any]] = opened.read(columns=wanted).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceUnavailable(
            f"{file} cannot be read as Parquet ({error}); write it anew"
        ) from error
    if len(wanted) < len(COLUMNS):
        raise DataRefused(
            f"{file} has columns {names}; {' and '.join(COLUMNS)} are needed: rename them"
        )
    return rows


def _jsonl(file: Path) -> Sequence[dict[str, Any]]:
    rows = []
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceUnavailable(f"{file} cannot be read as UTF-8 text ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataRefused(f"{file} line {number} is not JSON ({error}); correct it") from error
        if not isinstance(row, dict):
            raise DataRefused(f"{file} line {number} is no object; write {{...}} on each line")
        rows.append(row)
    return rows


def _example(file: Path, number: int, row: dict[str, Any]) -> Example:
    missing = [name for name in COLUMNS if row.get(name) is None]
    if missing:
        raise DataRefused(
            f"row {number + 1} of {file} has no value in {missing}; fill it or leave the row out"
        )
    return Example(as_text(row["prompt"]), as_text(row["completion"]).strip())
