from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from loraland.adapters.registry import Registry
from loraland.errors import DataRefused, UnknownBase
from loraland.matrix.cell import Cell, CellEvent
from loraland.matrix.run import run_cell
from loraland.matrix.work import split_validation
from loraland.storage import Storage
from loraland.training.examples import Example
from loraland.training.recipe import Recipe, get_recipe

pytestmark = pytest.mark.slow

# A learning rate at which a random tiny model learns, and no more work than a test needs.
RECIPE: Recipe = get_recipe("quick", precision="fp32", learning_rate=0.01, checkpoint_every=1)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "storage"))


@pytest.fixture
def cell(tiny_folders: dict[str, Path]) -> Cell:
    return Cell(str(tiny_folders["llama"]), "dates", RECIPE, max_examples=60, max_items=5)


def run_in_a_process(cell: Cell, storage: Storage, die_at: tuple[str, int]) -> int:
    """Run a cell in a process that is killed with SIGKILL at an event; returns its exit code."""
    code = """
import json, os, signal, sys
from loraland.matrix.cell import Cell
from loraland.matrix.run import run_cell
from loraland.storage import Storage

cell, storage, stage, done = json.loads(sys.argv[1])

def kill(event):
    if (event.stage, event.done) == (stage, done):
        os.kill(os.getpid(), signal.SIGKILL)

run_cell(Cell.from_json(cell), Storage.open(storage), kill)
"""
    argument = json.dumps([cell.to_json(), storage.uri, *die_at])
    done = subprocess.run([sys.executable, "-c", code, argument], env=os.environ, check=False)
    return done.returncode


def test_a_cell_ends_with_a_published_and_judged_adapter(cell: Cell, storage: Storage) -> None:
    events: list[CellEvent] = []
    result = run_cell(cell, storage, events.append)
    assert result.cell == "tiny-llama/dates"
    assert result.trained
    [entry] = Registry(storage).list()
    assert str(entry.name) == result.model
    assert entry.aliases == ("latest",)
    assert entry.card.scores == [result.score]
    assert entry.card.data.train_rows + entry.card.data.validation_rows == 60
    assert entry.card.curve[-1].step == RECIPE.updates(entry.card.data.train_rows)
    assert entry.card.canary.max_difference > 0.01
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["data", "base", "train", "publish", "judge", "done"]
    assert storage.exists(result.score.samples)
    assert storage.exists(result.score.base_samples)


def test_a_finished_cell_is_not_run_again(cell: Cell, storage: Storage) -> None:
    first = run_cell(cell, storage)
    events: list[CellEvent] = []
    again = run_cell(cell, storage, events.append)
    assert again == first._replace(trained=False)
    assert not {"train", "judge"} & {event.stage for event in events}


def test_an_adapter_that_was_deleted_is_made_again_the_same(cell: Cell, storage: Storage) -> None:
    first = run_cell(cell, storage)
    storage.delete_folder("adapters")
    again = run_cell(cell, storage)
    assert again.trained
    assert again.model == first.model


@pytest.mark.parametrize("die_at", [("train", 2), ("publish", 0), ("judge", 1)])
def test_killed_with_sigkill_and_started_again_a_cell_ends_the_same(
    cell: Cell, storage: Storage, tmp_path: Path, die_at: tuple[str, int]
) -> None:
    whole = run_cell(cell, Storage.open(str(tmp_path / "whole")))
    assert run_in_a_process(cell, storage, die_at) == -signal.SIGKILL
    again = run_cell(cell, storage)
    assert again.model == whole.model
    assert again.score.model_dump(exclude={"created"}) == whole.score.model_dump(
        exclude={"created"}
    )
    assert len(Registry(storage).list()) == 1


def test_recipes_seeds_and_data_make_runs_of_their_own(cell: Cell, storage: Storage) -> None:
    from dataclasses import replace

    first = run_cell(cell, storage)
    others = [
        replace(cell, seed=1),
        replace(cell, max_examples=48),
        replace(cell, recipe=RECIPE.model_copy(update={"rank": 4})),
    ]
    models = {first.model} | {run_cell(other, storage).model for other in others}
    assert len(models) == 4


def test_bad_data_is_refused_before_the_base_is_loaded(
    cell: Cell, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loraland.tasks.catalogue import get_task

    task = get_task("dates")
    rows = {task.inputs[0]: ["1 May 2001", "2 May 2001"], task.target: ["2001-05-01", "never"]}
    folder = tmp_path / "data" / "dates"
    folder.mkdir(parents=True)
    parquet.write_table(pa.table(rows), folder / "train.parquet")
    parquet.write_table(pa.table(rows).slice(0, 1), folder / "test.parquet")
    monkeypatch.setenv("LORALAND_DATA", str(tmp_path / "data"))
    events: list[CellEvent] = []
    with pytest.raises(DataRefused) as caught:
        run_cell(cell, storage, events.append)
    assert "does not score 1 under 'iso_date' (1 rows)" in str(caught.value)
    assert "prompt is in the test split" in str(caught.value)
    assert "never" in str(caught.value)
    assert {event.stage for event in events} == {"data", "base"}
    assert storage.names("runs") == []


def test_an_unknown_base_is_told_at_once(cell: Cell, storage: Storage) -> None:
    from dataclasses import replace

    with pytest.raises(UnknownBase, match="did you mean 'phi-2'"):
        run_cell(replace(cell, base="phi-3"), storage)


def test_validation_is_held_out_and_seeded(cell: Cell) -> None:
    examples = [Example((number, 0), 1) for number in range(200)]
    training, validation = split_validation(examples, cell)
    assert len(validation) == RECIPE.validation_examples
    assert sorted([*training, *validation]) == examples
    assert split_validation(examples, cell) == (training, validation)
    training, validation = split_validation(examples[:10], cell)
    assert (len(training), len(validation)) == (8, 2)
    assert split_validation(examples[:1], cell) == (examples[:1], examples[:1])


def test_a_cell_travels_as_json(cell: Cell) -> None:
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell
