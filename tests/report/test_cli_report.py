from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from loraland.cli import app
from loraland.cli_report import report
from loraland.matrix.space import load_space
from loraland.report.content import MAX_SAMPLES
from loraland.report.overlays import report_figures
from loraland.storage import Storage
from tests.report.fabricated import fabricate

SPACE = {"name": "small", "bases": ["phi-2"], "tasks": ["boolq", "drop", "mmlu"], "recipe": "quick"}


@pytest.fixture
def space_file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return str(path)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "storage"))
    return Storage.open(str(tmp_path / "storage"))


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_command_writes_both_files(storage: Storage, space_file: str, tmp_path: Path) -> None:
    fabricate(storage, load_space(space_file), items=6)
    page, text = tmp_path / "there" / "report.html", tmp_path / "report.md"
    said = run(space_file, "--out", page, "--markdown", text, "--max-samples", 2, "--published")
    assert "wrote" in said.stderr and page.read_text().startswith("<!doctype html>")
    assert "this file holds" in page.read_text() and "report gpt-4" in page.read_text()
    assert "at most 2 pairs" in page.read_text()
    assert text.read_text().startswith("# small: 1 of 3 cells")
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_the_shown_default_is_that_of_the_library() -> None:
    assert signature(report).parameters["max_samples"].default == MAX_SAMPLES


def test_an_unfinished_study_is_reported_and_told_how_to_go_on(
    storage: Storage, space_file: str, tmp_path: Path
) -> None:
    said = run(space_file, "--out", tmp_path / "report.html")
    assert "loraland matrix run" in said.stderr
    assert "nothing to claim" in (tmp_path / "report.html").read_text()


def test_an_endpoint_that_was_never_asked_is_an_error(
    storage: Storage, space_file: str, tmp_path: Path
) -> None:
    run(space_file, "--out", tmp_path / "report.html", "--endpoint", "gpt-y", code=1)
    assert not (tmp_path / "report.html").exists()


def test_the_study_s_figures_stand_beside_ours() -> None:
    base, tuned, gpt = report_figures()
    assert tuned.scores["phi-2", "bc5cdr"] == 0.950
    assert base.scores["phi-2", "bc5cdr"] == pytest.approx(0.950 - 0.778)
    assert gpt.scores["phi-2", "bc5cdr"] == 0.890
    assert len(tuned.scores) == 310
