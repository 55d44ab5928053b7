"""What people see of recurrent nets in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from loraland.evaluation.statistics import Interval
from loraland.recurrent.baseline import Judged
from loraland.recurrent.outcomes import Outcome
from loraland.recurrent.recipe import Study


def outcome_table(study: Study, found: Sequence[Outcome]) -> Table:
    """A row per cell of a study."""
    form = study.problem.form
    error = "mean squared error" if form.kind == "number" else "share of labels wrong"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{study.name}: {study.description}",
        title_justify="left",
        caption=f"{error}, 95 % intervals over seeds; a constant answer has {form.chance:.3f}, "
        f"solved is below {study.solved_below:g}",
        caption_justify="left",
    )
    table.add_column("cell", no_wrap=True)
    for name in ("seeds", "error", "solved", f"less than {next(iter(study.cells))}"):
        table.add_column(name, justify="right")
    for name in ("updates", "numbers", "s"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            one.cell,
            str(one.seeds),
            f"{sum(one.errors) / one.seeds:.4f} {_range(one.error)}",
            f"{one.solved}/{one.seeds}",
            "" if one.less is None else f"{one.less.mean:+.4f} {_range(one.less)}",
            f"{one.updates:,.0f}",
            f"{one.parameters:,}",
            f"{one.seconds:.0f}",
        )
    return table


def baseline_table(name: str, found: Sequence[Judged]) -> Table:
    """A row per task."""
    table = Table(box=box.SIMPLE_HEAD, title=f"column '{name}'", title_justify="left")
    table.add_column("task", no_wrap=True)
    for column in ("items", "score", "most frequent label", "numbers", "train rows", "s"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(
            one.task,
            str(one.items),
            f"{one.score.mean:.3f} {_range(one.score)}",
            f"{one.majority.mean:.3f} {_range(one.majority)}",
            f"{one.facts['parameters']:,}",
            f"{one.facts['train_rows']:,}",
            f"{one.facts['seconds']:.0f}",
        )
    return table


def _range(found: Interval | None) -> str:
    return "" if found is None else f"[dim]{found.low:.3f} to {found.high:.3f}[/]"
