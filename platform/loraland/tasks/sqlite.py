"""Runs an untrusted query on a small made-up table, in memory, and says whether two queries agree.

A query may only read: an authorizer refuses everything but SELECT on that table, one statement is
run, a budget of virtual machine steps ends long ones, and the number and size of rows are bounded.
"""

from __future__ import annotations

import hashlib
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

DATABASES = 6  # fillings of the table; agreeing by luck on all of them is rare
ROWS = 24  # of each filling
BUDGET_STEPS = 200_000  # virtual machine steps of one query; gold queries take hundreds
MOST_ROWS = 2_000  # of a result; a longer one is refused
MOST_CHARACTERS = 4_000  # of a query

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
# No randomness, no clock, no extension, nothing that allocates at will.
_FUNCTIONS = frozenset(
    (
        "abs", "avg", "coalesce", "count", "dense_rank", "glob", "ifnull", "iif", "instr", "length",
        "like", "lower", "ltrim", "max", "min", "nullif", "rank", "replace", "round", "row_number",
        "rtrim", "substr", "substring", "sum", "total", "trim", "typeof", "upper",
    )
)  # fmt: skip
_SCHEMA = re.compile(r"(\w+)\s*\((.+)\)", re.ASCII | re.DOTALL)
_COLUMN = re.compile(r"(\w+)\s+(text|int)", re.ASCII | re.IGNORECASE)
_STRING = re.compile(r"'((?:[^']|'')*)'")
_NUMBER = re.compile(r"(?<![\w.])\d{1,15}(?![\w.])", re.ASCII)
_WORDS = ("alpha", "beta", "gamma", "delta", "kappa", "lambda", "omega", "sigma", "tau", "zeta")


class QueryRefused(ValueError):
    """A query that SQLite cannot run, or that may not be run; the message says why."""


class Schema:
    """A table of text and int columns, read from `orders(customer text, amount int)`."""

    def __init__(self, text: str) -> None:
        match = _SCHEMA.fullmatch(text.strip())
        columns = [_COLUMN.fullmatch(part.strip()) for part in match[2].split(",")] if match else []
        if match is None or not all(columns):
            raise QueryRefused(
                f"'{text[:200]}' is not a schema; write it as orders(customer text, amount int)"
            )
        self.table = match[1]
        self.columns = [(found[1], found[2].lower()) for found in columns if found]

    def create(self) -> str:
        """The statement that makes the table."""
        return f'CREATE TABLE "{self.table}" (' + (
            ", ".join(f'"{name}" {kind.upper()}' for name, kind in self.columns) + ")"
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a query gave back."""

    rows: tuple[tuple[Any, ...], ...]  # in the order SQLite gave them


Rows = Sequence[tuple[object, ...]]
Fill = Callable[[Schema, random.Random], Rows]  # makes up rows, one cell for each column


def agree(schema_text: str, gold: str, query: str, fill: Fill | None = None) -> bool:
    """Whether both queries give the same rows on every filling of the table.

    The fillings hold the values that the gold query names, and values beside them, unless `fill`
    makes them; they are the same every time. Order counts only when the gold query sorts at its
    outermost level; names of result columns never do. Raises QueryRefused when `query` cannot be
    run, or `gold` or the schema.
    """
    schema = Schema(schema_text)
    same = True
    for number in range(DATABASES):
        rng = _draws(schema, gold, number)
        rows = fill(schema, rng) if fill else _made_up_rows(schema, gold, rng)
        with _Playground(schema, rows) as playground:
            answer = playground.run(query)
            same = same and _equal(playground.run(gold), answer, ordered=_sorts(gold))
    return same


def _sorts(query: str) -> bool:
    outside, inner = _STRING.sub("", query), 1
    while inner:
        outside, inner = re.subn(r"\([^()]*\)", "", outside)
    return re.search(r"\border\s+by\b", outside, re.IGNORECASE) is not None


def _equal(gold: Result, answer: Result, *, ordered: bool) -> bool:
    left, right = [[_comparable(row) for row in side.rows] for side in (gold, answer)]
    return left == right if ordered else Counter(left) == Counter(right)


def _comparable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(float(f"{cell:.9g}") if isinstance(cell, float) else cell for cell in row)


class _Playground:
    """One filling of the table in memory, open for reading only."""

    def __init__(self, schema: Schema, rows: Rows) -> None:
        self.schema = schema
        self.steps_left = 0
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        try:
            self._fill(rows)
        except sqlite3.Error as error:
            self.connection.close()
            raise QueryRefused(f"the table cannot be made: {error}") from error
        self._close_doors()

    def __enter__(self) -> _Playground:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def _fill(self, rows: Rows) -> None:
        self.connection.execute(self.schema.create())
        marks = ", ".join("?" for _ in self.schema.columns)
        self.connection.executemany(f'INSERT INTO "{self.schema.table}" VALUES ({marks})', rows)

    def _close_doors(self) -> None:
        connection = self.connection
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 2 * MOST_CHARACTERS)
        connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 50)
        connection.setlimit(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 8)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(self._tick, 1_000)

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action not in _ALLOWED:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and (first or "").lower().startswith(
            ("sqlite_", "pragma_")
        ):
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FUNCTIONS:
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def _tick(self) -> int:
        self.steps_left -= 1_000
        return 0 if self.steps_left > 0 else 1  # any other value than 0 interrupts the query

    def run(self, query: str) -> Result:
        """The rows of one query. Raises QueryRefused."""
        if len(query) > MOST_CHARACTERS:
            raise QueryRefused(f"the query has {len(query)} characters, at most {MOST_CHARACTERS}")
        self.steps_left = BUDGET_STEPS
        try:
            cursor = self.connection.execute(query)
            rows = cursor.fetchmany(MOST_ROWS + 1)
        # Python 3.11 raises Warning on a second statement; ValueError covers NUL and surrogates.
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise QueryRefused(f"SQLite refuses the query: {error}") from error
        if cursor.description is None:
            raise QueryRefused("the query returns no rows; write a SELECT")
        if len(rows) > MOST_ROWS:
            raise QueryRefused(f"the query returns more than {MOST_ROWS} rows")
        return Result(tuple(rows))


def _draws(schema: Schema, gold: str, number: int) -> random.Random:
    seed = hashlib.sha256(f"{schema.create()}|{gold}|{number}".encode("utf-8", "replace")).digest()
    return random.Random(int.from_bytes(seed[:8], "big"))


def _made_up_rows(schema: Schema, gold: str, rng: random.Random) -> Rows:
    """ROWS rows. Ints of a column are all different, so that sorting by one leaves no ties."""
    named = [text.replace("''", "'") for text in _STRING.findall(gold)]
    numbers = [int(found) for found in _NUMBER.findall(_STRING.sub("''", gold))]
    columns = [
        _texts(rng, named) if kind == "text" else _distinct_numbers(rng, numbers)
        for _, kind in schema.columns
    ]
    return list(zip(*columns, strict=True))


def _texts(rng: random.Random, named: list[str]) -> list[object]:
    # Named values fill two cells in three, so that rows at the edge of a condition meet the others.
    return [rng.choice(named if named and rng.random() < 2 / 3 else _WORDS) for _ in range(ROWS)]


def _distinct_numbers(rng: random.Random, named: list[int]) -> list[object]:
    pool = {near for number in named for near in (number - 1, number, number + 1)}
    while len(pool) < ROWS:
        centre = rng.choice(named) if named else 100
        pool.add(rng.randint(0, 2 * max(centre, ROWS)))
    chosen: list[object] = list(rng.sample(sorted(pool), len(pool)))
    return chosen[:ROWS]
