"""What people see in a terminal: progress of cells, tables of scores, adapters, tasks and bases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from loraland.adapters.card import Score
from loraland.adapters.registry import Entry
from loraland.bases.catalogue import Base
from loraland.matrix.cell import FAILED, FINISHED, CellEvent
from loraland.tasks.task import Task

out = Console()  # results
err = Console(stderr=True)  # progress and errors, so that a pipe gets results alone

_WORDS = {
    "data": "reading and checking the data",
    "base": "loading the base",
    "train": "training",
    "publish": "checking and publishing",
    "judge": "judging",
    "done": "done",
}


class CellProgress:
    """A bar per cell, fed with events; use as a context manager."""

    def __init__(self, labels: Sequence[str]) -> None:
        """A waiting bar for each cell of these labels."""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[label]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[losses]}"),
            console=err,
        )
        self._bars = {
            label: self._progress.add_task(
                "waiting", total=None, start=False, label=label, losses=""
            )
            for label in labels
        }

    def __enter__(self) -> CellProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: CellEvent) -> None:
        """Move the bar of the event's cell.

        On a screen that is no terminal, print the edges of stages.
        """
        if event.stage in (FINISHED, FAILED):
            return  # the caller shows what became of it
        bar = self._bars[event.cell]
        self._progress.start_task(bar)
        words = event.note or _WORDS.get(event.stage, event.stage)
        total = event.total or None
        self._progress.update(bar, description=words, completed=event.done, total=total)
        if event.loss is not None:
            self._progress.update(bar, losses=_losses(event))
        is_edge = event.done in (0, event.total) or event.validation_loss is not None
        if is_edge and not err.is_terminal:
            count = f" {event.done}/{event.total}" if event.total else ""
            losses = "" if event.loss is None else f", {_losses(event)}"
            err.print(f"{event.cell}: {words}{count}{losses}", highlight=False)


def _losses(event: CellEvent) -> str:
    validated = "" if event.validation_loss is None else f", validation {event.validation_loss:.3f}"
    return f"loss {event.loss:.3f}{validated}"


def score_table(rows: Iterable[tuple[str, Score]], title: str | None = None) -> Table:
    """Models with their scores, those of the base, and the lift with its interval."""
    rows = list(rows)
    caption = _caption([score for _, score in rows])
    # Right padding alone: the table fits into 80 columns.
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, caption=caption
    )
    table.add_column("model and metric", no_wrap=True)
    for name in ("base", "adapter", "lift", "unread"):
        table.add_column(name, justify="right", no_wrap=True)
    for model, score in rows:
        colour = "green" if score.lift_low > 0 else "red" if score.lift_high < 0 else "yellow"
        adapter, at, version = model.partition("@")
        table.add_row(
            f"{adapter}\n[dim]{at}{version} {score.metric}[/]",
            f"{score.base_mean:.3f}\n[dim]{score.base_low:.2f}..{score.base_high:.2f}[/]",
            f"{score.mean:.3f}\n[dim]{score.low:.2f}..{score.high:.2f}[/]",
            f"[{colour}]{score.lift:+.3f}\n{_interval(score)}[/]",
            f"{score.unparsable} of {score.items}\n[dim]base {score.base_unparsable}[/]",
        )
    return table


def _caption(scores: Sequence[Score]) -> str:
    failures = sum(score.failures for score in scores)
    intervals = {f"{score.confidence:.0%}" for score in scores}
    lost = f"; {failures} answers failed and count as wrong" if failures else ""
    return (
        f"{'/'.join(sorted(intervals))} intervals; lift: adapter minus base on the same items; "
        f"unread: answers not in the task's format{lost}"
    )


def adapter_table(entries: Iterable[Entry]) -> Table:
    """The registry, a version in two lines, with its newest score."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("adapter", "aliases", "score", "lift", "created"):
        table.add_column(name, no_wrap=name != "aliases")
    for entry in entries:
        card = entry.card
        newest = max(card.scores, key=lambda score: score.created, default=None)
        day, _, time = card.created.partition("T")
        table.add_row(
            f"{entry.name.adapter}\n[dim]@{entry.name.version} rank {card.recipe.get('rank')}[/]",
            ", ".join(entry.aliases),
            "" if newest is None else f"{newest.mean:.3f}\n[dim]{newest.metric}[/]",
            "" if newest is None else f"{newest.lift:+.3f}\n[dim]{_interval(newest)}[/]",
            f"{day}\n[dim]{time[:5]} UTC[/]",
        )
    return table


def _interval(score: Score) -> str:
    return f"{score.lift_low:+.2f}..{score.lift_high:+.2f}"


def task_table(tasks: Iterable[Task]) -> Table:
    """The catalogue of tasks."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("task", no_wrap=True)
    for name in ("category", "metric", "answers", "description"):
        table.add_column(name)
    for task in tasks:
        answers = f"{len(task.labels)} labels" if task.labels else "open"
        table.add_row(task.name, task.category, task.metric, answers, task.description)
    return table


def base_table(bases: Iterable[Base]) -> Table:
    """The catalogue of bases."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("base", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("context", justify="right")
    table.add_column("kind")
    table.add_column("weights from")
    for base in bases:
        place = "this installation" if base.embedded else base.hub_id
        table.add_row(
            base.name,
            f"{base.parameters / 1e9:.2f} B",
            str(base.context_tokens),
            "chat" if base.chat else "completion",
            place + (" (gated)" if base.gated else ""),
        )
    return table
