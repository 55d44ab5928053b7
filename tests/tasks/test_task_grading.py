from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraland.errors import DataRefused, MetricUnavailable, UnknownTask
from loraland.tasks.catalogue import all_tasks, get_task
from loraland.tasks.grading import Grade, gold_score, grader_for
from loraland.tasks.sources import load_split
from loraland.tasks.sqlite import DATABASES, QueryRefused, agree
from loraland.tasks.task import Item, Task

SCHEMA = "orders(customer text, city text, amount int, items int)"
SWAPS = (
    ("COUNT(*)", "MAX(rowid)"), ("MAX(", "MIN("), ("AVG(", "SUM("), (" > ", " < "),
    (" < ", " <= "), (" DESC", " ASC"), ("DISTINCT ", ""), (" AND ", " OR "),
)  # fmt: skip
GRADED = [task for task in all_tasks() if task.metric != "humaneval"]


def grade(task_name: str, output: str, target: str, **row: object) -> Grade:
    return grader_for(get_task(task_name)).grade(output, Item("prompt:", target, row))


def strictly(task_name: str, output: str, target: str, **row: object) -> Grade:
    """The headline alone."""
    return replace(grade(task_name, output, target, **row), secondary={})


def gold_item(task: Task) -> Item:
    """An item with a gold answer that the task's grader reads."""
    if task.generator is not None:
        return load_split(task, "test", limit=1).items()[0]
    answers = {"mae": "3.8", "last_number": "so 2 + 2\n#### 4", "rouge": "a short answer"}
    return Item("prompt:", answers.get(task.metric) or task.labels[0], {})


@pytest.mark.parametrize("task", GRADED, ids=lambda task: task.name)
def test_the_gold_answer_scores_exactly_one(task: Task) -> None:
    assert gold_score(task, [gold_item(task)]) == 1.0


@pytest.mark.parametrize(
    "task",
    {(task.metric, task.secondary, task.lenient): task for task in GRADED}.values(),
    ids=lambda task: task.name,
)
def test_no_text_makes_a_grader_raise_or_leave_the_unit_interval(task: Task) -> None:
    grader, item = grader_for(task), gold_item(task)
    pieces = st.sampled_from(
        [
            item.target,
            "{",
            "}",
            '"person"',
            ":",
            "[",
            "]",
            "SELECT",
            " * FROM orders",
            ";",
            "-",
            "1",
            "9" * 5000,
            ".",
            ",",
            "'",
            "\0",
            "\ud800",
            '"\\ud800"',
            "\u0663",
            "\n",
            "True",
            "[" * 3000,
        ]
    )

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.text(), st.lists(pieces, max_size=8).map("".join)))
    def judge(output: str) -> None:
        grade = grader.grade(output, item)
        assert 0.0 <= grade.score <= 1.0
        assert all(0.0 <= score <= 1.0 for score in grade.secondary.values())
        assert grade.parsed is not None or grade.score == 0.0
        assert grader.grade(output, item) == grade

    judge()


def test_code_is_not_run_and_no_other_number_is_given() -> None:
    with pytest.raises(MetricUnavailable, match="LORALAND_RUN_CODE=1"):
        grader_for(get_task("magicoder"))


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UnknownTask, match="did you mean 'rouge'"):
        grader_for(replace(get_task("viggo"), metric="rogue"))


def test_a_gold_score_of_nothing_is_refused() -> None:
    with pytest.raises(DataRefused, match="no items"):
        gold_score(get_task("viggo"), [])


def test_a_gold_answer_that_the_grader_cannot_read_shows_in_the_gold_score() -> None:
    task = get_task("dbpedia")
    items = [Item("p:", "Film", {}), Item("p:", "Movie", {})]
    assert gold_score(task, items) == 0.5


class TestLabels:
    @pytest.mark.parametrize("output", ["Film", " film\n", "FILM", "Film."])
    def test_case_space_and_one_period_are_allowed(self, output: str) -> None:
        assert grade("dbpedia", output, "Film") == Grade("Film", 1.0, {"lenient": 1.0})

    def test_another_label_is_readable_and_wrong(self) -> None:
        assert grade("dbpedia", "Album", "Film") == Grade("Album", 0.0, {"lenient": 0.0})

    @pytest.mark.parametrize(
        "output",
        ["", "Film..", "a Film", "Film or Album", "Film, surely", "Fil", "Filmography", "."],
    )
    def test_rambling_is_unreadable(self, output: str) -> None:
        assert strictly("dbpedia", output, "Film") == Grade(None, 0.0)

    def test_a_digit_inside_an_answer_does_not_count(self) -> None:
        assert grade("hellaswag", "Ending 3 of 4", "3").parsed is None
        assert grade("hellaswag", "3", "3").score == 1.0

    def test_longer_labels_are_not_taken_for_shorter_ones(self) -> None:
        found = strictly("covid", "Extremely Positive", "Positive")
        assert found == Grade("Extremely Positive", 0.0)

    def test_a_boolean_word_is_not_the_label(self) -> None:
        assert grade("boolq", "true", "True").score == 1.0
        assert grade("boolq", "yes", "True").parsed is None


class TestNumbers:
    @pytest.mark.parametrize(
        ("output", "target", "score"),
        [
            ("#### 1509", "x\n#### 1509", 1.0),
            ("1,509", "#### 1509", 1.0),
            ("it costs $1,509.00.", "#### 1,509", 1.0),
            ("first 3, then 4", "#### 3", 0.0),
            ("10-5", "#### 5", 1.0),
            ("-5", "#### -5", 1.0),
            ("is -5", "#### 5", 0.0),
            ("1,2", "#### 2", 1.0),
            ("12345,678", "#### 678", 1.0),
            ("3.50", "#### 3.5", 1.0),
        ],
    )
    def test_the_last_number_decides(self, output: str, target: str, score: float) -> None:
        assert grade("gsm8k", output, target).score == score

    def test_no_number_is_unreadable(self) -> None:
        assert strictly("gsm8k", "four", "#### 4") == Grade(None, 0.0)

    @pytest.mark.parametrize(
        ("output", "score"), [("3.8", 1.0), ("3.8.", 1.0), ("0", 0.24), ("5", 0.76), (" 4.8 ", 0.8)]
    )
    def test_a_distance_is_measured_on_the_scale_of_five(self, output: str, score: float) -> None:
        assert grade("glue_stsb", output, "3.8").score == pytest.approx(score)

    @pytest.mark.parametrize(
        "output", ["", "5.1", "-1", "about 3", "3 of 5", "nan", "inf", "1e0", "3,8"]
    )
    def test_what_is_no_number_of_the_scale_is_unreadable(self, output: str) -> None:
        assert strictly("glue_stsb", output, "3.8") == Grade(None, 0.0)


class TestRouge:
    def test_half_the_words_in_order_score_between(self) -> None:
        result = grade("viggo", "the cat sat", "the dog sat down")
        assert result.score == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
        assert result.parsed == "the cat sat"

    def test_no_common_word_scores_zero_and_is_readable(self) -> None:
        assert grade("viggo", "xyz", "the dog") == Grade("xyz", 0.0)

    @pytest.mark.parametrize("output", ["", " ", "\n\t"])
    def test_nothing_is_unreadable(self, output: str) -> None:
        assert grade("viggo", output, "the dog") == Grade(None, 0.0)

    def test_a_gold_answer_without_letters_can_be_met(self) -> None:
        assert grade("drop", "£ %", "£ %").score == 1.0
        assert grade("drop", "$", "£").score == 0.0


def test_an_exact_answer_is_compared_letter_by_letter() -> None:
    grader = grader_for(replace(get_task("viggo"), metric="exact"))
    item = Item("p:", "a B", {})
    assert grader.grade(" a B\n", item) == Grade("a B", 1.0)
    assert grader.grade("a b", item) == Grade("a b", 0.0)
    assert grader.grade("", item) == Grade(None, 0.0)


class TestDates:
    @pytest.mark.parametrize("output", ["2024-02-29", " 2024-02-29\n"])
    def test_the_day_in_iso_form_is_right(self, output: str) -> None:
        assert grade("dates", output, "2024-02-29") == Grade("2024-02-29", 1.0)

    def test_another_day_is_readable_and_wrong(self) -> None:
        assert grade("dates", "2024-02-28", "2024-02-29") == Grade("2024-02-28", 0.0)

    @pytest.mark.parametrize(
        "output",
        ["", "2023-02-29", "2024-2-29", "20240229", "2024-02-29.", "2024-W09-4", "29.02.2024",
         "2024-02-29 2024-02-29", "٢٠٢٤-٠٢-٢٩"],
    )  # fmt: skip
    def test_what_is_no_day_or_another_form_is_unreadable(self, output: str) -> None:
        assert grade("dates", output, "2024-02-29") == Grade(None, 0.0)


class TestEntities:
    GOLD = json.dumps({"person": ["Ana Li", "Bo Ek"], "organization": ["Orbit Labs"], "place": []})

    def test_order_of_keys_and_names_does_not_matter(self) -> None:
        output = '{"place": [], "organization": ["Orbit  Labs"], "person": ["Bo Ek", "Ana Li"]}'
        assert grade("entities", output, self.GOLD).score == 1.0

    def test_f1_counts_missing_and_invented_names(self) -> None:
        missing = '{"person": ["Ana Li"], "organization": ["Orbit Labs"], "place": []}'
        assert grade("entities", missing, self.GOLD).score == pytest.approx(2 * 2 / (2 + 3))
        invented = (
            '{"person": ["Ana Li", "Bo Ek"], "organization": ["Orbit Labs"], "place": ["Oslo"]}'
        )
        assert grade("entities", invented, self.GOLD).score == pytest.approx(2 * 3 / (4 + 3))

    def test_a_name_of_the_wrong_kind_or_said_twice_is_no_match(self) -> None:
        wrong = '{"person": ["Orbit Labs"], "organization": ["Ana Li"], "place": ["Bo Ek"]}'
        assert grade("entities", wrong, self.GOLD).score == 0.0
        twice = '{"person": ["Ana Li", "Ana Li", "Bo Ek"], "organization": ["Orbit Labs"]}'
        assert grade("entities", twice, self.GOLD).score == pytest.approx(2 * 3 / (4 + 3))

    def test_nothing_to_find_and_nothing_found_is_right(self) -> None:
        assert grade("entities", "{}", '{"person": []}') == Grade("[]", 1.0)

    @pytest.mark.parametrize(
        "output",
        [
            "",
            "{",
            "[]",
            "null",
            '"x"',
            '{"person": "Ana Li"}',
            '{"person": [1]}',
            '{"person": [null]}',
            '{"person": ["Ana Li"]} and more',
            '{"person": ["Ana Li"], "person": ["Bo Ek"]}',
            "{'person': ['Ana Li']}",
            '{"person": {"a": []}}',
            "[" * 100_000,
            '{"a": [' + "9" * 5000 + "]}",
        ],
        ids=lambda text: text[:20],
    )
    def test_what_is_no_object_of_lists_is_unreadable(self, output: str) -> None:
        assert grade("entities", output, self.GOLD) == Grade(None, 0.0)


class TestSql:
    GOLD = "SELECT COUNT(*) FROM orders WHERE city = 'Oslo' AND amount > 50"

    def score(self, output: str, gold: str = GOLD) -> Grade:
        return grade("sql", output, gold, schema=SCHEMA)

    @pytest.mark.parametrize(
        "output",
        [
            "select count(1) from orders where amount > 50 and city = 'Oslo';",
            "SELECT SUM(1) FROM orders WHERE city = 'Oslo' AND amount >= 51",
            "WITH o AS (SELECT * FROM orders WHERE amount > 50) "
            "SELECT COUNT(*) FROM o WHERE city = 'Oslo'",
            "SELECT COUNT(*) AS n FROM \"orders\" WHERE city LIKE 'Oslo' AND NOT amount <= 50",
        ],
    )
    def test_another_way_to_the_same_rows_is_right(self, output: str) -> None:
        assert self.score(output) == Grade(output, 1.0)

    @pytest.mark.parametrize(
        "output",
        [
            "SELECT COUNT(*) FROM orders WHERE city = 'Oslo' AND amount >= 50",
            "SELECT COUNT(*) FROM orders WHERE city = 'Oslo' OR amount > 50",
            "SELECT COUNT(*) FROM orders WHERE city = 'Oslo' AND amount < 50",
            "SELECT COUNT(*) FROM orders WHERE city = 'Oslo'",
            "SELECT COUNT(*) FROM orders WHERE customer = 'Oslo' AND amount > 50",
            "SELECT COUNT(*) FROM orders WHERE city = 'Oslo' AND items > 50",
            "SELECT COUNT(*), 1 FROM orders WHERE city = 'Oslo' AND amount > 50",
            "SELECT city FROM orders",
            "SELECT 0",
        ],
    )
    def test_other_rows_are_readable_and_wrong(self, output: str) -> None:
        assert self.score(output) == Grade(output, 0.0)

    @pytest.mark.parametrize(
        "output",
        [
            "",
            ";",
            "the answer is 3",
            "SELECT",
            "SELECT nothing FROM orders",
            "SELECT * FROM clients",
            "SELECT 1; SELECT 2",
            "DROP TABLE orders",
            "DELETE FROM orders",
            "PRAGMA table_info(orders)",
            "INSERT INTO orders VALUES ('a', 'b', 1, 2)",
            "UPDATE orders SET amount = 1",
            "ATTACH DATABASE ':memory:' AS other",
            "CREATE TABLE t (a)",
            "VACUUM",
            "BEGIN",
            "SELECT load_extension('x')",
            "SELECT random()",
            "SELECT randomblob(1000000000)",
            "SELECT name FROM sqlite_master",
            "SELECT * FROM pragma_table_info('orders')",
            "SELECT date('now')",
            "SELECT printf('%1000000d', 1)",
            "SELECT a.* FROM orders a, orders b, orders c",
            "SELECT COUNT(*) FROM orders a, orders b, orders c, orders d, orders e, orders f",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
            "SELECT '" + "x" * 5000 + "'",
            "SELECT " + "(" * 200 + "1" + ")" * 200,
            "SELECT 1\0",
            "SELECT '\ud800'",
        ],
        ids=lambda text: text[:40].encode("ascii", "backslashreplace").decode(),
    )
    def test_what_cannot_or_may_not_run_is_unreadable(self, output: str) -> None:
        assert self.score(output) == Grade(None, 0.0)

    def test_order_counts_only_when_the_gold_query_sorts(self) -> None:
        rows = "SELECT amount FROM orders"
        assert self.score(f"{rows} ORDER BY amount", rows).score == 1.0
        assert self.score(f"{rows} ORDER BY amount", f"{rows} ORDER BY amount DESC").score == 0.0
        inner = "SELECT MAX(amount) FROM (SELECT amount FROM (SELECT 1) , orders ORDER BY amount)"
        assert self.score("SELECT MAX(amount) FROM orders", inner).score == 1.0

    def test_repeated_rows_count(self) -> None:
        assert (
            self.score("SELECT city FROM orders", "SELECT DISTINCT city FROM orders").score == 0.0
        )

    def test_whole_and_broken_numbers_compare_by_value(self) -> None:
        assert (
            self.score("SELECT TOTAL(amount) FROM orders", "SELECT SUM(amount) FROM orders").score
            == 1
        )
        mean = "SELECT SUM(amount) * 1.0 / COUNT(*) FROM orders"
        assert self.score(mean, "SELECT AVG(amount) FROM orders").score == 1.0

    def test_a_gold_query_that_does_not_run_gives_no_points(self) -> None:
        assert self.score("SELECT 1", "SELECT nonsense FROM orders") == Grade(None, 0.0)

    def test_values_with_quotes_are_put_into_the_tables(self) -> None:
        gold = "SELECT COUNT(*) FROM orders WHERE customer = 'O''Hara'"
        assert self.score(gold, gold).score == 1.0
        assert self.score("SELECT 0", gold).score == 0.0

    @pytest.mark.parametrize(
        "schema", ["", "orders", "orders()", "orders(a)", "orders(a blob)", "o(a int, a int)"]
    )
    def test_a_schema_that_is_none_is_refused(self, schema: str) -> None:
        with pytest.raises(QueryRefused):
            agree(schema, "SELECT 1", "SELECT 1")

    def test_every_form_of_the_generated_task_is_told_from_its_neighbours(self) -> None:
        items = load_split(get_task("sql"), "test", limit=150).items()
        grader = grader_for(get_task("sql"))
        for item in items:
            for swap in SWAPS:
                changed = item.target.replace(*swap)
                if changed != item.target:
                    assert grader.grade(changed, item).score == 0.0, (item.target, changed)

    def test_connections_are_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[sqlite3.Connection] = []
        connect = sqlite3.connect

        def remember(*args: object, **options: object) -> sqlite3.Connection:
            opened.append(connect(*args, **options))  # type: ignore[call-overload]
            return opened[-1]

        monkeypatch.setattr(sqlite3, "connect", remember)
        self.score("SELECT 1")
        self.score("SELECT nothing")
        assert len(opened) == DATABASES + 1  # the second query fails on the first table
        for connection in opened:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                connection.execute("SELECT 1")
