"""Merges the rows of several runs into common forward passes. Pure: numbers only.

Rows of like length go together, whoever they belong to; each keeps the share that its own run gives
it. Told lengths and a budget; knows no tensors and no slots' content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loraland.training.examples import Example


class Row(NamedTuple):
    """One example of one run in a common pass."""

    slot: int  # of its run's adapter
    example: Example
    share: float  # of its loss in the loss of its run: 1 / examples of the update
    dropout: float  # share of the adapter's inputs that are dropped
    stream: str  # names the random numbers of that


def merge(rows: Sequence[Row], budget_tokens: int) -> list[list[Row]]:
    """Split rows into passes of at most `budget_tokens` padded tokens.

    Within a pass rows keep their order, so that rows of one run stay together. A row over the
    budget goes alone.
    """
    lengths = [len(row.example.ids) for row in rows]
    passes: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: lengths[index]):
        # Ascending order: this row is the longest of its pass.
        if passes and (len(passes[-1]) + 1) * lengths[index] <= budget_tokens:
            passes[-1].append(index)
        else:
            passes.append([index])
    return [[rows[index] for index in sorted(members)] for members in passes]
