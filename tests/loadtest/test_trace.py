from __future__ import annotations

import json

import pytest

from loraland.errors import InvalidConfiguration
from loraland.loadtest.trace import read_trace

CSV = "time,adapter,prompt_tokens,new_tokens,note\n12.5,dates,100,8,later\n10,,50,4,first\n"


def test_csv_and_json_lines_give_the_same_rows_by_time_from_zero(tmp_path):
    (tmp_path / "t.csv").write_text(CSV)
    fields = [
        {"time": 12.5, "adapter": "dates", "prompt_tokens": 100, "new_tokens": 8, "user": "x"},
        {"time": 10, "adapter": "", "prompt_tokens": 50, "new_tokens": 4},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, fields)) + "\n\n")
    rows = read_trace(tmp_path / "t.csv")
    assert rows == read_trace(tmp_path / "t.jsonl")
    assert [(row.at_s, row.adapter, row.prompt_tokens) for row in rows] == [
        (0, "", 50),
        (2.5, "dates", 100),
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "time,adapter\n1,x\n", ["line 2: prompt_tokens", "line 2: new_tokens"]),
        ("a.csv", "time,adapter,prompt_tokens,new_tokens\n-1,x,0,1\n", ["time", "prompt_tokens"]),
        ("a.csv", "time,adapter,prompt_tokens,new_tokens\n", ["no rows"]),
        ("a.jsonl", "{\n[1]\n", ["line 1: no JSON object", "line 2: no JSON object"]),
        ("a.jsonl", '{"time": NaN, "adapter": "", "prompt_tokens": 1, "new_tokens": 1}', ["time"]),
        ("a.jsonl", "[" * 100_000, ["line 1: no JSON object"]),
        ("a.txt", "", [".csv, .jsonl"]),
        ("a.csv", b"\xff\xfe", ["cannot be read"]),
    ],
)
def test_every_mistake_of_a_trace_is_told_with_its_line(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidConfiguration) as caught:
        read_trace(path)
    for word in words:
        assert word in str(caught.value)


def test_a_trace_of_garbage_is_not_told_line_by_line_for_ever(tmp_path):
    (tmp_path / "a.jsonl").write_text("x\n" * 10_000)
    with pytest.raises(InvalidConfiguration) as caught:
        read_trace(tmp_path / "a.jsonl")
    assert len(str(caught.value).splitlines()) < 20


def test_a_missing_trace_is_named(tmp_path):
    with pytest.raises(InvalidConfiguration, match=r"no trace .*a\.csv"):
        read_trace(tmp_path / "a.csv")
