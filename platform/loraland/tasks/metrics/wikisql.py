"""Queries on one table whose columns are known and whose rows are not: WikiSQL.

A query comes in WikiSQL's own form, which is no SQL (`SELECT COUNT School/Club Team FROM 1-2-3
WHERE Player = 'O'Neal'`), or as SQL with quoted names, which sqlglot reads. Both become SQL over
columns c0, c1, ... of a table t. Two scores: the same form (aggregate, column, set of conditions),
and the same rows from SQLite on tables made up around the gold conditions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

from loraland.tasks import sqlite
from loraland.tasks.sqlite import ROWS, QueryRefused, Rows, Schema
from loraland.tasks.task import Item

MOST_CHARACTERS = 4_000  # of a query
_AGGREGATES = ("MAX", "MIN", "COUNT", "SUM", "AVG")
_HEADER = re.compile(r"table: *(?P<table>.+)\ncolumns: *(?P<columns>.+)", re.DOTALL)
_QUERY = re.compile(
    rf"SELECT (?:(?P<aggregate>{'|'.join(_AGGREGATES)}) )?(?P<column>.+?) FROM (?P<table>\S+)"
    r"(?: WHERE (?P<conditions>.+))?",
    re.DOTALL,
)
_COMPARED = re.compile(r" (?P<operator>[=<>]) (?P<value>'.*'|-?\d+(?:\.\d+)?)", re.DOTALL)
_WORDS = ("alpha", "beta", "gamma", "delta", "kappa", "lambda", "omega", "sigma", "tau", "zeta")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column with a constant."""

    column: int
    operator: str  # = < >
    value: str  # without quotes
    quoted: bool = field(compare=False)  # 'quoted' in the query; SQLite compares by column type


@dataclass(frozen=True, slots=True)
class Query:
    """All that WikiSQL's form can say."""

    aggregate: str  # "" for none
    column: int
    conditions: frozenset[Condition]

    def sql(self) -> str:
        """As SQL over columns c0, c1, ... of table t."""
        selected = f"{self.aggregate}(c{self.column})" if self.aggregate else f"c{self.column}"
        conditions = sorted(
            f"c{each.column} {each.operator} {_literal(each)}" for each in self.conditions
        )
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {selected} FROM t{where}"


def _literal(condition: Condition) -> str:
    escaped = condition.value.replace("'", "''")
    return f"'{escaped}'" if condition.quoted else condition.value


class Table:
    """A table's name and columns, from `table: NAME` and `columns: A, B, C` on two lines."""

    def __init__(self, text: str) -> None:
        match = _HEADER.fullmatch(text.strip())
        self.name = match["table"].strip() if match else ""
        parts = match["columns"].split(", ") if match else []
        # A column's own name may hold ", ": each run of parts may be one.
        runs = combinations(range(len(parts) + 1), 2) if len(parts) <= 100 else ()
        names = {", ".join(parts[first:after]) for first, after in runs}
        self.numbers = {name: n for n, name in enumerate(sorted(names))}
        self._by_case = {name.casefold(): n for name, n in self.numbers.items()}

    def column(self, name: str) -> int | None:
        """The number of a column of that name, up to case."""
        return self.numbers.get(name, self._by_case.get(name.casefold()))


def read(text: str, table: Table) -> Query | None:
    """The query that a text in WikiSQL's own form says; None when it is no such text."""
    match = _QUERY.fullmatch(text.strip().removesuffix(";").rstrip())
    if match is None or match["table"].casefold() != table.name.casefold():
        return None
    column = table.column(match["column"])
    conditions = list(_conditions(match["conditions"] or "", table))
    if column is None or None in conditions:
        return None
    return Query(match["aggregate"] or "", column, frozenset(c for c in conditions if c))


def _conditions(text: str, table: Table) -> Iterator[Condition | None]:
    """The conditions between ANDs; None stands for what is none.

    A value may hold " AND " and quotes, so that a piece that is no condition is read together with
    the next one.
    """
    piece = ""
    for part in text.split(" AND ") if text else ():
        piece = f"{piece} AND {part}" if piece else part
        if found := _condition(piece, table):
            yield found
            piece = ""
    if piece:
        yield None


def _condition(text: str, table: Table) -> Condition | None:
    for match in _COMPARED.finditer(text):
        column = table.column(text[: match.start()])
        if column is not None and match.end() == len(text):
            value, quoted = match["value"], match["value"].startswith("'")
            return Condition(column, match["operator"], value[1:-1] if quoted else value, quoted)
    return None


def plain_sql(text: str, table: Table) -> str | None:
    """A text of either form as SQLite's SQL over c0, c1, ... and t; None when it is neither."""
    if len(text) > MOST_CHARACTERS:
        return None
    query = read(text, table)
    return query.sql() if query else _from_sql(text, table)


def _from_sql(text: str, table: Table) -> str | None:
    """Through sqlglot: names quoted in any way SQLite takes, up to case, become c0, c1, ... and t.

    A name that is not the table's stays as it is, and SQLite refuses it.
    """
    from sqlglot import expressions

    tree = _parsed(text)
    if tree is None:
        return None
    for found in list(tree.find_all(expressions.Column)):
        number = table.column(found.name)
        if number is not None:
            found.set("this", expressions.to_identifier(f"c{number}"))
        if found.table.casefold() == table.name.casefold():
            found.set("table", expressions.to_identifier("t"))
    for found in list(tree.find_all(expressions.Table)):
        if found.name.casefold() == table.name.casefold():
            found.set("this", expressions.to_identifier("t"))
    return str(tree.sql(dialect="sqlite"))


def _parsed(text: str) -> Any:
    """The tree of one SELECT, or None."""
    import sqlglot

    if re.match(r"\s*(select|with)\b", text, re.IGNORECASE) is None:
        return None
    try:
        trees: Any = [tree for tree in sqlglot.parse(text, read="sqlite") if tree is not None]
    except Exception:  # its own errors, too deep nesting, and what else no answer may cause
        return None
    if len(trees) != 1 or not isinstance(trees[0], sqlglot.expressions.Select):
        return None
    return trees[0] if trees[0].expressions else None


def same_form(output: str, item: Item) -> float:
    """1 when aggregate, column and the set of conditions are the gold query's."""
    table = _table(str(item.row.get("table", "")))
    said, gold = (plain_sql(text.strip(), table) for text in (output, item.target))
    if said is None or gold is None:
        return float(output.strip() == item.target)
    return float(_form(said) == _form(gold))


def _form(sql: str) -> Any:
    """The tree of a query, its conditions in one order; trees that are equal say the same."""
    from sqlglot import expressions

    tree = _parsed(sql)
    where = tree.args.get("where") if tree else None
    if where is not None and isinstance(where.this, expressions.And):
        conditions = sorted(where.this.flatten(), key=lambda each: str(each.sql(dialect="sqlite")))
        where.set("this", expressions.and_(*conditions))
    return tree


def same_rows(output: str, item: Item) -> float:
    """1 when SQLite gives the rows of the gold query, on tables made up around its conditions.

    A gold query that cannot be read is met by its own text alone.
    """
    table = _table(str(item.row.get("table", "")))
    gold = read(item.target, table)
    if output.strip() == item.target:
        return 1.0
    said = plain_sql(output.strip(), table)
    if gold is None or said is None:
        return 0.0
    numbers = _numeric_columns(gold)
    width = len(table.numbers)
    used = sorted({gold.column, *(c.column for c in gold.conditions), *_columns_of(said, width)})
    kinds = ", ".join(f"c{n} {'int' if n in numbers else 'text'}" for n in used)
    try:
        return float(sqlite.agree(f"t({kinds})", gold.sql(), said, _Filling(gold, used, numbers)))
    except QueryRefused:
        return 0.0


def readable(output: str, item: Item) -> float:
    """1 when the output is a query in either form, right or wrong."""
    return float(plain_sql(output.strip(), _table(str(item.row.get("table", "")))) is not None)


@lru_cache(maxsize=256)
def _table(text: str) -> Table:
    return Table(text)


def _columns_of(sql: str, width: int) -> set[int]:
    return {int(n) for n in re.findall(r"\bc(\d{1,6})\b", sql) if int(n) < width}


def _numeric_columns(query: Query) -> set[int]:
    compared = {c.column for c in query.conditions if not c.quoted}
    return compared | ({query.column} if query.aggregate in ("SUM", "AVG") else set())


@dataclass(frozen=True, slots=True)
class _Filling:
    """Rows around the gold conditions: a third meets all, a third all but one, a third is free."""

    query: Query
    columns: Sequence[int]
    numbers: set[int]

    def __call__(self, schema: Schema, rng: random.Random) -> Rows:
        rows = [self._row(rng, number) for number in range(ROWS)]
        rng.shuffle(rows)
        return rows

    def _row(self, rng: random.Random, number: int) -> tuple[object, ...]:
        cells = {column: self._free(rng, column, number) for column in self.columns}
        conditions = sorted(self.query.conditions, key=lambda c: (c.column, c.operator, c.value))
        if number % 3 == 1 and conditions:
            conditions.remove(rng.choice(conditions))
        if number % 3 != 2:
            cells |= {c.column: self._meeting(rng, c) for c in conditions}
        return tuple(cells.values())

    def _free(self, rng: random.Random, column: int, number: int) -> object:
        named = [c.value for c in self.query.conditions if c.column == column]
        if column in self.numbers:
            centre = float(rng.choice(named)) if named else 100.0
            return _number(centre + rng.choice((-1, 0, 1, rng.randint(-9, 9))))
        if named and rng.random() < 1 / 3:
            return rng.choice(named)
        return f"{rng.choice(_WORDS)} {number}"

    def _meeting(self, rng: random.Random, condition: Condition) -> object:
        if condition.column not in self.numbers:
            value = condition.value
            return {"=": value, "<": value[:-1], ">": f"{value}z"}[condition.operator]
        step = {"=": 0, "<": -1, ">": 1}[condition.operator] * rng.choice((1, 2, 9))
        return _number(float(condition.value) + step)


def _number(value: float) -> object:
    return int(value) if value.is_integer() else value
