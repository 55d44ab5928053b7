from __future__ import annotations

from pathlib import Path

from loraland.matrix.ledger import COLLAPSED
from loraland.matrix.space import Space
from loraland.report.content import Content, gather
from loraland.report.origins import data_of_tasks, making
from loraland.storage import Storage
from tests.report.fabricated import fabricate, finish, space_of, version_of


def test_every_cell_of_the_space_is_told_finished_or_not(content: Content) -> None:
    assert [cell.row for cell in content.cells] == list(content.board.rows)
    assert (len(content.cells), content.done, content.board.cells) == (10, 10, 12)
    failed, missing = content.unfinished
    assert (failed.state, failed.attempts) == ("failed", 3)
    assert failed.reason.startswith("training_diverged: the loss became NaN at update 7")
    assert (missing.state, missing.reason) == ("missing", "not run yet")
    assert content.cells[1].row.marks == (COLLAPSED,)


def test_a_cell_has_its_card_its_samples_and_no_more_of_them_than_asked(content: Content) -> None:
    for cell in content.cells:
        assert cell.card is not None and str(cell.card.name) == cell.row.model
        assert cell.excerpt is not None and len(cell.excerpt.shown) == 12
        assert cell.excerpt.total == 40 and cell.gaps == ()
        assert cell.items_fingerprint == f"items of {cell.row.task}"


def test_what_is_gone_from_storage_is_named(tmp_path: Path, space: Space) -> None:
    storage = Storage.open(str(tmp_path))
    fabricate(storage, space, items=6)
    first, second, third = space.cells[:3]
    storage.delete(f"adapters/{first.base}/{first.task}/versions/{version_of(first)}/card.json")
    storage.delete(f"samples/{second.base}/{second.task}/base-x.parquet")
    storage.write(
        f"adapters/{third.base}/{third.task}/versions/{version_of(third)}/card.json", b"{"
    )
    content = gather(space, storage)
    lost = content.unfinished[0]
    assert (lost.base, lost.task, lost.state) == (first.base, first.task, "lost")
    assert content.done == 9 and len(content.cells) == 10  # what was measured stays true
    assert "card cannot be read" in content.cells[0].gaps[0] and content.cells[0].card is None
    assert "samples are gone" in content.cells[1].gaps[0] and content.cells[1].excerpt is None
    assert "card cannot be read" in content.cells[2].gaps[0]
    assert content.cells[3].gaps == ()


def test_a_space_of_which_nothing_is_finished_has_only_reasons(
    tmp_path: Path, space: Space
) -> None:
    content = gather(space, Storage.open(str(tmp_path)))
    assert content.cells == () and len(content.unfinished) == 12


def test_origins_are_told_once_and_differences_all(tmp_path: Path) -> None:
    storage, space = Storage.open(str(tmp_path)), space_of(["phi-2", "gemma-2b"], ["boolq"])
    for cell, outcomes in zip(space.cells, ("RRWR", "RRWRWW"), strict=True):
        finish(storage, cell, outcomes)
    cells = gather(space, storage).cells
    [one] = data_of_tasks(cells)
    assert one.items == (2, 3) and len(one.train) == len(one.held_out) == len(one.sources) == 1
    made = making(cells)
    assert made.cards == 2 and made.commits == ("0123456789ab",)
    assert made.packages == ("python 3.11.9, torch 2.13.0",)
    assert made.first is not None and made.last is not None and made.first <= made.last
