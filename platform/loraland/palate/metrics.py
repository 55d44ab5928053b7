"""What a ranked list is worth: ranking metrics, and what lies beyond accuracy. Pure numbers.

A list is positions of items, best first; what is relevant is a set of positions. All ranking
metrics lie in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from loraland.palate.catalogue import Floats, Ints
from loraland.palate.features import Vectors


def ranking(shown: Sequence[int], relevant: Collection[int], depth: int) -> dict[str, float]:
    """hit, recall, ndcg, mrr and map of the first `depth` items.

    Gains are 0 or 1; the ideal of ndcg and map has min(depth, relevant) of them. Raises ValueError
    where nothing is relevant: nobody could be right then.
    """
    if not relevant:
        raise ValueError("nothing is relevant; leave such cases out")
    gains = [1.0 if place in relevant else 0.0 for place in shown[:depth]]
    most = min(depth, len(relevant))
    ideal = sum(1 / math.log2(rank + 2) for rank in range(most))
    hits, precisions, first = 0, 0.0, 0.0
    for rank, gain in enumerate(gains, start=1):
        if gain:
            hits += 1
            precisions += hits / rank
            first = first or 1 / rank
    return {
        "hit": float(hits > 0),
        "recall": hits / len(relevant),
        "ndcg": sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains)) / ideal,
        "mrr": first,
        "map": precisions / most,
    }


def intra_list_distance(places: Vectors) -> float:
    """Mean cosine distance of all pairs in a list; 0 for fewer than two."""
    n = len(places)
    if n < 2:
        return 0.0
    similarity = places @ places.T
    return float(1 - (similarity.sum() - np.trace(similarity)) / (n * (n - 1)))


def gini(counts: Ints | Floats) -> float:
    """How unevenly counts are spread: 0 when all are equal, near 1 when one has all."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    total, n = float(ordered.sum()), len(ordered)
    if total == 0:
        return 0.0
    return float(2 * np.sum(np.arange(1, n + 1) * ordered) / (n * total) - (n + 1) / n)


def calibration(theta: Floats, listed: Floats, mixed: float = 0.01) -> float:
    """KL divergence of a list's palates from a person's theta, in nats; 0 is the same mixture.

    Steck (2018), Calibrated recommendations: the list's shares are mixed with a little of theta,
    so that a palate that is not in the list costs something finite.
    """
    smoothed = (1 - mixed) * listed + mixed * theta
    held = theta > 0
    return float(np.sum(theta[held] * np.log(theta[held] / smoothed[held])))
