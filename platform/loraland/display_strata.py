"""What people see of audits in a terminal: strata, words, modes side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from loraland.strata.record import Audit, AuditLine, Rate, Retrained

WORDS = 4  # of a stratum in a table


def strata_table(audit: Audit) -> Table:
    """A row per stratum, the worst first."""
    table = _table(f"{audit.model}: {audit.overall.mean:.2f} right of {audit.overall.items}")
    table.add_column("stratum", no_wrap=True)
    for name in ("train", "held out", "right", "rest of its label"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("words", overflow="fold")
    for one in audit.strata:
        style = "red" if one.number == audit.worst else None
        words = ", ".join(word.word for word in one.words[:WORDS])
        sizes = str(one.sizes.train), str(one.sizes.test)
        table.add_row(
            one.name, *sizes, rate_text(one.test), rate_text(one.rest), words, style=style
        )
    return table


def retrained_table(found: Sequence[Retrained]) -> Table:
    """A row per way of training."""
    table = _table("on the same held-out items and strata, 95 % intervals")
    table.add_column("training", no_wrap=True)
    table.add_column("version", overflow="fold")
    for name in ("all", "worst stratum", "worst known group"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        worst = rate_text(one.worst_stratum), rate_text(one.worst_known)
        version = one.model.rpartition("@")[2]  # the rest is the audited one's
        table.add_row(one.mode, version, rate_text(one.overall), *worst)
    return table


def audit_table(lines: Sequence[AuditLine]) -> Table:
    """A row per audit in storage."""
    table = _table(None)
    table.add_column("audit", no_wrap=True)
    table.add_column("model", overflow="fold")  # gives way to the numbers
    for name in ("strata", "all", "worst", "made"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in lines:
        told = f"{one.overall.mean:.2f}", rate_text(one.worst), one.created[:10]
        table.add_row(one.id, one.model, str(one.strata), *told)
    return table


def rate_text(rate: Rate | None) -> str:
    """`0.06 (0.03-0.14)`."""
    return "-" if rate is None else f"{rate.mean:.2f} ({rate.low:.2f}-{rate.high:.2f})"


def _table(title: str | None) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="dim")
