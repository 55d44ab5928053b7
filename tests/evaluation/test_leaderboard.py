from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyarrow import parquet
from typer.testing import CliRunner

from loraland.adapters.card import Score
from loraland.cli import app
from loraland.evaluation.comparison import Pairs
from loraland.evaluation.leaderboard import Judged, Leaderboard, Overlay, leaderboard
from loraland.evaluation.leaderboard_formats import (
    as_csv,
    as_json,
    as_parquet,
    records,
)
from loraland.evaluation.samples import Sample, write_samples
from loraland.evaluation.scoring import score as score_of
from loraland.evaluation.statistics import mean_interval, paired_interval
from loraland.matrix.cell import Cell, CellResult
from loraland.matrix.ledger import COLLAPSED, Ledger
from loraland.matrix.space import Space, load_space
from loraland.matrix.standings import standings
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task


def outcomes(wins: int, losses: int, both: int, neither: int) -> tuple[list[float], list[float]]:
    ours = [1.0] * (wins + both) + [0.0] * (losses + neither)
    theirs = [0.0] * wins + [1.0] * (both + losses) + [0.0] * neither
    return ours, theirs


def judged(
    base: str,
    task: str,
    wins: int = 0,
    losses: int = 0,
    both: int = 20,
    neither: int = 20,
    *,
    category: str = "Reasoning",
    stored: bool = True,
    **opponents: list[float],
) -> Judged:
    ours, theirs = outcomes(wins, losses, both, neither)
    mean, under = mean_interval(ours), mean_interval(theirs)
    lift = paired_interval(ours, theirs)
    units = tuple(f"item {n}" for n in range(len(ours)))
    score = Score(
        metric="accuracy", items=len(ours), mean=mean.mean, low=mean.low, high=mean.high,
        base_mean=under.mean, base_low=under.low, base_high=under.high, lift=lift.mean,
        lift_low=lift.low, lift_high=lift.high, unparsable=1, base_unparsable=2, failures=0,
        confidence=0.95, samples="a", base_samples="b", data_source="here",
        created="2026-01-31T12:00:00+00:00",
    )  # fmt: skip
    met = {"base": theirs, **opponents} if stored else {}
    pairs = {name: Pairs(np.array(ours), np.array(other), units) for name, other in met.items()}
    return Judged(base, task, category, f"{base}/{task}@0123456789ab", score, pairs)


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    """A clear winner, a clear loser, one that passes only uncorrected, and cells of no effect."""
    cells = [
        judged("phi-2", "drop", wins=30),
        judged("phi-2", "mmlu", losses=30, category="Knowledge"),
        judged("phi-2", "arc", wins=8, losses=1),  # p = 0.039
        judged("gemma-2b", "drop", wins=5, losses=5),
        judged("gemma-2b", "mmlu", category="Knowledge"),
        judged("gemma-2b", "arc", wins=9, stored=False),
    ]
    overlay = Overlay("report tuned", {("phi-2", "drop"): 0.5, ("phi-2", "none"): 0.9})
    return leaderboard("small", cells, 7, overlays=[overlay])


def test_an_adapter_beats_its_base_only_after_correction(board: Leaderboard) -> None:
    verdicts = {(row.base, row.task): row.against_base.verdict for row in board.rows}
    assert verdicts == {
        ("phi-2", "drop"): "better",
        ("phi-2", "mmlu"): "worse",
        ("phi-2", "arc"): "undecided",
        ("gemma-2b", "drop"): "undecided",
        ("gemma-2b", "mmlu"): "undecided",
        ("gemma-2b", "arc"): None,  # no samples, no claim
    }
    [claim] = board.claims
    assert (claim.better, claim.worse, claim.undecided, claim.untested) == (1, 1, 3, 1)
    assert (claim.tested, claim.uncorrected) == (5, 2)
    said = str(claim)
    assert said.startswith("1 of 5 adapters beat their base, 1 fall behind, 3 are undecided")
    assert "uncorrected it would be 2" in said and "1 more have no samples" in said


def test_the_milder_correction_may_find_more() -> None:
    cells = [judged("phi-2", f"task{n}", wins=10, losses=1) for n in range(6)]  # p = 0.012
    assert leaderboard("x", cells, 6, correction="holm").claims[0].better == 0
    mild = leaderboard("x", cells, 6, correction="bh").claims[0]
    assert mild.better == 6 and "Benjamini-Hochberg" in str(mild)


def test_what_the_correction_asks_for_is_shown_as_a_greater_detectable_lift(
    board: Leaderboard,
) -> None:
    duel = board.rows[0].against_base
    assert duel.detectable is not None and duel.detectable_corrected is not None
    assert 0 < duel.detectable < duel.detectable_corrected < 1


def test_means_weigh_cells_alike_and_count_verdicts(board: Leaderboard) -> None:
    lifts = {(row.base, row.task): row.against_base.lift.mean for row in board.rows}
    [everything] = board.of_kind("all")
    assert everything.cells == 6
    assert everything.lift == pytest.approx(np.mean(list(lifts.values())))
    assert (everything.better, everything.worse) == (1, 1)
    assert [one.name for one in board.of_kind("base")] == ["phi-2", "gemma-2b"]
    assert [one.name for one in board.of_kind("task")] == ["drop", "mmlu", "arc"]
    [knowledge] = [one for one in board.of_kind("category") if one.name == "Knowledge"]
    assert knowledge.cells == 2 and knowledge.worse == 1
    assert knowledge.lift == pytest.approx((lifts["phi-2", "mmlu"] + 0.0) / 2)
    assert knowledge.lift_low is not None and knowledge.lift_high is not None
    assert knowledge.lift_low < knowledge.lift < knowledge.lift_high
    # A mean over a cell without samples has no interval.
    assert board.of_kind("base")[1].lift_low is None


def test_the_mean_of_one_cell_has_that_cell_s_interval() -> None:
    board = leaderboard("x", [judged("phi-2", "drop", wins=9, losses=3)], 1)
    lift = board.rows[0].against_base.lift
    assert {one[5:8] for one in board.marginals} == {tuple(lift)}


def test_items_that_two_bases_share_are_one_piece_of_evidence() -> None:
    same = [judged(base, "drop", wins=12, losses=6) for base in ("phi-2", "gemma-2b")]
    apart = [judged("phi-2", "drop", wins=12, losses=6), judged("phi-2", "arc", wins=12, losses=6)]
    [one] = leaderboard("x", same, 2).of_kind("all")
    [two] = leaderboard("x", apart, 2).of_kind("all")
    assert one.lift == two.lift
    assert one.lift_high - one.lift == pytest.approx(2**0.5 * (two.lift_high - two.lift), rel=0.05)  # type: ignore[operator]


def test_an_endpoint_is_an_opponent_of_its_own() -> None:
    ours, theirs = outcomes(30, 0, 20, 20)
    cells = [
        judged("phi-2", "drop", wins=30, gpt=ours),  # as good as the adapter
        judged("phi-2", "arc", wins=30, gpt=theirs),
        judged("phi-2", "mmlu", wins=30),
    ]
    board = leaderboard("x", cells, 3)
    base, gpt = board.claims
    assert (base.better, base.tested) == (3, 3)
    assert (gpt.opponent, gpt.better, gpt.tested, gpt.untested) == ("gpt", 1, 2, 1)
    assert "1 of 2 adapters beat gpt" in str(gpt)
    found = records(board)
    assert [row["gpt_verdict"] for row in found] == ["undecided", "better", None]
    assert found[0]["gpt_lift"] == 0.0 and found[2]["gpt_lift"] is None


def test_a_study_without_a_finished_cell_claims_nothing() -> None:
    board = leaderboard("empty", [], 4)
    assert board.rows == board.marginals == ()
    assert board.claims[0].tested == 0
    assert as_csv(board) == ""
    assert parquet.read_table(io.BytesIO(as_parquet(board))).num_rows == 0
    assert json.loads(as_json(board))["finished"] == 0


def test_all_formats_tell_the_same_numbers(board: Leaderboard) -> None:
    told = records(board)
    assert json.loads(as_json(board))["rows"] == told
    table = parquet.read_table(io.BytesIO(as_parquet(board)))
    assert table.to_pylist() == told
    stamp = json.loads(table.schema.metadata[b"loraland"])
    assert stamp["name"] == "small" and stamp["claims"][0]["better"] == 1
    lines = list(csv.DictReader(io.StringIO(as_csv(board))))
    assert list(lines[0]) == list(told[0])
    assert [float(line["lift"]) for line in lines] == [row["lift"] for row in told]
    assert lines[0]["report tuned"] == "0.5" and lines[1]["report tuned"] == ""
    assert lines[5]["p_value"] == ""


# From storage, and as a user types it


SPACE = {
    "name": "small",
    "bases": ["smollm2-135m"],
    "tasks": ["dates", "topics", "sql"],
    "recipe": "quick",
    "max_items": 40,
}
MakeCell = Callable[..., CellResult]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "storage"))
    return Storage.open(str(tmp_path / "storage"))


@pytest.fixture
def space_file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return str(path)


def answers(scores: list[float]) -> list[Sample]:
    return [
        Sample(n, f"q {n}", "t", "{}", "o", "o", score, None, "stop", 1, 1, 1.0)
        for n, score in enumerate(scores)
    ]


def finish(storage: Storage, cell: Cell, wins: int, losses: int, marks: tuple[str, ...]) -> None:
    """The record and samples that a judged cell leaves."""
    ours, theirs = map(answers, outcomes(wins, losses, 10, 40 - 10 - wins - losses))
    folder = f"samples/{cell.base_name}/{cell.task}"
    places = (f"{folder}/0123456789ab-x.parquet", f"{folder}/base-x.parquet")
    for place, samples in zip(places, (ours, theirs), strict=True):
        write_samples(storage, place, samples, {})
    score = score_of(get_task(cell.task), ours, theirs, *places, "here")
    result = CellResult(cell.label, f"{cell.label}@0123456789ab", score, "runs/1", True, ())
    Ledger(storage).record_result(cell, result, seconds=1.0, marks=marks)


@pytest.fixture
def studied(storage: Storage, space_file: str) -> Space:
    """Two of three cells are done."""
    space = load_space(space_file)
    finish(storage, space.cells[0], 25, 0, ())
    finish(storage, space.cells[1], 4, 2, (COLLAPSED,))
    return space


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["leaderboard", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_a_space_s_finished_cells_are_read_with_their_samples(
    storage: Storage, studied: Space
) -> None:
    cells = standings(studied, storage)
    assert [cell.task for cell in cells] == ["dates", "topics"]
    assert [cell.marks for cell in cells] == [(), (COLLAPSED,)]
    assert all(len(cell.opponents["base"].ours) == 40 for cell in cells)
    storage.delete("samples/smollm2-135m/dates/base-x.parquet")
    assert [list(cell.opponents) for cell in standings(studied, storage)] == [[], ["base"]]


def test_the_command_shows_claims_the_matrix_and_means(
    storage: Storage, studied: Space, space_file: str
) -> None:
    shown = " ".join(run(space_file, "--cells").stdout.split())
    assert "small: 2 of 3 cells" in shown
    assert "1 of 2 adapters beat their base" in shown
    assert "+62" in shown and "a smollm2-135m" in shown and "collapsed" in shown


def test_a_narrow_screen_loses_no_figure_of_a_cell(
    storage: Storage, studied: Space, space_file: str
) -> None:
    lines = run(space_file, "--cells", "--published").stdout.splitlines()
    [line] = [line for line in lines if "smollm2-135m/dates" in line]
    assert "…" not in line
    assert "+0.625" in line and "0.875" in line and "0.250" in line


def test_the_command_writes_files(
    storage: Storage, studied: Space, space_file: str, tmp_path: Path
) -> None:
    assert len(json.loads(run(space_file, "--format", "json").stdout)["rows"]) == 2
    assert run(space_file, "--format", "csv").stdout.startswith("base,task,category")
    out = tmp_path / "board.parquet"
    run(space_file, "--format", "parquet", "--out", str(out))
    assert parquet.read_table(out).num_rows == 2
    assert "name a file" in run(space_file, "--format", "parquet", code=1).stderr


def test_an_endpoint_s_samples_are_found_by_their_items(
    storage: Storage, studied: Space, space_file: str
) -> None:
    write_samples(storage, "samples/gpt-x/dates/other.parquet", answers([1.0] * 39), {})
    write_samples(storage, "samples/gpt-x/dates/same.parquet", answers([0.0] * 40), {})
    found = json.loads(run(space_file, "--endpoint", "gpt-x", "--format", "json").stdout)
    assert [row["gpt-x_verdict"] for row in found["rows"]] == ["better", None]
    said = " ".join(run(space_file, "--endpoint", "gpt-y", code=1).stderr.split())
    assert "did you mean 'gpt-x'?" in said


def test_an_unfinished_study_says_what_to_do(storage: Storage, space_file: str) -> None:
    said = run(space_file)
    assert "0 of 3 cells" in said.stdout and "loraland matrix run" in said.stderr
