from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from loraland.adapters.card import Score
from loraland.errors import DataRefused, StorageCorrupt
from loraland.matrix.cell import Cell, CellResult
from loraland.matrix.ledger import COLLAPSED, RETRIED, CellStatus, Ledger
from loraland.matrix.space import Space, load_space
from loraland.matrix.table import results_table, write_table
from loraland.storage import Storage
from loraland.training.recipe import get_recipe

CELL = Cell("smollm2-135m", "dates", get_recipe("quick"), max_examples=60)


def score(mean: float = 0.75) -> Score:
    return Score(
        metric="iso_date",
        items=20,
        mean=mean,
        low=mean - 0.1,
        high=mean + 0.1,
        base_mean=0.25,
        base_low=0.1,
        base_high=0.4,
        lift=mean - 0.25,
        lift_low=mean - 0.45,
        lift_high=mean - 0.05,
        unparsable=1,
        base_unparsable=2,
        failures=0,
        confidence=0.95,
        samples="samples/a.parquet",
        base_samples="samples/b.parquet",
        data_source="generator:dates",
        created="2026-11-01T00:00:00+00:00",
    )


def result(cell: Cell, mean: float = 0.75) -> CellResult:
    return CellResult(
        cell.label, f"{cell.label}@0123456789ab", score(mean), "runs/1", True, ("short",)
    )


def publish(storage: Storage, *cells: Cell, version: str = "0123456789ab") -> None:
    """What a listing shows of the adapters of these cells."""
    for cell in cells:
        place = f"adapters/{cell.base_name}/{cell.task}/versions/{version}/card.json"
        storage.write(place, b"{}")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "storage"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each method of a storage was called."""
    counted: dict[str, int] = {}

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            counted[name] = counted.get(name, 0) + 1
            return method(*args)

        return call

    for name in ("read", "walk", "names", "exists"):
        monkeypatch.setattr(Storage, name, counting(name, getattr(Storage, name)))
    return counted


def states(found: list[CellStatus]) -> list[str]:
    return [status.state for status in found]


def test_a_cell_is_missing_then_failed_then_done(storage_uri: str) -> None:
    storage = Storage.open(storage_uri)
    ledger = Ledger(storage)
    publish(storage, CELL)
    assert ledger.status([CELL]) == [CellStatus(CELL, "missing")]
    ledger.record_failure(CELL, DataRefused("two rows overlap"), attempts=2)
    [failed] = ledger.status([CELL])
    assert failed.state == "failed"
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.message) == ("data_refused", "two rows overlap")
    assert failed.failure.attempts == 2
    written = ledger.record_result(
        CELL, result(CELL), seconds=12.3456, marks=[COLLAPSED, RETRIED], attempts=2
    )
    assert ledger.status([CELL]) == [CellStatus(CELL, "done")]
    assert ledger.results([CELL]) == {CELL.id: written}
    assert Cell.from_json(written.cell) == CELL
    assert (written.seconds, written.marks) == (12.346, ("collapsed", "retried"))
    assert written.warnings == ("short",)


def test_a_failure_after_a_result_changes_nothing(storage: Storage) -> None:
    ledger = Ledger(storage)
    publish(storage, CELL)
    ledger.record_result(CELL, result(CELL), seconds=1)
    ledger.record_failure(CELL, DataRefused("too late"))
    assert ledger.status([CELL]) == [CellStatus(CELL, "done")]


def test_the_status_of_310_cells_takes_a_listing_per_base_and_reads_failures_only(
    storage: Storage, calls: dict[str, int]
) -> None:
    space, ledger = load_space("rehearsal"), Ledger(storage)
    for cell in space.cells[:40]:
        ledger.record_result(cell, result(cell), seconds=1)
    publish(storage, *space.cells[:40])
    for cell in space.cells[35:45]:
        ledger.record_failure(cell, DataRefused("no"))
    calls.clear()
    found = ledger.status(space.cells)
    assert states(found) == ["done"] * 40 + ["failed"] * 5 + ["missing"] * 265
    assert calls == {"walk": 1 + 2, "read": 5}  # the adapters of both bases that have results


def test_cells_of_other_spaces_do_not_disturb(storage: Storage) -> None:
    ledger = Ledger(storage)
    publish(storage, CELL)
    ledger.record_result(replace(CELL, seed=1), result(CELL), seconds=1)
    assert states(ledger.status([CELL, replace(CELL, seed=1)])) == ["missing", "done"]


def test_a_write_that_was_killed_leaves_the_cell_as_it_was(storage: Storage) -> None:
    ledger = Ledger(storage)
    ledger.record_result(CELL, result(CELL), seconds=1)
    folder = Path(storage.locate(f"cells/{CELL.id}"))
    (folder / "result.json").rename(folder / f"result.json.{'0' * 32}.tmp")
    assert states(ledger.status([CELL])) == ["missing"]


def test_a_record_that_was_damaged_is_named(storage: Storage) -> None:
    ledger = Ledger(storage)
    ledger.record_result(CELL, result(CELL), seconds=1)
    storage.write(f"cells/{CELL.id}/result.json", b'{"format": 1, "label": 3}')
    with pytest.raises(StorageCorrupt, match=rf"cells/{CELL.id}/result.json is not a record"):
        ledger.results([CELL])
    publish(storage, CELL)
    assert states(ledger.status([CELL])) == ["done"]


def test_a_cell_whose_adapter_is_gone_is_lost_and_left_to_be_run(storage_uri: str) -> None:
    storage = Storage.open(storage_uri)
    ledger, other = Ledger(storage), replace(CELL, task="topics")
    for cell in (CELL, other):
        ledger.record_result(cell, result(cell), seconds=1)
    publish(storage, other)
    publish(storage, CELL, version="ffffffffffff")  # of another recipe
    assert states(ledger.status([CELL, other])) == ["lost", "done"]
    assert ledger.left([CELL, other]) == [CELL]
    assert set(ledger.results([CELL, other])) == {CELL.id, other.id}  # what was measured stays
    again = result(CELL)._replace(model=f"{CELL.label}@ffffffffffff")
    ledger.record_result(CELL, again, seconds=1)
    assert states(ledger.status([CELL])) == ["done"]
    assert [name for name in storage.names(f"cells/{CELL.id}") if "adapter" in name] == [
        "adapter-ffffffffffff"
    ]


def test_a_lost_cell_that_fails_when_it_is_run_again_has_failed(storage: Storage) -> None:
    ledger = Ledger(storage)
    ledger.record_failure(CELL, DataRefused("before it was done"))
    ledger.record_result(CELL, result(CELL), seconds=1)
    assert states(ledger.status([CELL])) == ["lost"]
    ledger.record_failure(CELL, DataRefused("the rows have changed"))
    [status] = ledger.status([CELL])
    assert status.state == "failed" and status.failure is not None
    assert status.failure.message == "the rows have changed"


def test_a_record_that_was_killed_before_its_end_is_made_again(storage: Storage) -> None:
    ledger = Ledger(storage)
    ledger.record_result(CELL, result(CELL), seconds=1)
    storage.write(f"cells/{CELL.id}/adapter-ffffffffffff", b"")  # as far as it came
    publish(storage, CELL, version="ffffffffffff")
    assert states(ledger.status([CELL])) == ["lost"]


def test_a_forgotten_cell_is_missing_again(storage: Storage) -> None:
    ledger = Ledger(storage)
    other = replace(CELL, seed=1)
    publish(storage, CELL)
    for cell in (CELL, other):
        ledger.record_result(cell, result(cell), seconds=1)
    ledger.forget([CELL])
    assert states(ledger.status([CELL, other])) == ["missing", "done"]


@settings(max_examples=15, deadline=None)
@given(events=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["result", "failure"]))))
def test_a_result_wins_over_failures_in_whatever_order_they_come(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, str]]
) -> None:
    storage = Storage.open(str(tmp_path_factory.mktemp("ledger")))
    ledger = Ledger(storage)
    publish(storage, CELL)
    cells = [replace(CELL, seed=seed) for seed in range(4)]
    for seed, kind in events:
        if kind == "result":
            ledger.record_result(cells[seed], result(cells[seed]), seconds=1)
        else:
            ledger.record_failure(cells[seed], DataRefused("no"))
    for seed, status in enumerate(ledger.status(cells)):
        kinds = {kind for number, kind in events if number == seed}
        expected = "done" if "result" in kinds else "failed" if kinds else "missing"
        assert status.state == expected


def test_the_table_has_a_row_per_finished_cell_in_the_order_of_the_space(
    storage: Storage,
) -> None:
    cells = tuple(replace(CELL, task=task) for task in ("dates", "topics", "sql"))
    space = Space("three", "", cells, {}, True)
    ledger = Ledger(storage)
    ledger.record_result(cells[2], result(cells[2], 0.5), seconds=2)
    ledger.record_result(cells[0], result(cells[0]), seconds=3, marks=[COLLAPSED], attempts=2)
    assert write_table(space, storage) == "spaces/three/results.parquet"
    table = parquet.read_table(io.BytesIO(storage.read("spaces/three/results.parquet")))
    assert table.equals(results_table(space, storage))
    first, second = table.to_pylist()
    assert (first["base"], first["task"], first["seed"]) == ("smollm2-135m", "dates", 0)
    assert (first["version"], first["metric"]) == ("0123456789ab", "iso_date")
    assert (first["score"], first["base_score"], first["lift"]) == (0.75, 0.25, 0.5)
    assert (first["lift_low"], first["lift_high"]) == (pytest.approx(0.3), pytest.approx(0.7))
    assert (first["seconds"], first["attempts"], first["marks"]) == (3, 2, ["collapsed"])
    assert (second["task"], second["score"], second["marks"]) == ("sql", 0.5, [])
    assert first["cell"] == cells[0].id


def test_the_table_of_nothing_has_its_columns(storage: Storage) -> None:
    table = results_table(Space("none", "", (CELL,), {}, True), storage)
    assert table.num_rows == 0
    assert {"base", "task", "lift", "marks"} <= set(table.column_names)
