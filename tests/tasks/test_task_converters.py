from __future__ import annotations

import ast
import json

import pytest

from loraland.tasks.catalogue import all_tasks, get_task
from loraland.tasks.converters import CONVERTERS, DBPEDIA_CLASSES
from loraland.tasks.grading import gold_score
from loraland.tasks.task import Row

GLUE = {"sentence1": "a b", "sentence2": "c d", "idx": 7}
ARC = {
    "id": "x",
    "question": "Which one melts? ",
    "choices": {"text": ["ice", "stone", "iron"], "label": ["A", "B", "C"]},
    "answerKey": "A",
}
WIKISQL = {
    "phase": 2,
    "question": "Who plays guard\xa0here?",
    "table": {
        "header": ["Player", "No.", "Years  in Toronto"],
        "id": "1-2-3",
        "types": ["text", "real", "text"],
        "rows": [],
        "name": "table_1",
    },
    "sql": {
        "human_readable": "SELECT COUNT Player FROM table WHERE No. > 3",
        "sel": 0,
        "agg": 3,
        "conds": {
            "column_index": [1, 2],
            "operator_index": [1, 0],
            "condition": ["3", "1995-96"],
        },
    },
}
HELLASWAG = {
    "ind": 4,
    "ctx": "A man",
    "endings": ["runs.", 'it\'s "his".', "x", "y"],
    "label": "1",
}

# task -> a hub row of its documented shape, and the row that must come out
CASES: dict[str, tuple[Row, Row]] = {
    "bc5cdr": (
        {"tokens": ["Acute", "pain", "after", "valproic", "acid"], "tags": [2, 3, 0, 1, 4]},
        {
            "tokens_concatenated": "Acute pain after valproic acid",
            "collected_tags": "{'B-Chemical': ['valproic'], 'B-Disease': ['Acute'], "
            "'I-Disease': ['pain'], 'I-Chemical': ['acid']}",
        },
    ),
    "conllpp": (
        {
            "id": "0",
            "tokens": ["Ana", "Li", "met", "Bo", "of", "ÖBB", "in", "New", "York", "Welsh"],
            "pos_tags": [0] * 10,
            "ner_tags": [1, 2, 0, 1, 0, 3, 0, 5, 6, 7],
        },
        {
            "input": "Ana Li met Bo of ÖBB in New York Welsh",
            "output": '{"person": ["Ana Li", "Bo"], "organization": ["ÖBB"], '
            '"location": ["New York"], "miscellaneous": ["Welsh"]}',
        },
    ),
    "e2e_nlg": (
        {"meaning_representation": "name[X]", "human_reference": "X is\n a pub. "},
        {"meaning_representation": "name[X]", "human_reference": "X is a pub."},
    ),
    "viggo": (
        {
            "gem_id": "1",
            "meaning_representation": "inform(name[X])",
            "target": "X.",
            "references": [],
        },
        {"meaning_representation": "inform(name[X])", "target": "X."},
    ),
    "webnlg": (
        {
            "category": "Airport",
            "modified_triple_sets": {"mtriple_set": [["A | city | B", "B | country | C"], ["x"]]},
            "lex": {"text": [" ", "A is in B,\nin C.", "other"], "lid": ["1", "2", "3"]},
        },
        {"modified_triple_set": "A | city | B\nB | country | C", "lex": "A is in B, in C."},
    ),
    "wikisql": (
        WIKISQL,
        {
            "table": "table: 1-2-3\ncolumns: Player, No., Years in Toronto",
            "question": "Who plays guard here?",
            "sql": "SELECT COUNT Player FROM 1-2-3 WHERE No. > 3 AND Years in Toronto = '1995-96'",
        },
    ),
    "boolq": (
        {"question": "is it", "passage": "It is.", "answer": True},
        {"passage": "It is.", "question": "is it", "answer": "True"},
    ),
    "dbpedia": (
        {"label": 0, "title": " Acme ", "content": " Acme makes all. "},
        {"title": "Acme", "content": "Acme makes all.", "label": "Company"},
    ),
    "glue_stsb": (
        {**GLUE, "label": 3.799999952316284},
        {"sentence1": "a b", "sentence2": "c d", "label": 3.8},
    ),
    "reuters": (
        {"title": "COCOA\n UP", "text": "Prices rose.\n  More.", "topics": ["cocoa", "coffee"]},
        {"title": "COCOA UP", "text": "Prices rose. More.", "topics": "cocoa, coffee"},
    ),
    "mmlu": (
        {"question": "One?\n", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 3},
        {"prompt": "One?\n\n0: a\n1: b\n2: c\n3: d", "completion": "3"},
    ),
    "winogrande": (
        {"sentence": "The _ broke.", "option1": "cup", "option2": "mat", "answer": "2"},
        {"sentence": "The _ broke.", "option1": "cup", "option2": "mat", "answer": 2},
    ),
    "arc_combined": (
        ARC,
        {"realized_prompt": "Which one melts?\n\nA: ice\nB: stone\nC: iron", "answerKey": "A"},
    ),
    "hellaswag": (
        HELLASWAG,
        {
            "ctx": "A man",
            "endings": "['runs.', 'it\\'s \"his\".', 'x', 'y']",
            "label": 1,
        },
    ),
    "hellaswag_processed": (HELLASWAG, {"ctx": "A man", "correct_ending": 'it\'s "his".'}),
    "drop": (
        {
            "passage": "p",
            "question": "q",
            "answers_spans": {"spans": ["two  men", "3"], "types": ["span", "span"]},
        },
        {"passage": "p", "question": "q", "answer": "two men"},
    ),
    "tldr_headline_gen": (
        {"headline": "Big\nnews", "content": "It came.", "category": 3},
        {"content": "It came.", "headline": "Big news"},
    ),
}


def convert(task_name: str, row: Row) -> Row | None:
    hub = get_task(task_name).hub
    assert hub is not None
    assert hub.convert is not None
    return CONVERTERS[hub.convert](row)


def test_every_task_that_names_a_converter_is_tried_here() -> None:
    named = {task.name for task in all_tasks() if task.hub is not None and task.hub.convert}
    assert named == set(CASES)


def test_every_converter_is_named_by_a_task() -> None:
    assert {task.hub.convert for task in all_tasks() if task.hub and task.hub.convert} == set(
        CONVERTERS
    )


@pytest.mark.parametrize("name", CASES)
def test_a_hub_row_becomes_a_row_of_the_task(name: str) -> None:
    given, expected = CASES[name]
    task = get_task(name)
    converted = convert(name, given)
    assert converted is not None
    assert {column: converted[column] for column in task.columns} == expected
    item = task.item(converted)
    assert gold_score(task, [item]) == 1.0
    assert not any(end in item.target for end in task.stop)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("bc5cdr", {"tokens": [], "tags": []}),
        ("conllpp", {"tokens": [], "ner_tags": []}),
        ("webnlg", {"modified_triple_sets": {"mtriple_set": [["t"]]}, "lex": {"text": []}}),
        ("webnlg", {"modified_triple_sets": {"mtriple_set": []}, "lex": {"text": ["x"]}}),
        ("reuters", {"title": "t", "text": "x", "topics": []}),
        ("drop", {"passage": "p", "question": "q", "answers_spans": {"spans": [], "types": []}}),
        ("hellaswag", HELLASWAG | {"label": ""}),
        ("hellaswag_processed", HELLASWAG | {"label": ""}),
        ("winogrande", {"sentence": "s", "option1": "a", "option2": "b", "answer": ""}),
        ("arc_combined", ARC | {"answerKey": ""}),
    ],
)
def test_a_row_without_question_or_answer_is_left_out(name: str, row: Row) -> None:
    assert convert(name, row) is None


def test_arc_choices_labelled_by_numbers_are_labelled_by_letters() -> None:
    choices = {"text": ["w", "x", "y", "z", "v"], "label": ["1", "2", "3", "4", "5"]}
    row = convert("arc_combined", ARC | {"choices": choices, "answerKey": "5"})
    assert row is not None
    assert row["answerKey"] == "E"
    assert row["realized_prompt"].endswith("A: w\nB: x\nC: y\nD: z\nE: v")


def test_a_name_that_starts_inside_is_a_name_of_its_own() -> None:
    row = convert("conllpp", {"tokens": ["a", "b", "c", "d"], "ner_tags": [2, 4, 3, 3]})
    assert row is not None
    assert json.loads(row["output"]) == {
        "person": ["a"], "organization": ["b", "c", "d"], "location": [], "miscellaneous": [],
    }  # fmt: skip


def test_tags_and_endings_are_text_that_python_reads_back() -> None:
    tokens = ["it's", 'a "b"', "\\"]
    row = convert("bc5cdr", {"tokens": tokens, "tags": [1, 4, 2]})
    assert row is not None
    assert ast.literal_eval(row["collected_tags"])["B-Chemical"] == ["it's"]
    endings = convert("hellaswag", HELLASWAG)
    assert endings is not None
    assert ast.literal_eval(endings["endings"]) == HELLASWAG["endings"]


def test_a_query_without_aggregate_and_condition_is_plain() -> None:
    sql = {"sel": 2, "agg": 0, "conds": {"column_index": [], "operator_index": [], "condition": []}}
    row = convert("wikisql", WIKISQL | {"sql": sql})
    assert row is not None
    assert row["sql"] == "SELECT Years in Toronto FROM 1-2-3"


def test_dbpedia_classes_are_counted_from_zero_and_are_the_labels() -> None:
    assert get_task("dbpedia").labels == DBPEDIA_CLASSES
    last = convert("dbpedia", {"label": 13, "title": "t", "content": "c"})
    assert last is not None
    assert last["label"] == "WrittenWork"
