"""What people see of API keys: never a secret, nor its hash."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraland.serving.access.keys import KeyRecord
    from loraland.serving.access.store import Listed


def key_table(listed: Sequence[Listed], now: datetime) -> Table:
    """A row for each key: whose it is, what it may, until when."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("id", "name", "models", "limits", "created", "state"):
        table.add_column(column, overflow="fold")
    for record, revoked in listed:
        models = ", ".join(record.models) + (" (admin)" if record.admin else "")
        state = "revoked" if revoked else _until(record, now)
        created = f"{record.created:%Y-%m-%d}"
        cells = (record.id, record.name, models, _limits(record), created, state)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _until(record: KeyRecord, now: datetime) -> str:
    if record.expires is None:
        return "holds"
    word = "expired" if record.has_expired(now) else "until"
    return f"{word} {record.expires:%Y-%m-%d %H:%M}"


def _limits(record: KeyRecord) -> str:
    said = (
        (record.requests_per_minute, "requests/min"),
        (record.tokens_per_minute, "tokens/min"),
        (record.tokens_per_day, "tokens/day"),
        (record.concurrent, "at once"),
    )
    return ", ".join(f"{limit:,} {what}" for limit, what in said if limit is not None) or "none"
