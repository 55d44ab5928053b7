"""`loraland paper`, `heuristics` and `forecast`, as a user types them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loraland.cli import app


def run(*arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def test_paper_says_what_agrees_and_what_does_not() -> None:
    text = " ".join(run("paper").split())
    for number in ("0.3013", "0.6852", "0.3839", "0.0952", "301", "194", "224", "cannot be had"):
        assert number in text


def test_paper_as_json_has_everything() -> None:
    found = run("paper", "--json")
    claims = {(one["name"], one["printed"]): one for one in found["claims"]}
    assert claims["adapters above GPT-4", 224]["recomputed"] == 194
    assert claims["adapters above GPT-4", 224]["agrees"] is False
    assert claims["adapters above their base", 301]["agrees"] is True
    assert {name: len(lines) for name, lines in found["by"].items()} == {
        "base": 10, "task": 31, "category": 5,
    }  # fmt: skip
    assert found["overall"]["cells"] == 310
    assert found["bases"][0]["printed"]["above_gpt4"] == 27


def test_paper_as_csv() -> None:
    claims = list(csv.DictReader(io.StringIO(run("paper", "--csv"))))
    assert {"name", "source", "printed", "recomputed", "agrees", "why"} <= claims[0].keys()
    lines = list(csv.DictReader(io.StringIO(run("paper", "--by", "task", "--csv"))))
    assert [line["name"] for line in lines][-1] == "all"
    assert len(lines) == 32


@pytest.mark.parametrize("by", ["base", "task", "category"])
def test_paper_by_base_task_and_category(by: str) -> None:
    lines = {"base": "gemma-7b-instruct", "task": "hellaswag_processed", "category": "Coding"}
    assert lines[by] in run("paper", "--by", by)


def test_heuristics_of_a_generated_task_and_of_a_file(tmp_path: Path) -> None:
    found = run("heuristics", "topics", "--rows", "30", "--json")
    assert found["measured"] == 30
    assert found["source"] == "generator:topics"
    assert found["output_length"]["mean"] == 1
    assert "compressibility" in run("heuristics", "topics", "--rows", "30")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a b c", "completion": "d"}\n' * 4)
    found = run("heuristics", "--data", str(tmp_path), "--unit", "characters", "--json")
    assert (found["unit"], found["input_length"]["mean"]) == ("characters", 5)


def test_heuristics_without_a_task_stand_beside_figure_8() -> None:
    text = " ".join(run("heuristics").split())
    assert "over 15 tasks" in text
    assert "of the report's 22 do, none of them with lift" in text
    found = run("heuristics", "--json")
    assert len(found["correlations"]) == 98
    assert len(found["tasks"]) == 15


def test_mistakes_are_told() -> None:
    found = run("heuristics", "topics", "--data", "x", "--json", code=1)
    assert found["error"]["code"] == "invalid_configuration"
    assert run("forecast", "topic", "--json", code=1)["error"]["code"] == "task_not_found"
    assert run("heuristics", "--recount", "--json", code=1)["error"]["code"] == "source_unavailable"
    for useless in (
        ("forecast", "--base", "phi-2"),
        ("heuristics", "--tokenizer", "x"),
        ("heuristics", "topics", "--recount"),
        ("paper", "--csv"),
    ):
        error = run(*useless, "--json", code=1)["error"]
        assert error["code"] == "invalid_configuration", useless
    error = run("forecast", "viggo", "--base", "smollm2-135m", "--json", code=1)["error"]
    assert error["code"] == "base_not_found"


def test_forecast_of_a_task_of_the_report_shows_what_became_of_it() -> None:
    found = run("forecast", "boolq", "--base", "mistral-7b", "--json")
    [expected] = found["expected"]
    assert found["published"]["mistral-7b"] == 0.909
    assert expected["score_low"] <= expected["score"] <= expected["score_high"]
    assert len(found["nearest"]) == 3


def test_forecast_of_a_user_s_own_rows(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a b c", "completion": "d"}\n' * 40)
    text = run("forecast", "--data", str(tmp_path), "--base", "phi-2", "--base-score", "0.4")
    assert "phi-2" in text
    assert "most alike in the report" in text
