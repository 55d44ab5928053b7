"""Finished cells of two rehearsed bases that want answers: which, how many, and their scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pyarrow import parquet
from typer.testing import CliRunner

from loraland.adapters.registry import Registry
from loraland.cli import app
from loraland.engine.batched import BatchedEngine
from loraland.errors import InvalidConfiguration, UnknownModel
from loraland.evaluation.parts import FOLDER as PARTS
from loraland.evaluation.parts import has_samples, kept_answers
from loraland.evaluation.samples import read_samples
from loraland.matrix.asking import ask_column
from loraland.matrix.cell import Cell, CellEvent
from loraland.matrix.columns import Column, cells_of, plan
from loraland.matrix.ledger import CellRecord, Ledger
from loraland.matrix.rescoring import rescore
from loraland.matrix.run import run_cell
from loraland.matrix.space import Space, load_space
from loraland.matrix.table import table_path
from loraland.storage import Storage

pytestmark = pytest.mark.slow

SPACE = {
    "name": "asked",
    "bases": ["tiny-mistral-7b", "tiny-phi-2"],
    "tasks": ["viggo", "glue_stsb"],
    "data": "rehearsal",
    "recipe": "report",
    "changes": {
        "precision": "fp32", "learning_rate": 0.01, "warmup_share": 0.0, "examples_seen": 8,
        "examples_per_update": 4, "gradient_checkpointing": False, "evaluate_every": 1,
    },
    "max_examples": 12,
    "max_items": 2,
    "resources": {"*": {"cpus": 1, "gpus": 0}},
    "retry_collapsed": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the space and the storage of its four finished cells."""
    root = tmp_path_factory.mktemp("trained")
    (root / "asked.yaml").write_text(yaml.safe_dump(SPACE))
    storage = Storage.open(str(root / "storage"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORALAND_CACHE", str(root / "cache"))
        for cell in load_space(str(root / "asked.yaml")).cells:
            Ledger(storage).record_result(cell, run_cell(cell, storage), seconds=1.0)
    yield root


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one test."""
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    monkeypatch.setenv("LORALAND_STORAGE", str(copy / "storage"))
    monkeypatch.setenv("LORALAND_CACHE", str(copy / "cache"))
    return copy


@pytest.fixture
def storage(place: Path) -> Storage:
    return Storage.open(str(place / "storage"))


@pytest.fixture
def space(place: Path) -> Space:
    return load_space(str(place / "asked.yaml"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The id of every request that an engine takes in."""
    seen: list[str] = []
    submit = BatchedEngine.submit

    def note(self: BatchedEngine, request: Any) -> Any:
        seen.append(request.id)
        return submit(self, request)

    monkeypatch.setattr(BatchedEngine, "submit", note)
    return seen


def ask(space: Space, storage: Storage, max_items: int | None = None) -> list[Column]:
    """Ask and score a space; nothing may go wrong."""
    found = plan(space.cells, storage, max_items)
    assert found.troubles == []
    for column in found.columns:
        assert ask_column(column, storage).troubles == []
        assert rescore(column.candidates, storage).troubles == []
    return found.columns


def records(space: Space, storage: Storage) -> list[CellRecord]:
    found = Ledger(storage).results(space.cells)
    return [found[cell.id] for cell in space.cells]


def contents(storage: Storage) -> dict[str, bytes]:
    tops = ("adapters", "cells", "samples", PARTS)
    paths = [f"{top}/{path}" for top in tops for path in storage.walk(top)]
    return {path: storage.read(path) for path in paths}


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_whole_cells_want_nothing_and_their_data_is_not_looked_at(
    space: Space, storage: Storage, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr("loraland.matrix.columns.load_split", refuse)
    before = contents(storage)
    columns = ask(space, storage)
    assert [column.label for column in columns] == ["tiny-mistral-7b (fp32)", "tiny-phi-2 (fp32)"]
    assert [column.sittings for column in columns] == [[], []]
    assert asked == []
    assert contents(storage) == before


@pytest.mark.parametrize("how", ["missing", "damaged", "short"])
def test_lost_answers_are_asked_again_and_the_score_is_as_it_was(
    space: Space, storage: Storage, asked: list[str], how: str
) -> None:
    before = records(space, storage)
    lost = before[1].score.samples
    if how == "missing":
        storage.delete(lost)
    else:
        content = storage.read(lost)
        storage.write(lost, content[:100] if how == "damaged" else content)
    if how == "short":
        from loraland.evaluation.samples import write_samples

        samples, stamp = read_samples(storage, lost)
        write_samples(storage, lost, samples[:1], stamp)
    [column, other] = plan(space.cells, storage).columns
    # A base is in a column once for each exam, beside the adapters.
    assert [sitting.model is None for sitting in column.sittings] == [True, False]
    assert other.sittings == []
    ask(space, storage)
    assert sorted(asked) == [f"{lost}#0", f"{lost}#1"]
    assert records(space, storage) == before
    assert len(read_samples(storage, lost)[0]) == 2
    assert storage.walk(PARTS) == []


def test_more_items_become_the_score_on_card_and_record(
    space: Space, storage: Storage, asked: list[str]
) -> None:
    ask(space, storage, 5)
    assert len(asked) == 4 * 2 * 3  # the first two of each model were known
    for record in records(space, storage):
        assert record.score.items == 5
        assert Registry(storage).card(record.model).scores == [record.score]
        assert len(read_samples(storage, record.score.samples)[0]) == 5
    asked.clear()
    ask(space, storage, 5)
    ask(space, storage, 3)  # never fewer than a score stands on
    assert asked == []
    assert {record.score.items for record in records(space, storage)} == {5}


def test_answers_of_a_base_are_asked_once_for_all_its_cells(
    space: Space, storage: Storage, asked: list[str]
) -> None:
    cells = [space.cells[0], replace(space.cells[0], seed=1)]
    Ledger(storage).record_result(cells[1], run_cell(cells[1], storage), seconds=1.0)
    asked.clear()
    [column] = plan(cells, storage, 4).columns
    assert len(column.candidates) == 2
    assert [sitting.model is None for sitting in column.sittings].count(True) == 1
    ask_column(column, storage)
    assert len(asked) == len(set(asked)) == 3 * 2
    assert rescore(column.candidates, storage).troubles == []


def test_a_deleted_adapter_is_a_trouble_of_its_cell_alone(space: Space, storage: Storage) -> None:
    gone = records(space, storage)[0].model
    registry = Registry(storage)
    registry.unalias(gone.split("@")[0] + ":latest")
    registry.delete(gone)
    found = plan(space.cells, storage, 3)
    [trouble] = found.troubles
    assert trouble.cell == space.cells[0] and isinstance(trouble.error, UnknownModel)
    assert [len(column.candidates) for column in found.columns] == [1, 2]
    assert plan(space.cells, storage).troubles == []  # its samples are whole: it wants nothing
    assert rescore(plan(space.cells, storage).columns[0].candidates, storage).troubles == []


def test_a_damaged_adapter_is_a_trouble_of_its_cell_alone(space: Space, storage: Storage) -> None:
    bad = records(space, storage)[2].model
    base, version = bad.split("@")
    storage.write(f"adapters/{base}/versions/{version}/adapter_model.safetensors", b"nothing")
    column = plan(space.cells, storage, 3).columns[1]
    asking = ask_column(column, storage)
    assert [trouble.cell for trouble in asking.troubles] == [space.cells[2]]
    assert asking.troubles[0].error.code == "storage_corrupt"
    assert asking.asked == 3  # of two bases and two adapters, one item each, but of the bad one
    found = rescore(column.candidates, storage)
    assert [one.cell for one in found.scored] == [space.cells[3]]
    assert [trouble.cell for trouble in found.troubles] == [space.cells[2]]


def test_another_base_of_that_name_is_refused(
    space: Space, storage: Storage, place: Path, asked: list[str]
) -> None:
    from loraland.bases.tiny import write_tiny

    [folder] = (place / "cache" / "tiny").glob("tiny-phi-2-*")
    shutil.rmtree(folder)
    write_tiny("phi", folder, seed=99)
    asking = ask_column(plan(space.cells, storage, 3).columns[1], storage)
    assert {trouble.cell for trouble in asking.troubles} == set(space.cells[2:])
    assert all("use the same weights" in trouble.error.message for trouble in asking.troubles)
    assert asked == []


def test_grading_needs_no_model_and_writes_only_what_a_grader_changed(
    space: Space, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("loraland.matrix.asking.load_base", refuse)
    cell, record = space.cells[0], records(space, storage)[0]
    before = storage.read(record.score.samples)
    outputs = [sample.output for sample in read_samples(storage, record.score.samples)[0]]
    [one] = rescore(plan([cell], storage).columns[0].candidates, storage).scored
    assert not one.changed and storage.read(record.score.samples) == before

    from loraland.evaluation import scoring
    from loraland.tasks.grading import Grade

    class Generous:
        def grade(self, output: str, item: object) -> Grade:
            return Grade(output, 1.0)

    monkeypatch.setattr(scoring, "grader_for", lambda *_: Generous())
    [one] = rescore(plan([cell], storage).columns[0].candidates, storage).scored
    assert one.changed and one.score.mean == one.score.base_mean == 1.0
    samples, stamp = read_samples(storage, record.score.samples)
    assert {sample.score for sample in samples} == {1.0}
    assert stamp["version"] == record.model.split("@")[1]
    assert Ledger(storage).results([cell])[cell.id].score == one.score
    assert Registry(storage).card(record.model).scores == [one.score]
    assert [sample.output for sample in samples] == outputs


def test_a_kill_between_samples_and_parts_leaves_nothing_behind(
    space: Space, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    [column, _] = plan(space.cells, storage, 3).columns
    ask_column(column, storage)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("loraland.evaluation.parts.drop_parts", die)
        with pytest.raises(KeyboardInterrupt):
            rescore(column.candidates, storage)
    sitting = column.candidates[0].sittings[0]  # type: ignore[index]
    assert has_samples(sitting, storage) and kept_answers(sitting, storage)
    found = rescore(column.candidates, storage)
    assert found.troubles == [] and all(one.changed for one in found.scored)
    assert storage.walk(PARTS) == []


def test_a_base_that_the_space_has_not_is_told(space: Space, storage: Storage) -> None:
    with pytest.raises(InvalidConfiguration, match="possible: tiny-mistral-7b, tiny-phi-2"):
        cells_of(space, storage, ["phi-2"])


def test_the_commands_ask_then_score_and_say_what_they_did(
    space: Space, storage: Storage, place: Path, asked: list[str]
) -> None:
    file = str(place / "asked.yaml")
    storage.delete(records(space, storage)[0].score.base_samples)
    graded = run("grade", file, "--json", code=1)
    told = json.loads(graded.stdout)
    assert (told["finished"], told["scored"], told["asked"]) == (4, 3, 0)
    [failed] = told["failed"]
    assert failed["code"] == "samples_missing" and "loraland generate" in failed["message"]
    told = json.loads(run("generate", file, "--json").stdout)
    assert (told["asked"], told["scored"], told["changed"], told["failed"]) == (2, 4, 0, [])
    told = json.loads(
        run("generate", file, "--base", "tiny-phi-2", "--max-items", "6", "--json").stdout
    )
    assert told["cells"] == told["scored"] == told["changed"] == 2
    assert (told["asked"], told["borrowed"]) == (16, 8)
    rows = parquet.read_table(Path(storage.root) / table_path(space)).to_pylist()
    assert [row["items"] for row in rows] == [2, 2, 6, 6]
    shown = " ".join(run("grade", file).stdout.split())
    assert "4 of 4 cells are finished; 0 answers were asked" in shown
    assert "possible: tiny-mistral-7b" in run("generate", file, "--base", "x", code=1).stderr
    assert "give --ray too" in run("generate", file, "--cpus", "1", code=1).stderr


def test_a_space_with_nothing_finished_says_what_finishes_it(tmp_path: Path) -> None:
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(SPACE))
    result = run("generate", str(tmp_path / "asked.yaml"))
    assert "loraland matrix run" in " ".join(result.stderr.split())


def workers() -> list[psutil.Process]:
    """The processes of this session's cluster that ask."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::_ask"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.ray
def test_bases_are_asked_as_tasks_and_a_killed_one_goes_on_from_its_parts(
    ray_cluster: Any, space: Space, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loraland.matrix.asking_on_ray import ask_on_ray
    from loraland.matrix.placement import Resources

    columns = plan(space.cells, storage, 60).columns
    kept: dict[str, int] = {}
    killed: list[int] = []

    def kill_once(event: CellEvent) -> None:
        if kept or event.cell != columns[0].label or not storage.walk(PARTS):
            return
        for process in workers():
            process.kill()
            killed.append(process.pid)
        for column in columns:
            answers = [len(kept_answers(s, storage)) for s in column.sittings]
            kept[column.label] = sum(answers)

    needs = {base: Resources(cpus=1) for base in space.bases}
    ended = ask_on_ray(columns, storage.uri, needs, 60, kill_once)
    assert [one.column for one in ended] == columns
    assert killed and sum(kept.values()) > 0
    for one in ended:
        assert one.asking.troubles == one.rescoring.troubles == []
        assert one.asking.asked <= 4 * 60 - kept[one.column.label]
        assert [scored.changed for scored in one.rescoring.scored] == [True, True]
    assert {record.score.items for record in records(space, storage)} == {60}
    assert storage.walk(PARTS) == []


@pytest.mark.ray
def test_a_task_that_dies_again_and_again_is_told_for_its_cells_alone(
    ray_cluster: Any, space: Space, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loraland.matrix import asking_on_ray
    from loraland.matrix.placement import Resources

    def die(job: dict[str, Any], events: object) -> None:
        import os

        if Cell.from_json(job["cells"][0]).base == "tiny-phi-2":
            os._exit(1)

    monkeypatch.setattr(asking_on_ray, "_ask", die)
    columns = plan(space.cells, storage, 3).columns
    needs = {base: Resources(cpus=1) for base in space.bases}
    ended = asking_on_ray.ask_on_ray(columns, storage.uri, needs, 3)
    assert {trouble.cell for trouble in ended[1].asking.troubles} == set(space.cells[2:])
    assert "start the command again" in ended[1].asking.troubles[0].error.message
