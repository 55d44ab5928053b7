"""Groups of cells: how they are cut, and what becomes of their cells."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import DataRefused, NotEnoughMemory, TrainingDiverged, UnknownTask
from loraland.matrix import group as groups
from loraland.matrix import run, work
from loraland.matrix.cell import Cell, CellFailure, CellResult
from loraland.matrix.collapse import Collapse
from loraland.matrix.group import AUTO, Group, grouped, run_group
from loraland.matrix.ledger import COLLAPSED, RETRIED, Ledger
from loraland.matrix.run import run_cell
from loraland.storage import Storage
from loraland.training.recipe import get_recipe

RECIPE = get_recipe("quick", precision="fp32", learning_rate=0.01, examples_seen=16, dropout=0.0)
SHORT = RECIPE.model_copy(update={"max_length": 9, "too_long": "refuse"})
TASKS = ["dates", "topics", "sql", "entities"]


def cell(base: object = "tiny-mistral-7b", task: str = "dates", **changes: object) -> Cell:
    return replace(Cell(str(base), task, RECIPE, max_examples=24, max_items=3), **changes)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "storage"))


@given(
    bases=st.lists(st.sampled_from("abc"), max_size=40),
    fuse=st.one_of(st.integers(1, 9), st.just(AUTO)),
)
def test_every_cell_is_in_one_group_with_its_like(bases, fuse):
    cells = [cell(base, seed=number) for number, base in enumerate(bases)]
    found = grouped(cells, fuse)
    assert sorted(c.seed for g in found for c in g.cells) == list(range(len(cells)))
    for made in found:
        assert len({c.base for c in made.cells}) == 1
        assert Group.from_json(made.to_json()) == made
        if fuse != AUTO:
            assert len(made.cells) <= max(1, 2 * fuse) and (fuse > 1 or len(made.cells) == 1)


def test_bases_in_different_precision_share_no_group():
    other = cell(recipe=RECIPE.model_copy(update={"precision": "nf4"}))
    assert [g.cells for g in grouped([cell(), other], 4)] == [(cell(),), (other,)]


@pytest.mark.parametrize("fuse", [1, 2])
def test_a_failing_cell_leaves_the_others_alone_and_all_have_records(storage, fuse):
    cells = [
        cell(task="dates"),
        cell(task="no-such-task"),
        cell(
            task="topics", recipe=RECIPE.model_copy(update={"max_length": 9, "too_long": "refuse"})
        ),
        cell(task="sql"),
    ]
    found = {o.cell.task: o for o in run_group(Group(tuple(cells), fuse), storage, lambda e: None)}
    assert isinstance(found["dates"].result, CellResult)
    assert isinstance(found["sql"].result, CellResult)
    for task, kind in (("no-such-task", UnknownTask), ("topics", DataRefused)):
        result = found[task].result
        assert isinstance(result, CellFailure) and isinstance(result.error, kind)
    states = [status.state for status in Ledger(storage).status(cells)]
    assert states == ["done", "failed", "failed", "done"]


def test_fused_cells_end_as_those_alone(storage, tmp_path):
    """Without dropout both loops give the same weights up to rounding."""
    cells = [cell(task=task) for task in TASKS]
    alone = Storage.open(str(tmp_path / "alone"))
    fused = {
        o.cell.task: o.result for o in run_group(Group(tuple(cells), 3), storage, lambda e: None)
    }
    for asked in cells:
        plain, other = run_cell(asked, alone), fused[asked.task]
        assert isinstance(other, CellResult)
        assert other.score.mean == plain.score.mean and other.score.items == 3
        assert (
            other.run != plain.run
        )  # dropout would make them differ: never one in place of the other


def test_a_group_goes_on_where_it_was(storage):
    cells = tuple(cell(task=task) for task in TASKS[:3])
    first = list(run_group(Group(cells[:2], 2), storage, lambda e: None))
    trained = []

    def note(event):
        if event.stage == "train":
            trained.append(event.cell)

    again = list(run_group(Group(cells, 2), storage, note))
    assert set(trained) == {cells[2].label}
    assert [o.result.model for o in again[:2]] == [o.result.model for o in first]


@pytest.mark.parametrize("second_collapses", [False, True])
def test_a_collapsed_cell_is_trained_once_more_and_marked(storage, monkeypatch, second_collapses):
    judged = []

    def collapse_of(asked, result, storage):
        judged.append(asked.recipe.learning_rate)
        is_first = asked.recipe == RECIPE
        return Collapse("constant", "3 of 3") if is_first or second_collapses else None

    monkeypatch.setattr(groups, "collapse_of", collapse_of)
    [found] = run_group(Group((cell(),)), storage, lambda e: None)
    assert judged == [0.01, pytest.approx(0.002)]
    assert found.marks == ((RETRIED, COLLAPSED) if second_collapses else (RETRIED,))
    record = Ledger(storage).results([cell()])[cell().id]
    assert record.attempts == 2 and record.marks == found.marks
    assert record.model == found.result.model

    [kept] = run_group(Group((cell(),), retry_collapsed=False), storage, lambda e: None)
    assert kept.marks == (COLLAPSED,)


def test_a_diverged_run_is_tried_once_more_too(storage, monkeypatch):
    def diverging(asked, *rest, **options):
        if asked.recipe == RECIPE:
            raise TrainingDiverged("the loss exploded")
        return run_cell(asked, *rest, **options)

    monkeypatch.setattr(run, "run_cell", diverging)
    monkeypatch.setattr(groups, "collapse_of", lambda *given: None)
    [kept] = run_group(Group((cell(),), retry_collapsed=False), storage, lambda e: None)
    assert isinstance(kept.result.error, TrainingDiverged)
    [found] = run_group(Group((cell(),)), storage, lambda e: None)
    assert found.marks == (RETRIED,) and isinstance(found.result, CellResult)
    assert Ledger(storage).status([cell()])[0].state == "done"


def test_what_takes_a_whole_group_down_is_put_down_for_each_cell(storage, monkeypatch):
    def load_base(*asked):
        raise NotEnoughMemory("no room")

    monkeypatch.setattr(work, "load_base", load_base)
    cells = (cell(task="dates"), cell(task="topics"))
    ended = list(run_group(Group(cells, 2), storage, lambda e: None))
    assert all(isinstance(outcome.result.error, NotEnoughMemory) for outcome in ended)
    assert [status.state for status in Ledger(storage).status(cells)] == ["failed"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("fuse", [1, 3])
def test_retries_load_a_base_only_when_that_of_the_others_is_gone(storage, monkeypatch, fuse):
    """The tasks `dates` and `sql` go wrong at first, one of them with an error."""
    held, most = [], []

    def load_base(*asked):
        gc.collect()
        loaded = load(*asked)
        held.append(weakref.ref(loaded.model))
        most.append(sum(model() is not None for model in held))
        return loaded

    def trouble(asked, found, storage):
        return None if asked.recipe != RECIPE or asked.task == "topics" else "went wrong"

    def judged(work, *rest, **options):
        if work.cell.task == "sql" and work.cell.recipe == RECIPE:
            raise TrainingDiverged("the loss exploded")
        return judge(work, *rest, **options)

    load, judge = work.load_base, run._judged
    monkeypatch.setattr(work, "load_base", load_base)
    monkeypatch.setattr(run, "_judged", judged)
    monkeypatch.setattr(groups, "_trouble", trouble)
    cells = tuple(cell(task=task) for task in ("dates", "topics", "sql"))
    groups_of = [Group(cells, fuse)] if fuse > 1 else [Group((one,)) for one in cells]
    ended = [o for group in groups_of for o in run_group(group, storage, lambda e: None)]
    assert set(most) == {1}
    assert len(most) == (2 if fuse > 1 else 5)  # all retries of a group share one base
    marks = {outcome.cell.task: outcome.marks for outcome in ended}
    assert marks == {"dates": (RETRIED,), "topics": (), "sql": (RETRIED,)}
    records = Ledger(storage).results(cells)
    assert {c.task: records[c.id].attempts for c in cells} == {"dates": 2, "topics": 1, "sql": 2}


def test_the_stored_answers_of_a_collapsed_adapter_tell(storage):
    """A random model that was hardly trained knows no topic."""
    asked = cell(task="topics", max_items=30, recipe=RECIPE.model_copy(update={"rank": 1}))
    found = groups.collapse_of(asked, run_cell(asked, storage), storage)
    assert found is not None and found.kind in ("constant", "chance")
