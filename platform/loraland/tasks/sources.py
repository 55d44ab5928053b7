"""Where rows come from: a folder of Parquet files, the hub, or a generator, tried in that order.

The first source that has the task is the one that is read. One that has it but is damaged is an
error, never a reason to read another. When none has it, the error names each one tried and what to
do. Made-up rows of a rehearsal are read only where they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from loraland import settings
from loraland.errors import InvalidConfiguration, SourceUnavailable
from loraland.tasks.converters import CONVERTERS
from loraland.tasks.generated import get_generator
from loraland.tasks.rehearsal import rehearsal_rows, rehearsed
from loraland.tasks.task import HubSource, Item, Row, SplitName, Task, as_text
from loraland.tasks.text import normalised_hash

__all__ = ["GENERATED_ROWS", "Split", "fingerprint", "load_split", "normalised_hash"]

# Rows of a generated split when no limit is given, since it has no end: about what the smallest
# base needs to learn such a task, and enough held-out items to tell whether it has.
GENERATED_ROWS = 300
PARQUET_EXPORT = (
    "refs/convert/parquet"  # the hub's own Parquet copy of data sets that need a script
)


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one split, each with the task's input and target columns and no others.

    But for the task's hidden columns, which are kept where the source has them.
    """

    task: Task  # as this split sees it (Task.for_split)
    rows: list[Row]
    # e.g. "parquet:/data/viggo/train.parquet", "hub:GEM/viggo@main", "generator:dates",
    # "rehearsal:viggo"
    source: str
    fingerprint: str  # SHA-256 (hex) over the rows, in order
    dropped: int = 0  # rows passed over because the source has no question or no answer in them

    def items(self) -> list[Item]:
        """The questions with their gold answers."""
        return [self.task.item(row) for row in self.rows]


def load_split(
    task: Task,
    split: SplitName,
    *,
    limit: int | None,
    seed: int = 0,
    rehearsal: bool = False,
) -> Split:
    """The rows of a split from the first source that has the task.

    Train rows are shuffled with `seed`, then cut to `limit`. Test rows keep their order, and the
    first `limit` are taken, so that every seed is judged on the same ones. `limit=None` takes all,
    and of a generator, which has no end, GENERATED_ROWS. `rehearsal` reads made-up rows and looks
    nowhere else; the split's task is then the rehearsed one. Raises SourceUnavailable when no
    source has the task or one is damaged or half there, InvalidConfiguration when the limit is
    below 1.
    """
    if limit is not None and limit < 1:
        raise InvalidConfiguration(f"limit is {limit}; give at least 1, or None for all rows")
    seen = (rehearsed(task) if rehearsal else task).for_split(split)
    if rehearsal:
        source = _open_rehearsal(task, split, limit, seed)
    else:
        source = _open_first(seen, split, limit, seed)
    rows: list[Row] = []
    dropped = 0
    for row in _rows(source, seen):
        if row is None:
            dropped += 1
            continue
        rows.append(row)
        if len(rows) == limit:
            break
    return Split(seen, rows, source.name, fingerprint(seen, rows), dropped)


def fingerprint(task: Task, rows: Iterable[Row]) -> str:
    """SHA-256 (hex) over the columns of all rows, in order, each cell as the text a model reads."""
    digest = hashlib.sha256()
    for row in rows:
        cells = {column: as_text(row[column]) for column in task.columns}
        digest.update(json.dumps(cells, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Source:
    """A source that has the task, opened."""

    name: str
    data: Any  # rows by index
    order: Sequence[int]  # the indices to read, in turn
    convert: Callable[[Row], Row | None]


class _NotHere(Exception):
    """A source has not got the task; the message says why and what to do."""


def _open_first(task: Task, split: SplitName, limit: int | None, seed: int) -> _Source:
    tried: list[_NotHere] = []
    for open_source in (_open_folder, _open_hub, _open_generator):
        try:
            return open_source(task, split, limit, seed)
        except _NotHere as reason:
            tried.append(reason)
    lines = "\n".join(f"  {number}. {reason}" for number, reason in enumerate(tried, 1))
    raise SourceUnavailable(f"no source has the {split} rows of task '{task.name}':\n{lines}")


def _rows(source: _Source, task: Task) -> Iterator[Row | None]:
    """The rows in order, cut to the task's columns; None for one without question or answer."""
    for index in source.order:
        try:
            row = source.convert(source.data[index])
            if row is None:
                yield None
                continue
            cut = {column: row[column] for column in task.columns}
            cut |= {column: row[column] for column in task.hidden if column in row}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise SourceUnavailable(
                f"row {index} of {source.name} is not of the shape that task '{task.name}' reads "
                f"({error!r}); its columns are {sorted(source.data[index])}, "
                f"needed in the end: {list(task.columns)}"
            ) from error
        if cut[task.target] is None:
            raise SourceUnavailable(
                f"row {index} of {source.name} has no value in target column '{task.target}'; "
                "fill it or leave the row out"
            )
        yield cut


def _as_it_is(row: Row) -> Row:
    return row


def _order(count: int, split: SplitName, seed: int) -> Sequence[int]:
    if split == "test":
        return range(count)
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _open_folder(task: Task, split: SplitName, limit: int | None, seed: int) -> _Source:
    folder = settings.data_folder()
    wanted = f"{task.name}/{split}.parquet with columns {', '.join(task.columns)}"
    if task.origin:
        wanted += f", made from {task.origin}"
    if folder is None:
        raise _NotHere(
            f"folder: {settings.DATA} is not set; set {settings.DATA}=FOLDER, with {wanted}"
        )
    if not folder.is_dir():
        raise SourceUnavailable(
            f"{settings.DATA} names {folder}, which is not a folder; correct or unset it"
        )
    path = folder / task.name / f"{split}.parquet"
    if not path.exists():
        _refuse_half(path, wanted)
        raise _NotHere(f"folder: {folder} has no {wanted}; put it there")
    rows = _read_parquet(path, task)
    return _Source(f"parquet:{path}", rows, _order(len(rows), split, seed), _as_it_is)


def _refuse_half(missing: Path, wanted: str) -> None:
    """Raises SourceUnavailable when the other split is there: two sources would not fit together.

    Their rows may overlap, or be made in another way.
    """
    there = [missing.with_name(f"{split}.parquet") for split in ("train", "test")]
    if other := [path.name for path in there if path.exists()]:
        raise SourceUnavailable(
            f"{missing.parent} has {other[0]} but no {missing.name}, and one task is not read from "
            f"two sources; put {wanted} there, or remove {other[0]} to use another source for both"
        )


def _read_parquet(path: Path, task: Task) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [column for column in task.columns if column not in names]
            wanted = [*task.columns, *(column for column in task.hidden if column in names)]
            found = [] if missing else file.read(columns=wanted).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceUnavailable(
            f"{path} cannot be read as Parquet ({error}); replace it, or remove it "
            "to use another source"
        ) from error
    if missing:
        raise SourceUnavailable(
            f"{path} lacks columns {missing} of task '{task.name}'; it has {names}. "
            f"Write it anew with columns {list(task.columns)}, or remove it to use another source"
        )
    return list(found)


def _open_hub(task: Task, split: SplitName, limit: int | None, seed: int) -> _Source:
    hub = task.hub
    there = None if hub is None else (hub.train if split == "train" else hub.test)
    if hub is None or there is None:
        raise _NotHere("hub: the catalogue names no data set for this split")
    data = _load_from_hub(hub, there)
    convert = CONVERTERS[hub.convert] if hub.convert else _as_it_is
    name = f"hub:{hub.path}@{hub.revision or 'main'}"
    return _Source(name, data, _order(len(data), split, seed), convert)


def _load_from_hub(hub: HubSource, split: str) -> Any:
    """The `datasets.Dataset` of one split, its configurations one after another."""
    try:
        import datasets
    except ImportError as error:
        raise _NotHere("hub: datasets is not installed; type `pip install datasets`") from error
    try:
        parts = [
            datasets.load_dataset(hub.path, split=split, revision=hub.revision, **choice)
            for choice in _choices(hub)
        ]
    except (
        Exception
    ) as error:  # of datasets, its HTTP client, or pyarrow: all reported, none hidden
        reason = " ".join(str(error).split())[:300] or "no message"
        raise _NotHere(
            f"hub: {hub.path}@{hub.revision or 'main'}, split {split}, failed with "
            f"{type(error).__name__}: {reason}. Check the network and, for a gated data set, "
            "type `hf auth login`"
        ) from error
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _choices(hub: HubSource) -> list[dict[str, str]]:
    """How `load_dataset` is told each configuration: in the Parquet export each one is a folder."""
    argument = "data_dir" if hub.revision == PARQUET_EXPORT else "name"
    return [{argument: name} for name in hub.configurations] or [{}]


def _open_generator(task: Task, split: SplitName, limit: int | None, seed: int) -> _Source:
    if task.generator is None:
        raise _NotHere("generator: there is none for this task")
    endless = get_generator(task.generator).rows(split, seed if split == "train" else 0)
    rows = list(islice(endless, limit or GENERATED_ROWS))
    return _Source(f"generator:{task.generator}", rows, range(len(rows)), _as_it_is)


def _open_rehearsal(task: Task, split: SplitName, limit: int | None, seed: int) -> _Source:
    endless = rehearsal_rows(task, split, seed if split == "train" else 0)
    rows = list(islice(endless, limit or GENERATED_ROWS))
    return _Source(f"rehearsal:{task.name}", rows, range(len(rows)), _as_it_is)
