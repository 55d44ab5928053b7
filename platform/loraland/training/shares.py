"""Splits the examples of one update over workers. Pure: numbers only.

Every worker gets equally many forward passes, because the workers exchange gradients (and with
sharded weights the weights too) pass by pass: one that had fewer would leave the others waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

from loraland.training.batches import Update, micro_batches
from loraland.training.recipe import Recipe


def shares(
    update: Update, lengths: Sequence[int], recipe: Recipe, workers: int
) -> list[list[Update]]:
    """The micro-batches of each worker, equally many; together they hold every example once.

    `lengths` are tokens per example, indexed as in `update`. Examples are dealt in turn in order of
    their length, so that passes of the same number take about as long everywhere. A worker with
    nothing left to do has empty micro-batches at its end.
    """
    ordered = sorted(update, key=lambda index: lengths[index])
    dealt = [micro_batches(ordered[worker::workers], lengths, recipe) for worker in range(workers)]
    most = max(len(groups) for groups in dealt)
    return [groups + [[] for _ in range(most - len(groups))] for groups in dealt]
