from __future__ import annotations

import io

import pytest
from rich.console import Console

from loraland import display_matrix
from loraland.adapters.card import Score
from loraland.display import CellProgress, score_table
from loraland.matrix.cell import FINISHED, CellEvent

SCORE = Score(
    metric="sql_execution",
    items=1000,
    mean=0.725,
    low=0.571,
    high=0.839,
    base_mean=0.025,
    base_low=0.004,
    base_high=0.129,
    lift=0.7,
    lift_low=0.532,
    lift_high=0.812,
    unparsable=12,
    base_unparsable=940,
    failures=3,
    confidence=0.95,
    samples="a",
    base_samples="b",
    data_source="c",
    created="2026-01-31T12:00:00+00:00",
)


def drawn(width: int, *rows: tuple[str, Score]) -> str:
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    screen.print(score_table(rows))
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_score_fits_into_eighty_columns_whole() -> None:
    text = drawn(80, ("smollm2-135m/entities@3f9a1c0b77de", SCORE))
    for part in ("@3f9a1c0b77de", "sql_execution", "12 of 1000", "0.57..0.84", "+0.53..+0.81"):
        assert part in text
    assert "base 940" in text
    assert "…" not in text


def test_lost_answers_are_told_under_the_table() -> None:
    text = " ".join(drawn(200, ("a/b", SCORE)).split())
    assert "3 answers failed and count as wrong" in text
    assert "95% intervals" in text


def test_progress_without_a_terminal_is_lines() -> None:
    from loraland import display

    screen = Console(file=io.StringIO(), width=200, force_terminal=False)
    before, display.err = display.err, screen
    try:
        with CellProgress(["a/b"]) as progress:
            progress.show(CellEvent("a/b", "train", 3, 24, 1.5))
            progress.show(CellEvent("a/b", "train", 12, 24, 0.5, 0.25))
            progress.show(CellEvent("a/b", "train", 24, 24, 0.1, 0.2))
    finally:
        display.err = before
    lines = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "a/b: training 12/24, loss 0.500, validation 0.250" in lines
    assert "training 3/24" not in lines


def test_progress_of_a_matrix_without_a_terminal_is_a_line_for_each_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Console(file=io.StringIO(), width=200, force_terminal=False)
    monkeypatch.setattr(display_matrix, "err", screen)
    with display_matrix.MatrixProgress(["a/b"]) as progress:
        progress.show(CellEvent("a/b", "train", 1, 24, 1.5, note="training"))
        progress.show(CellEvent("a/b", "train", 2, 24, 1.4, note="training"))
        progress.show(CellEvent("a/b", "judge", 1, 100))
        progress.show(CellEvent("a/b", FINISHED, 1, 1))
    lines = [line.strip() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    told = [line for line in lines if line.startswith("a/b")]
    assert told == ["a/b: training", "a/b: judge", "a/b done"]
