"""SQL judged by what it gives: the rows of SQLite on made-up tables of a known schema."""

from __future__ import annotations

from loraland.tasks import sqlite
from loraland.tasks.metrics.grade import UNREADABLE, Grade
from loraland.tasks.task import Item


class SqlGrader:
    """The query gives the same rows as the gold query on made-up tables of the row's schema."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when the rows agree; unreadable when SQLite cannot or may not run the output."""
        query = output.strip()
        if not query:
            return UNREADABLE
        try:
            return Grade(query, float(sqlite.agree(str(item.row["schema"]), item.target, query)))
        except sqlite.QueryRefused:
            return UNREADABLE
