"""What a report tells, gathered from storage; knows nothing of HTML or Markdown.

    cells/<id>/*.json, samples/**, adapters/<base>/<task>/versions/<version>/card.json

What is not there is named in words, never left out. Loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

from loraland.adapters.card import Card, utc_now
from loraland.adapters.registry import Registry
from loraland.errors import SamplesMissing, StorageCorrupt, UnknownModel
from loraland.evaluation.leaderboard import Leaderboard, Overlay, Row, leaderboard
from loraland.evaluation.samples import Sample, read_samples
from loraland.evaluation.significance import Correction
from loraland.matrix.cell import Cell
from loraland.matrix.ledger import CellRecord, CellStatus, Ledger, State
from loraland.matrix.provenance import git_state, package_versions
from loraland.matrix.searched import status_of
from loraland.matrix.space import Space
from loraland.matrix.standings import standings
from loraland.report.excerpt import Excerpt, excerpt
from loraland.storage import Storage

READERS = 16  # files that are read at once: on an object store each takes a request or two
MAX_SAMPLES = 24  # of a cell: 310 cells are then some 8 MB

REASONS: dict[State, str] = {
    "missing": "not run yet",
    "lost": "was finished, but its adapter is no longer in the registry; it will be run again",
}


@dataclass(frozen=True, slots=True)
class CellPage:
    """A finished cell."""

    id: str
    row: Row
    record: CellRecord
    card: Card | None
    excerpt: Excerpt | None
    items_fingerprint: str | None  # of the held-out rows
    gaps: tuple[str, ...]  # what is no longer in storage, and what that means


class Unfinished(NamedTuple):
    """A cell without a result that stands, and why."""

    base: str
    task: str
    state: State
    reason: str
    attempts: int | None  # None: never tried, as far as is known
    when: str | None  # of the failure, ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Content:
    """All that a report tells."""

    name: str
    description: str
    bases: tuple[str, ...]  # of the space, in its order; finished or not
    tasks: tuple[str, ...]
    board: Leaderboard
    cells: tuple[CellPage, ...]  # those of the board's rows, in their order
    unfinished: tuple[Unfinished, ...]
    done: int  # cells with a result and an adapter
    max_samples: int  # shown of a cell
    written: str  # ISO 8601, UTC
    packages: dict[str, str]  # that wrote the report
    commit: str | None
    dirty: bool | None


def gather(
    space: Space,
    storage: Storage,
    *,
    max_samples: int = MAX_SAMPLES,
    correction: Correction = "holm",
    endpoints: Sequence[str] = (),
    overlays: Sequence[Overlay] = (),
) -> Content:
    """Everything about a space as it is now. Raises StorageCorrupt and SamplesMissing."""
    statuses = status_of(space, storage)
    asked = tuple(status.cell for status in statuses)  # of a search, with what it found
    space = replace(space, cells=asked)
    judged = standings(space, storage, endpoints)
    board = leaderboard(space.name, judged, len(asked), correction=correction, overlays=overlays)
    commit, dirty = git_state()
    return Content(
        name=space.name,
        description=space.description,
        bases=tuple(dict.fromkeys(cell.base_name for cell in asked)),
        tasks=tuple(dict.fromkeys(cell.task for cell in asked)),
        board=board,
        cells=tuple(_pages(asked, board, storage, max_samples)),
        unfinished=tuple(_unfinished(one) for one in statuses if one.state != "done"),
        done=sum(status.state == "done" for status in statuses),
        max_samples=max_samples,
        written=utc_now(),
        packages=package_versions(),
        commit=commit,
        dirty=dirty,
    )


def _unfinished(status: CellStatus) -> Unfinished:
    cell, failure = status.cell, status.failure
    reason = REASONS.get(status.state, "failed; the record says no more")
    return Unfinished(
        cell.base_name,
        cell.task,
        status.state,
        f"{failure.code}: {failure.message}" if failure else reason,
        failure.attempts if failure else None,
        failure.failed if failure else None,
    )


def _pages(
    cells: Sequence[Cell], board: Leaderboard, storage: Storage, most: int
) -> list[CellPage]:
    records = Ledger(storage).results(cells)
    by_model = {records[cell.id].model: cell for cell in cells if cell.id in records}
    found = [(row, by_model[row.model]) for row in board.rows if row.model in by_model]
    with ThreadPoolExecutor(READERS) as readers:
        return list(
            readers.map(
                lambda one: _page(one[1].id, one[0], records[one[1].id], storage, most), found
            )
        )


def _page(cell_id: str, row: Row, record: CellRecord, storage: Storage, most: int) -> CellPage:
    gaps = []
    card = _card(row.model, storage)
    if card is None:
        gaps.append("Its card cannot be read: no curve, recipe or versions.")
    score, shown, fingerprint = record.score, None, None
    ours, theirs = _samples(score.samples, storage), _samples(score.base_samples, storage)
    if ours is None or theirs is None:
        gaps.append(
            "Its samples are gone: nothing to browse, and no test that a claim could rest on."
        )
    else:
        shown, fingerprint = excerpt(ours[0], theirs[0], most), ours[1]
    return CellPage(cell_id, row, record, card, shown, fingerprint, tuple(gaps))


def _card(model: str, storage: Storage) -> Card | None:
    try:
        return Registry(storage).card(model)
    except (UnknownModel, StorageCorrupt):
        return None


def _samples(path: str, storage: Storage) -> tuple[list[Sample], str | None] | None:
    """The samples of a file with the fingerprint of the rows that they answer."""
    try:
        samples, stamp = read_samples(storage, path)
    except SamplesMissing:
        return None
    return samples, stamp.get("data_fingerprint")
