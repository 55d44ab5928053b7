"""From rows as the hub has them to rows with a task's own columns.

A converter takes one hub row and returns ours, or None for a row that has no question or no answer
in it (those are counted, not hidden). Pure; the shapes are the documented ones of each data set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from loraland.tasks.task import Row

Converter = Callable[[Row], Row | None]

CONVERTERS: dict[str, Converter] = {}

BC5CDR_TAGS = ("O", "B-Chemical", "B-Disease", "I-Disease", "I-Chemical")
CONLL_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
CONLL_KINDS = {"PER": "person", "ORG": "organization", "LOC": "location", "MISC": "miscellaneous"}
DBPEDIA_CLASSES = (
    "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder",
    "MeanOfTransportation", "Building", "NaturalPlace", "Village", "Animal", "Plant", "Album",
    "Film", "WrittenWork",
)  # fmt: skip
SQL_AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
SQL_OPERATORS = ("=", ">", "<", "OP")
ARC_LETTERS = "ABCDE"


def _converter(function: Converter) -> Converter:
    CONVERTERS[function.__name__] = function
    return function


def _text(value: Any) -> str:
    return " ".join(str(value).split())


@_converter
def bc5cdr(row: Row) -> Row | None:
    """`tokens`, `tags` (0 to 4) to a sentence and the Python dict text of tokens per tag."""
    if not row["tokens"]:
        return None
    found: dict[str, list[str]] = {tag: [] for tag in BC5CDR_TAGS[1:]}
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        if tag:
            found[BC5CDR_TAGS[tag]].append(token)
    return {"tokens_concatenated": " ".join(row["tokens"]), "collected_tags": str(found)}


@_converter
def conllpp(row: Row) -> Row | None:
    """`tokens`, `ner_tags` (0 to 8, BIO) to a sentence and JSON with the names of each kind."""
    if not row["tokens"]:
        return None
    found: dict[str, list[str]] = {kind: [] for kind in CONLL_KINDS.values()}
    before = "O"
    for token, number in zip(row["tokens"], row["ner_tags"], strict=True):
        tag = CONLL_TAGS[number]
        if tag != "O":
            names = found[CONLL_KINDS[tag[2:]]]
            if tag[0] == "I" and before[2:] == tag[2:]:
                names[-1] += f" {token}"
            else:
                names.append(token)
        before = tag
    return {
        "input": " ".join(row["tokens"]),
        "output": json.dumps(found, ensure_ascii=False),
    }


@_converter
def webnlg(row: Row) -> Row | None:
    """The first modified triple set, a triple a line, and the first verbalisation not empty."""
    triple_sets = row["modified_triple_sets"]["mtriple_set"]
    texts = [_text(text) for text in row["lex"]["text"] if text.strip()]
    if not triple_sets or not triple_sets[0] or not texts:
        return None  # parts of the published test split come without triples or without references
    return {"modified_triple_set": "\n".join(triple_sets[0]), "lex": texts[0]}


@_converter
def wikisql(row: Row) -> Row | None:
    """`table` and the structured `sql` to the table's columns and one line of SQL.

    Written from the structure, since `human_readable` leaves out quotes and the table's name. As in
    WikiSQL's own convention the aggregate stands before the column without brackets.
    """
    table, sql = row["table"], row["sql"]
    header = [_text(name) for name in table["header"]]
    aggregate = SQL_AGGREGATES[sql["agg"]]
    query = f"SELECT {aggregate + ' ' if aggregate else ''}{header[sql['sel']]} FROM {table['id']}"
    conditions = [
        f"{header[column]} {SQL_OPERATORS[operator]} {_sql_value(value, table['types'][column])}"
        for column, operator, value in _conditions(sql["conds"])
    ]
    if conditions:
        query += " WHERE " + " AND ".join(conditions)
    described = f"table: {table['id']}\ncolumns: {', '.join(header)}"
    return {"table": described, "question": _text(row["question"]), "sql": query}


def _conditions(conditions: Any) -> Sequence[tuple[int, int, Any]]:
    columns, operators = conditions["column_index"], conditions["operator_index"]
    return list(zip(columns, operators, conditions["condition"], strict=True))


def _sql_value(value: Any, kind: str) -> str:
    return f"'{_text(value)}'" if kind == "text" else _text(value)


@_converter
def mmlu(row: Row) -> Row | None:
    """`question`, `choices`, `answer` (0-based) to one text; choices are numbered from 0."""
    choices = "\n".join(f"{number}: {_text(text)}" for number, text in enumerate(row["choices"]))
    return {"prompt": f"{row['question'].strip()}\n\n{choices}", "completion": str(row["answer"])}


@_converter
def arc(row: Row) -> Row | None:
    """`question`, `choices`, `answerKey` to one text; choices 1 to 5 become A to E."""
    labels = list(row["choices"]["label"])
    letters = ARC_LETTERS[: len(labels)]
    if row["answerKey"] not in labels:
        return None
    choices = "\n".join(
        f"{letter}: {_text(text)}"
        for letter, text in zip(letters, row["choices"]["text"], strict=True)
    )
    return {
        "realized_prompt": f"{row['question'].strip()}\n\n{choices}",
        "answerKey": letters[labels.index(row["answerKey"])],
    }


@_converter
def hellaswag(row: Row) -> Row | None:
    """`ctx`, `endings`, `label` (text) to the endings as Python list text and an integer label."""
    if row["label"] == "":
        return None  # the hub's test split hides its labels
    return {"ctx": row["ctx"], "endings": str(list(row["endings"])), "label": int(row["label"])}


@_converter
def hellaswag_processed(row: Row) -> Row | None:
    """`ctx`, `endings`, `label` to the context and the one right ending."""
    if row["label"] == "":
        return None
    return {"ctx": row["ctx"], "correct_ending": _text(row["endings"][int(row["label"])])}


@_converter
def dbpedia(row: Row) -> Row | None:
    """`label` (0-based id) to the name of the class."""
    return {
        "title": row["title"].strip(),
        "content": row["content"].strip(),
        "label": DBPEDIA_CLASSES[row["label"]],
    }


@_converter
def drop(row: Row) -> Row | None:
    """`answers_spans` to the first span."""
    spans = row["answers_spans"]["spans"]
    if not spans:
        return None
    return {"passage": row["passage"], "question": row["question"], "answer": _text(spans[0])}


@_converter
def reuters(row: Row) -> Row | None:
    """`topics` (a list) to text, joined by commas; an article without a topic has no answer."""
    if not row["topics"] or not row["text"]:
        return None
    topics = ", ".join(row["topics"])
    return {"title": _text(row["title"] or ""), "text": _text(row["text"]), "topics": topics}


@_converter
def boolq(row: Row) -> Row | None:
    """`answer` (bool) to 'True' or 'False'."""
    return {
        "passage": row["passage"],
        "question": row["question"],
        "answer": "True" if row["answer"] else "False",
    }


@_converter
def stsb(row: Row) -> Row | None:
    """`label` (single precision) to the three decimals that were published."""
    return {**row, "label": round(float(row["label"]), 3)}


@_converter
def winogrande(row: Row) -> Row | None:
    """`answer` ('1' or '2') to an integer."""
    return {**row, "answer": int(row["answer"])} if row["answer"] else None


@_converter
def one_line(row: Row) -> Row | None:
    """Every text column on one line: for data sets whose short answers carry stray line breaks."""
    return {name: _text(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
