"""Where the results of a space come from, over all its cells: data, code, machines, dates. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loraland.adapters.card import Card
from loraland.report.content import CellPage


class TaskData(NamedTuple):
    """What the cells of a task were trained and judged on; several where they differ."""

    task: str
    metric: str
    items: tuple[int, ...]  # held out
    sources: tuple[str, ...]
    train: tuple[str, ...]  # fingerprints of the train rows
    held_out: tuple[str, ...]  # fingerprints of the held-out rows


class Making(NamedTuple):
    """By what, on what and when adapters were made; the distinct values over all cards."""

    cards: int
    commits: tuple[str, ...]  # with a word where the code was changed since
    packages: tuple[str, ...]
    hardware: tuple[str, ...]
    precisions: tuple[str, ...]
    first: str | None  # a cell was finished, ISO 8601, UTC
    last: str | None


def data_of_tasks(cells: Sequence[CellPage]) -> list[TaskData]:
    """A line per task, in the order of the cells."""
    found = []
    for task in dict.fromkeys(cell.row.task for cell in cells):
        those = [cell for cell in cells if cell.row.task == task]
        cards = [cell.card for cell in those if cell.card is not None]
        found.append(
            TaskData(
                task=task,
                metric=those[0].row.metric,
                items=tuple(sorted({cell.row.items for cell in those})),
                sources=_distinct(cell.record.score.data_source for cell in those),
                train=_distinct(card.data.fingerprint for card in cards),
                held_out=_distinct(cell.items_fingerprint for cell in those),
            )
        )
    return found


def making(cells: Sequence[CellPage]) -> Making:
    """What all cards say together."""
    cards = [cell.card for cell in cells if cell.card is not None]
    finished = sorted(cell.record.finished for cell in cells)
    return Making(
        cards=len(cards),
        commits=_distinct(commit_of(card) for card in cards),
        packages=_distinct(packages_of(card.packages) for card in cards),
        hardware=_distinct(card.hardware for card in cards),
        precisions=_distinct(card.precision for card in cards),
        first=finished[0] if finished else None,
        last=finished[-1] if finished else None,
    )


def commit_of(card: Card) -> str:
    """The commit that made an adapter, and whether the code was changed since."""
    return commit_words(card.git_commit, card.git_dirty)


def commit_words(commit: str | None, dirty: bool | None) -> str:
    """A commit in short."""
    if commit is None:
        return "outside a checkout"
    return commit[:12] + (" with changes that are not committed" if dirty else "")


def packages_of(packages: dict[str, str]) -> str:
    """`python 3.11.4, torch 2.13.0`."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))
