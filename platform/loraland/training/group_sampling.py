"""Draws training examples so that every group is as likely as any other. Pure; knows no tensors.

An epoch is drawn from the seed and its number alone, so that a resumed run needs no state for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraland.errors import DataRefused


def uniform_epoch(
    labels: NDArray[Any], seed: int, epoch: int, count: int | None = None
) -> NDArray[np.int64]:
    """The examples of one epoch, as many as there are unless `count` says otherwise.

    With replacement; an example has weight 1 / n_g, or sum_g p_ig / n_g with soft labels, which are
    (n, groups) and floating; hard ones are (n,) whole numbers. Raises DataRefused without examples.
    """
    if not len(labels):
        raise DataRefused("no examples to draw from")
    draws = np.random.default_rng([seed, epoch])
    chances = _chances(labels)
    return draws.choice(len(labels), size=count or len(labels), p=chances).astype(np.int64)


def _chances(labels: NDArray[Any]) -> NDArray[np.float64]:
    if labels.ndim == 2:
        sizes = labels.sum(0, dtype=np.float64)
        each = labels @ np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    else:
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        each = 1.0 / counts[places]
    return np.asarray(each / each.sum(), dtype=np.float64)
