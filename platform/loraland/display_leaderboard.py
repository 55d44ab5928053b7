"""What people see of a leaderboard and of a promotion in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase

from rich import box
from rich.console import Console
from rich.table import Table

from loraland.evaluation.leaderboard import BASE, Leaderboard, Marginal, Row
from loraland.evaluation.promote import Promotion
from loraland.evaluation.promotion import Decision

COLOURS = {"better": "green", "worse": "red", "undecided": "yellow", None: "dim"}
LETTERS = ascii_lowercase  # stand for bases above narrow columns


def lift_matrix(board: Leaderboard) -> Table:
    """A row per task, a column per base: lifts in points of a hundred.

    Ten bases fit into 80 columns; the letters are those of `mean_table`.
    """
    bases, tasks = board.of_kind("base"), board.of_kind("task")
    table = _table(
        "lift over the base, in points of 100",
        "green: better, red: worse, yellow: undecided, dim: no samples to test",
    )
    table.add_column("task", no_wrap=True)
    for _, letter in zip(bases, _letters(), strict=False):
        table.add_column(letter, justify="right", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    cells = {(row.base, row.task): row for row in board.rows}
    for task in tasks:
        shown = [_points(cells.get((base.name, task.name))) for base in bases]
        table.add_row(task.name, *shown, f"{100 * task.lift:+.0f}")
    table.add_section()
    everything = board.of_kind("all")
    table.add_row("all", *(f"{100 * one.lift:+.0f}" for one in (*bases, *everything)))
    return table


def mean_table(board: Leaderboard) -> Table:
    """Means over bases and categories, with intervals."""
    table = _table(None, "95 % intervals over items; better and worse after correction")
    table.add_column("", no_wrap=True)
    table.add_column("mean over", overflow="fold")  # gives way to the numbers
    for name in ("cells", "base", "adapter", "lift", "better", "worse"):
        table.add_column(name, justify="right", no_wrap=True)
    for letter, one in zip(_letters(), board.of_kind("base"), strict=False):
        _add_mean(table, letter, one.name, one)
    table.add_section()
    for one in board.of_kind("category"):
        _add_mean(table, "", one.name, one)
    table.add_section()
    for one in board.of_kind("all"):
        _add_mean(table, "", "all", one)
    return table


def cell_table(board: Leaderboard) -> Table:
    """Every adapter, with the columns of endpoints and overlays."""
    table = _table(None, "p: after correction; finds: least lift that the comparison would find")
    table.add_column("adapter", no_wrap=True)
    for name in ("base", "score", "lift", "p", "finds"):
        table.add_column(name, justify="right", no_wrap=True)
    others = [name for name in board.opponents if name != BASE]
    for name in (*(f"over {name}" for name in others), *board.overlays):
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        duel = row.against_base
        over = [row.duels.get(name) for name in others]
        table.add_row(
            f"{row.base}/{row.task}" + "".join(f" [dim]{mark}[/]" for mark in row.marks),
            f"{duel.score.mean:.3f}",
            f"{row.score.mean:.3f}",
            f"[{COLOURS[duel.verdict]}]{duel.lift.mean:+.3f}[/] "
            f"[dim]{_range(duel.lift.low, duel.lift.high)}[/]",
            "" if duel.adjusted_p is None else f"{duel.adjusted_p:.3g}",
            "" if duel.detectable is None else f"{duel.detectable:.3f}",
            *("" if one is None else f"[{COLOURS[one.verdict]}]{one.lift.mean:+.3f}[/] "
              f"[dim]{_range(one.lift.low, one.lift.high)}[/]" for one in over),
            *(_figure(row.overlays.get(name)) for name in board.overlays),
        )  # fmt: skip
    return table


def at_full_width(table: Table) -> Table:
    """The table as wide as its cells are, whatever the width of the screen."""
    endless = Console(width=10_000)
    table.width = endless.measure(table).maximum
    return table


def guard_table(decision: Decision) -> Table:
    """The guards of a decision."""
    table = _table(None, "worse: the change in the bad direction, on the same items")
    table.add_column("guard", overflow="fold")
    for name in ("rival", "version", "worse", "tolerated", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for guard in decision.guards:
        table.add_row(
            guard.name,
            f"{guard.theirs:.3f}",
            f"{guard.ours:.3f}",
            f"{guard.worsening:+.3f}",
            f"{guard.tolerance:.3f}",
            "[green]holds[/]" if guard.holds else "[red]falls[/]",
        )
    return table


def promotion_lines(done: Promotion) -> Iterable[str]:
    """What became of a promotion, in words without markup."""
    decision = done.decision
    if decision is None:
        yield f"{done.model} is {done.alias} already"
        return
    lift, rival = decision.lift, decision.rival or f"base {done.model.base}"
    yield (
        f"lift over {rival}: {lift.mean:+.3f} ({lift.low:+.3f} to {lift.high:+.3f}) on "
        f"{decision.items} items, {decision.test} p = {decision.p_value:.3g}, margin "
        f"{decision.gate.margin:+.3f}"
    )
    if decision.promoted:
        yield f"{done.model} is {done.alias} now, in place of {decision.previous or 'nothing'}"
    else:
        yield f"{done.model} does not become {done.alias}:"
        yield from (f"- {reason}" for reason in decision.reasons)


def _add_mean(table: Table, letter: str, name: str, one: Marginal) -> None:
    table.add_row(
        letter,
        name,
        str(one.cells),
        f"{one.base_score:.3f}",
        f"{one.score:.3f}",
        f"{one.lift:+.3f} [dim]{_range(one.lift_low, one.lift_high)}[/]",
        str(one.better),
        str(one.worse),
    )


def _points(row: Row | None) -> str:
    if row is None:
        return ""
    duel = row.against_base
    return f"[{COLOURS[duel.verdict]}]{100 * duel.lift.mean:+.0f}[/]"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.2f}..{high:+.2f}"


def _letters() -> Iterable[str]:
    """a to z, then aa, ab and so on."""
    yield from LETTERS
    for first in LETTERS:
        yield from (first + second for second in LETTERS)


def _table(title: str | None, caption: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=title,
        caption=caption,
    )
