"""Queries on a table whose rows nobody has: by form, and by rows made up around the gold query."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraland.tasks.catalogue import get_task
from loraland.tasks.grading import grader_for
from loraland.tasks.metrics.wikisql import Table, plain_sql, read
from loraland.tasks.task import Item

TABLE = (
    "table: 1-10-2\ncolumns: Player, No., Area (2003, in km²), Years in Toronto, School/Club Team"
)
GOLD = "SELECT School/Club Team FROM 1-10-2 WHERE Player = 'Pat O'Neal AND Co' AND No. > 3"


def scores(output: str, gold: str = GOLD, table: str = TABLE) -> tuple[float, float, float]:
    """Execution, form, readable."""
    item = Item("prompt:", gold, {"table": table, "question": "?"})
    found = grader_for(get_task("wikisql")).grade(output, item).secondary
    names = ("execution_accuracy", "logical_form_accuracy", "sql_readable")
    assert set(found) == set(names)
    return tuple(found[name] for name in names)  # type: ignore[return-value]


def test_wikisql_s_own_form_is_read_with_all_that_stands_in_names_and_values() -> None:
    query = read(GOLD, Table(TABLE))
    assert query is not None
    assert [(c.operator, c.value) for c in sorted(query.conditions, key=lambda c: c.operator)] == [
        ("=", "Pat O'Neal AND Co"),
        (">", "3"),
    ]
    assert read("SELECT MAX Area (2003, in km²) FROM 1-10-2", Table(TABLE)) is not None
    assert read("SELECT MAX Area (2003 FROM 1-10-2", Table(TABLE)) is not None  # a part may be one
    for wrong in (
        "SELECT Height FROM 1-10-2",
        "SELECT Player FROM 2-10-2",
        "SELECT Player FROM 1-10-2 WHERE Height = 3",
        "SELECT Player FROM 1-10-2 WHERE No. = x",
        "SELECT Player FROM 1-10-2 WHERE",
        "Player",
    ):
        assert read(wrong, Table(TABLE)) is None, wrong


@pytest.mark.parametrize(
    "gold",
    [
        GOLD,
        "SELECT Player FROM 1-10-2",
        "SELECT COUNT Player FROM 1-10-2 WHERE Years in Toronto = '1995-96'",
        "SELECT MAX Area (2003, in km²) FROM 1-10-2 WHERE No. < 5.5",
        "SELECT AVG No. FROM 1-10-2 WHERE No. > 3 AND No. < 30",
        "SELECT SUM No. FROM 1-10-2 WHERE Player = ''",
        "SELECT nonsense",
    ],
)
def test_the_gold_query_scores_one(gold: str) -> None:
    execution, form, _ = scores(gold, gold)
    assert (execution, form) == (1.0, 1.0)


@pytest.mark.parametrize(
    "output",
    [
        "SELECT School/Club Team FROM 1-10-2 WHERE No. > 3 AND Player = 'Pat O'Neal AND Co'",
        "SELECT school/club team FROM 1-10-2 WHERE player = 'Pat O'Neal AND Co' AND no. > 3;",
        'SELECT "School/Club Team" FROM "1-10-2" '
        "WHERE \"No.\" > 3 AND \"Player\" = 'Pat O''Neal AND Co'",
        "select [School/Club Team] from [1-10-2] where `No.` > 3 and Player = 'Pat O''Neal AND Co'",
    ],
)
def test_the_same_query_in_other_words_is_the_same_form(output: str) -> None:
    assert scores(output) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "output",
    [
        'SELECT "School/Club Team" FROM "1-10-2" WHERE "No." >= 3.1 '
        "AND Player LIKE 'Pat O''Neal AND Co'",
        'SELECT t."School/Club Team" FROM (SELECT * FROM "1-10-2" WHERE "No." > 3) t '
        "WHERE t.Player = 'Pat O''Neal AND Co'",
    ],
)
def test_another_way_to_the_same_rows_is_right_by_execution_alone(output: str) -> None:
    assert scores(output) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "output",
    [
        "SELECT Player FROM 1-10-2 WHERE Player = 'Pat O'Neal AND Co' AND No. > 3",
        "SELECT COUNT School/Club Team FROM 1-10-2 WHERE Player = 'Pat O'Neal AND Co' AND No. > 3",
        "SELECT School/Club Team FROM 1-10-2 WHERE Player = 'Pat O'Neal AND Co'",
        "SELECT School/Club Team FROM 1-10-2 WHERE No. > 3",
        "SELECT School/Club Team FROM 1-10-2",
        "SELECT School/Club Team FROM 1-10-2 WHERE Player = 'Pat O'Neal' AND No. > 3",
        "SELECT School/Club Team FROM 1-10-2 WHERE Player = 'Pat O'Neal AND Co' AND No. > 4",
        "SELECT School/Club Team FROM 1-10-2 WHERE Player = 'Pat O'Neal AND Co' AND No. < 3",
        "SELECT School/Club Team FROM 1-10-2 "
        "WHERE Years in Toronto = 'Pat O'Neal AND Co' AND No. > 3",
        'SELECT "School/Club Team" FROM "1-10-2" '
        "WHERE Player = 'Pat O''Neal AND Co' OR \"No.\" > 3",
    ],
)
def test_other_rows_are_readable_and_wrong(output: str) -> None:
    assert scores(output) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "output",
    [
        "", "I do not know", "School/Club Team", "DROP TABLE t", "DELETE FROM t",
        "SELECT", "SELECT Player FROM", "PRAGMA table_info(t)", "SELECT " + "(" * 900,
        "WITH RECURSIVE", "SELECT Player FROM 1-10-2 " + "x" * 5000,
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_no_query_is_counted(output: str) -> None:
    assert scores(output) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "output",
    [
        'SELECT Height FROM "1-10-2"',
        "SELECT Player FROM elsewhere",
        'SELECT load_extension(Player) FROM "1-10-2"',
        'SELECT a.Player FROM "1-10-2" a, "1-10-2" b, "1-10-2" c, "1-10-2" d, "1-10-2" e',
        'SELECT Player FROM "1-10-2"; DROP TABLE t',
    ],
)
def test_what_sqlite_may_not_or_cannot_run_has_no_rows(output: str) -> None:
    assert scores(output)[0] == 0.0


def test_every_condition_matters_to_the_made_up_rows() -> None:
    names = ["Player", "Years in Toronto", "School/Club Team"]
    conditions = [f"{name} = '{name} x'" for name in names] + ["No. = 4"]
    gold = f"SELECT Player FROM 1-10-2 WHERE {' AND '.join(conditions)}"
    assert scores(gold, gold)[0] == 1.0
    for left_out in conditions:
        fewer = " AND ".join(each for each in conditions if each != left_out)
        counted = f"SELECT COUNT Player FROM 1-10-2 WHERE {fewer}"
        assert scores(counted, gold.replace("SELECT", "SELECT COUNT"))[0] == 0.0, left_out


PIECES = [
    "SELECT ", "COUNT ", "Player", "No.", " FROM ", "1-10-2", " WHERE ", " AND ", " = ", "'a'", "3",
    '"', "'", "(", ")", ";", ",", "--", "/*", "\0", "\ud800", "c0", "t", " OR ", "[", "]",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_no_text_makes_the_scores_raise(output: str) -> None:
    assert set(scores(output)) <= {0.0, 1.0}


def test_a_row_without_a_table_is_met_by_the_gold_text_alone() -> None:
    assert scores(GOLD, table="")[:2] == (1.0, 1.0)
    assert scores("SELECT 1", table="")[:2] == (0.0, 0.0)
    assert plain_sql("SELECT 1", Table("")) == "SELECT 1"
