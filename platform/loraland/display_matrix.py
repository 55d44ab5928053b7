"""What people see of a matrix in a terminal: its progress, its state as a grid, its forecast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from loraland.display import err
from loraland.errors import LoraLandError
from loraland.matrix.cell import FAILED, FINISHED, CellEvent
from loraland.matrix.forecast import Forecast
from loraland.matrix.ledger import CellStatus, State
from loraland.matrix.searched import Tried

SIGNS = {
    "done": "[green]#[/]",
    "failed": "[red]x[/]",
    "missing": "[dim].[/]",
    "lost": "[yellow]?[/]",
}
SHOWN = 8  # cells at work that have a line


class MatrixProgress:
    """One bar for all cells, and a line for each that is at work; use as a context manager."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Cells by their labels."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self._all = self._progress.add_task("cells", total=len(labels))
        self._bars: dict[str, Any] = {}
        self._ended: set[str] = set()
        self._stages: dict[str, str] = {}  # told last, of each cell at work

    def __enter__(self) -> MatrixProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: CellEvent) -> None:
        """Move the bars; on a screen that is no terminal, a line for each stage of a cell."""
        if event.stage in (FINISHED, FAILED):
            self._drop(event.cell)
            if event.cell in self._ended:
                return  # a trial that began again tells again
            self._ended.add(event.cell)
            self._progress.advance(self._all)
            if event.stage == FAILED:
                err.print(f"{event.cell} failed: {event.note}", markup=False, highlight=False)
            elif not err.is_terminal:
                marks = f" ({event.note})" if event.note else ""
                err.print(f"{event.cell} done{marks}", markup=False, highlight=False)
            return
        if self._stages.get(event.cell) != event.stage:
            self._stages[event.cell] = event.stage
            if not err.is_terminal:
                words = event.note or event.stage
                err.print(f"{event.cell}: {words}", markup=False, highlight=False)
        if event.cell not in self._bars and len(self._bars) < SHOWN:
            self._bars[event.cell] = self._progress.add_task(event.cell)
        if (bar := self._bars.get(event.cell)) is not None:
            loss = "" if event.loss is None else f" loss {event.loss:.3f}"
            words = f"{event.cell} {event.note or event.stage}{loss}"
            self._progress.update(
                bar, description=words, completed=event.done, total=event.total or None
            )

    def _drop(self, label: str) -> None:
        self._stages.pop(label, None)
        if (bar := self._bars.pop(label, None)) is not None:
            self._progress.remove_task(bar)


def status_line(name: str, statuses: Sequence[CellStatus]) -> str:
    """`paper: 12/310 done, 3 failed, 1 lost`; the adapter of a lost cell is gone."""
    count = Counter(status.state for status in statuses)
    others: tuple[State, ...] = ("failed", "lost")
    rest = "".join(f", {count[state]} {state}" for state in others if count[state])
    return f"{name}: {count['done']}/{len(statuses)} done{rest}"


def status_grid(statuses: Sequence[CellStatus]) -> Table:
    """A row per base, a sign per task in the space's order."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption="# done, x failed, . missing, ? its adapter is gone; tasks in order",
    )
    table.add_column("base", no_wrap=True)
    table.add_column("tasks", no_wrap=True)
    table.add_column("done", justify="right")
    rows: dict[str, list[str]] = {}
    for status in statuses:
        rows.setdefault(status.cell.base_name, []).append(status.state)
    for base, states in rows.items():
        signs = "".join(SIGNS[state] for state in states)
        table.add_row(base, signs, f"{states.count('done')}/{len(states)}")
    return table


def failure_lines(statuses: Iterable[CellStatus], most: int = 20) -> list[str]:
    """Why cells failed, one line each."""
    failed = [status for status in statuses if status.failure is not None]
    lines = [
        f"{status.cell.label}: {status.failure.code}: {status.failure.message.splitlines()[0]}"
        for status in failed[:most]
        if status.failure is not None
    ]
    return lines + ([f"... and {len(failed) - most} more"] if len(failed) > most else [])


def unjudged_lines(reasons: Iterable[LoraLandError]) -> list[str]:
    """What the cells that cannot be judged here are told, with their number."""
    count = Counter(reason.message for reason in reasons)
    return [f"{n} cells cannot be judged here and will fail: {why}" for why, n in count.items()]


def forecast_table(found: Forecast) -> Table:
    """What the cells of each base will take, and all together."""
    cluster = found.cluster
    title = (
        f"{cluster.workers} x {cluster.worker} {'spot' if cluster.spot else 'on demand'}, "
        f"{found.places} trials at a time"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title)
    for name in ("base", "cells", "hours", "USD", "peak GiB", "fits", "fuse up to"):
        table.add_column(name, justify="left" if name == "base" else "right", no_wrap=True)
    for base in found.bases:
        table.add_row(
            base.base,
            str(base.cells),
            f"{base.hours:.1f}",
            f"{base.usd:.2f}",
            "?" if base.peak_gib is None else f"{base.peak_gib:.1f}",
            {True: "[green]yes[/]", False: "[red]no[/]", None: "?"}[base.fits],
            "?" if base.group is None else str(base.group),
        )
    table.add_section()
    cells = str(len(found.cells))
    table.add_row("all", cells, f"{found.hours:.1f}", f"{found.usd:.2f}", "", "", "")
    table.caption = f"wall-clock {found.wall_hours:.1f} h"
    return table


def search_table(tried: Sequence[Tried]) -> Table:
    """Configurations, the best first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = list(tried[0].parameters)
    for name in (*names, "validation loss", "evaluations"):
        table.add_column(name, justify="right")
    for one in tried:
        values = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in one.parameters.values()]
        loss = "failed" if one.validation_loss is None else f"{one.validation_loss:.4f}"
        table.add_row(*values, loss, str(len(one.losses)))
    return table
