"""Reads reviews: the two published CSV layouts and Parquet with the same columns.

Returns an Arrow table with all columns of the layout, as text or numbers, nothing dropped. What is
too large, has no such columns or cannot be parsed is refused with the reason.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from loraland.errors import DataRefused, SourceUnavailable

NEEDED = ("description", "points", "price", "variety", "winery")
OPTIONAL = (
    *("country", "designation", "province", "region_1", "region_2"),
    *("taster_name", "taster_twitter_handle", "title"),  # not in first150k
)
NUMBERS = ("points", "price")
COLUMNS = (*NEEDED, *OPTIONAL)
SCHEMA = pa.schema([(n, pa.float64() if n in NUMBERS else pa.string()) for n in COLUMNS])

MAX_FILE_BYTES = 2 * 1024**3
MAX_ROWS = 2_000_000
MAX_FIELD_CHARACTERS = 20_000  # the longest real description has 829
_BLOCK_BYTES = 16 * 1024**2  # a row of a CSV file must fit into one


def read_reviews(path: Path) -> pa.Table:
    """All rows of a `.csv` or `.parquet` file, with the columns of SCHEMA.

    Columns that the layout may lack are null, others are ignored. Numbers that cannot be read are
    null. Raises SourceUnavailable for a missing file, and DataRefused for one that is no such file
    or larger than the limits here.
    """
    if not path.is_file():
        raise SourceUnavailable(f"no file '{path}'; give a .csv or .parquet file of reviews")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataRefused(f"'{path}' has more than {MAX_FILE_BYTES >> 30} GiB; give a part of it")
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataRefused(f"'{path.name}' is neither .csv nor .parquet")
    try:
        table = reader(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DataRefused(f"'{path.name}' cannot be read as {path.suffix}: {reason}") from error
    return checked(table)


def checked(table: pa.Table) -> pa.Table:
    """A table of reviews within limits, with the columns of SCHEMA in its order.

    Raises DataRefused that lists the columns that are missing, or names the first field too long.
    """
    missing = [name for name in NEEDED if name not in table.schema.names]
    if missing:
        raise DataRefused(
            f"the reviews lack the columns {', '.join(missing)}; there are: "
            f"{', '.join(table.schema.names)[:400]}. Needed: {', '.join(NEEDED)}; used when "
            f"there: {', '.join(OPTIONAL)}"
        )
    _require_once(table.schema.names)
    if table.num_rows > MAX_ROWS:
        raise DataRefused(f"{table.num_rows} reviews, at most {MAX_ROWS} are taken")
    columns = [_column(table, name) for name in COLUMNS]
    return pa.table(columns, schema=SCHEMA)


def _read_csv(path: Path) -> pa.Table:
    """Every column as text: one bad number must not decide what a column is."""
    parse = pacsv.ParseOptions(newlines_in_values=True)
    read = pacsv.ReadOptions(block_size=_BLOCK_BYTES)
    with pacsv.open_csv(path, read_options=read, parse_options=parse) as reader:
        names = reader.schema.names
    _require_once(names)
    types = {name: pa.string() for name in names}
    convert = pacsv.ConvertOptions(
        column_types=types,
        include_columns=[name for name in COLUMNS if name in names] or None,
        strings_can_be_null=True,
        null_values=["", "NaN", "nan"],
    )
    return pacsv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _read_parquet(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > MAX_ROWS:
            raise DataRefused(f"{file.metadata.num_rows} reviews, at most {MAX_ROWS} are taken")
        names = [name for name in file.schema_arrow.names if name in COLUMNS]
        return file.read(columns=names or None)


def _require_once(names: list[str]) -> None:
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise DataRefused(f"the columns {', '.join(twice)} are there more than once; keep one each")


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        return pa.nulls(table.num_rows, SCHEMA.field(name).type)
    column = table.column(name)
    if name in NUMBERS:
        return _numbers(column, name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        if not pa.types.is_null(column.type) and not pa.types.is_dictionary(column.type):
            raise DataRefused(f"column {name} holds {column.type}, not text")
        column = column.cast(pa.string())
    longest = pc.max(pc.utf8_length(column)).as_py() or 0
    if longest > MAX_FIELD_CHARACTERS:
        row = pc.index(pc.utf8_length(column), pa.scalar(longest, pa.int32())).as_py()
        raise DataRefused(
            f"row {row + 1} has {longest} characters in {name}; at most {MAX_FIELD_CHARACTERS}"
        )
    return column.cast(pa.string())


def _numbers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """As floats; what is infinite, NaN or no plain decimal number becomes null."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        trimmed = pc.utf8_trim_whitespace(column)
        plain = pc.match_substring_regex(trimmed, r"^[+-]?[0-9]{1,12}(\.[0-9]{1,12})?$")
        column = pc.if_else(plain, trimmed, pa.scalar(None, column.type))
    try:
        found = column.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_finite(found), found, pa.scalar(None, pa.float64()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataRefused(f"column {name} holds {column.type}, not numbers") from error
