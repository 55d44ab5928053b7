"""The classical baseline as a column: same items, same metric, samples like everybody's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner

from loraland.cli import app
from loraland.errors import DataRefused, InvalidConfiguration, InvalidName, TrainingDiverged
from loraland.evaluation.comparison import same_items
from loraland.evaluation.leaderboard import leaderboard
from loraland.evaluation.samples import read_samples, write_samples
from loraland.evaluation.scoring import score as score_of
from loraland.matrix.cell import CellResult
from loraland.matrix.ledger import Ledger
from loraland.matrix.questions import questions_of, questions_on
from loraland.matrix.space import parse_space
from loraland.matrix.standings import standings
from loraland.recurrent.baseline import Baseline, judge
from loraland.recurrent.text import Bytes, Subwords, TextRecipe, predict, train_classifier
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

QUICK = TextRecipe(
    units="bytes", embedding=8, hidden=12, epochs=12, rows=8, learning_rate=0.02, most_units=40
)
FRUIT, STONES = ("apple", "pear", "plum", "cherry"), ("granite", "basalt", "marble", "slate")


def made_up(count: int, words: int = 3) -> tuple[list[list[str]], list[str]]:
    """Texts of fruit or of stones."""
    torch.manual_seed(0)
    items, targets = [], []
    for n in range(count):
        kind = (FRUIT, STONES)[n % 2]
        chosen = [kind[one] for one in torch.randint(4, (words,)).tolist()]
        items.append([" ".join(chosen)])
        targets.append(("fruit", "stone")[n % 2])
    return items, targets


def test_a_classifier_learns_what_can_be_learned_the_same_each_time() -> None:
    items, targets = made_up(240)
    for units in ("bytes", "subwords"):
        recipe = QUICK.model_copy(update={"units": units})
        first = train_classifier(items[:200], targets[:200], ["fruit", "stone"], recipe)
        said = predict(first.classifier, first.encode(items[200:]))
        right = sum(("fruit", "stone")[n] == t for n, t in zip(said, targets[200:], strict=True))
        assert right >= 36
        assert len(first.curve) == 12 and first.curve[-1][1] < first.curve[0][1]
    again = train_classifier(items[:200], targets[:200], ["fruit", "stone"], recipe)
    assert (
        again.curve == first.curve and predict(again.classifier, again.encode(items[200:])) == said
    )


def test_fields_are_cut_each_for_itself() -> None:
    items = [["a" * 500, "bc"]] * 6 + [["a" * 500, "de"]] * 6
    trained = train_classifier(items, ["x"] * 6 + ["y"] * 6, ["x", "y"], QUICK)
    [ids] = trained.encode([["a" * 500, "bc"]])
    assert ids == [98] * 40 + [0, 99, 100]
    assert trained.encode([["", ""]]) == [[0]]


def test_units_cover_any_text() -> None:
    assert Bytes().ids("é") == [0xC3 + 1, 0xA9 + 1] and max(Bytes().ids("é€😀")) < Bytes().size()
    learned = Subwords(["the cat sat on the mat"] * 5, 300)
    assert len(learned.ids("the cat")) < len("the cat")
    assert min(learned.ids("é€😀 ~")) > 0 and max(learned.ids("é€😀 ~")) < learned.size()


def test_a_window_longer_than_a_text_sees_zeros() -> None:
    items, targets = made_up(30, words=1)
    recipe = QUICK.model_copy(update={"window": 9, "epochs": 1})
    trained = train_classifier([["a"], *items], ["fruit", *targets], ["fruit", "stone"], recipe)
    assert len(predict(trained.classifier, trained.encode([["a"], ["b"]]))) == 2


def test_data_that_cannot_be_learned_is_refused() -> None:
    items, targets = made_up(20)
    with pytest.raises(DataRefused, match="at least two labels"):
        train_classifier(items, targets, ["fruit"], QUICK)
    with pytest.raises(DataRefused, match="'stone', which is no label"):
        train_classifier(items, targets, ["fruit", "gem"], QUICK)
    with pytest.raises(DataRefused, match="too few"):
        train_classifier(items[:5], targets[:5], ["fruit", "stone"], QUICK)
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        loud = QUICK.model_copy(update={"learning_rate": 3e37})
        train_classifier(items, targets, ["fruit", "stone"], loud)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A folder with a made-up glue_qnli, and an empty storage."""
    items, targets = made_up(80)
    for split, part in (("train", slice(0, 60)), ("test", slice(60, 80))):
        place = tmp_path / "data" / "glue_qnli" / f"{split}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"question": f"what is it, {n}?", "sentence": one[0], "label": str(int(t == "stone"))}
            for n, (one, t) in enumerate(zip(items[part], targets[part], strict=True))
        ]
        parquet.write_table(pa.Table.from_pylist(rows), place)
    monkeypatch.setenv("LORALAND_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "storage"))
    return Storage.open(str(tmp_path / "storage"))


def test_a_column_answers_the_items_of_the_others_and_is_trained_once(data: Storage) -> None:
    [(task, split)] = questions_on(["glue_qnli"], 15)
    epochs: list[int] = []
    column = Baseline("lstm", QUICK)
    first = judge(column, task, split, data, lambda _, epoch, *rest: epochs.append(epoch))
    assert epochs == list(range(1, 13)) and first.score.mean > 0.8
    samples, stamp = read_samples(data, first.samples)
    assert first.samples.startswith("samples/lstm/glue_qnli/lstm-")
    assert [one.prompt for one in samples] == [one.prompt for one in split.items()]
    assert same_items(samples, samples) and {one.parsed for one in samples} <= {"0", "1"}
    assert stamp["recurrent"]["train_rows"] == 60 and stamp["task"] == "glue_qnli"
    again = judge(column, task, split, data, lambda *_: pytest.fail("it was trained again"))
    assert (again.score, again.samples) == (first.score, first.samples)
    other = judge(replace(column, seed=1), task, split, data)
    assert other.samples != first.samples


def test_a_killed_training_leaves_no_samples(data: Storage) -> None:
    [(task, split)] = questions_on(["glue_qnli"], 15)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(Baseline("lstm", QUICK), task, split, data, stop)
    assert data.walk("samples") == []


def test_a_task_with_open_answers_and_a_name_that_is_a_path_are_refused(data: Storage) -> None:
    [(task, split)] = questions_on(["glue_qnli"], 5)
    with pytest.raises(InvalidConfiguration, match="needs labels"):
        judge(Baseline(), get_task("viggo"), split, data)
    with pytest.raises(InvalidName):
        judge(Baseline("../up"), task, split, data)


def test_the_command_judges_tasks_and_the_leaderboard_takes_the_column(data: Storage) -> None:
    asked = ["recurrent", "judge", "glue_qnli", "--max-items", "15", "--epochs", "1", "--json"]
    run = CliRunner().invoke(app, asked)
    assert run.exit_code == 0, run.output
    [found] = json.loads(run.stdout)
    assert found["items"] == 15 and found["majority"]["mean"] > 0.3
    shown = CliRunner().invoke(app, [*asked[:-1]])
    assert "glue_qnli" in shown.stdout and "epoch" not in shown.stderr
    board = CliRunner().invoke(app, ["leaderboard", "embedded", "--endpoint", "recurrent"])
    assert board.exit_code == 0, board.output
    missing = CliRunner().invoke(app, ["leaderboard", "embedded", "--endpoint", "recurent"])
    assert missing.exit_code == 1 and "did you mean 'recurrent'" in missing.stderr


def test_the_column_stands_beside_base_and_adapter_on_their_own_items(data: Storage) -> None:
    space = parse_space(
        "{name: mine, bases: [smollm2-135m], tasks: [glue_qnli], recipe: quick, max_items: 15}",
        "here",
    )
    [(task, split)] = questions_of(space)
    judged = judge(Baseline("lstm", QUICK), task, split, data)
    [cell] = space.cells
    answers = read_samples(data, judged.samples)[0]
    theirs = [replace(one, output="0", score=float(one.target == "0")) for one in answers]
    ours = [replace(one, output=one.target, parsed=one.target, score=1.0) for one in answers]
    places = [f"samples/smollm2-135m/glue_qnli/{name}-x.parquet" for name in ("adapter", "base")]
    for place, samples in zip(places, (ours, theirs), strict=True):
        write_samples(data, place, samples, {})
    score = score_of(task, ours, theirs, *places, split.source)
    result = CellResult(cell.label, f"{cell.label}@{'a' * 12}", score, "runs/1", True, ())
    Ledger(data).record_result(cell, result, seconds=1.0)
    board = leaderboard("mine", standings(space, data, ["lstm"]), 1)
    assert board.opponents == ("base", "lstm")
    duel = board.rows[0].duels["lstm"]
    assert duel.score.mean == judged.score.mean and duel.ours.mean == 1.0
    assert duel.lift.mean == pytest.approx(1 - judged.score.mean)
