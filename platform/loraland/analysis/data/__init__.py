"""Figures of the LoRA Land report as printed, one CSV file per table or figure.

Lines that begin with # say where a file is from.
"""

from __future__ import annotations

import csv
from importlib import resources


def rows(name: str) -> list[dict[str, str]]:
    """The rows of `<name>.csv` by column; an empty text is a cell without a value."""
    text = resources.files(__package__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
