"""Features with strata that are known, for tests of the package."""

from __future__ import annotations

import numpy as np

from loraland.strata.features import Features

CENTRES = {0: [(-6.0, 0.0), (-6.0, 9.0)], 1: [(6.0, 0.0), (6.0, -9.0), (14.0, 0.0)]}


def clouds(
    count: int = 120, seed: int = 0, split: str = "train", width: int = 8, spread: float = 1.0
) -> Features:
    """Two superclasses of two and three round clouds, `count` examples each."""
    draws = np.random.default_rng(seed)
    values, superclasses, subclasses = [], [], []
    for superclass, centres in CENTRES.items():
        for centre in centres:
            cloud = draws.normal(0, spread, (count, width))
            cloud[:, :2] += centre
            values.append(cloud)
            subclasses += [len(values) - 1] * count
            superclasses += [superclass] * count
    return features(np.concatenate(values), superclasses, subclasses, split)


def features(
    values: object,
    superclasses: object,
    subclasses: object | None = None,
    split: str = "train",
    losses: object | None = None,
) -> Features:
    """Features of a classifier that looks at the first number."""
    x, y = np.asarray(values, np.float32), np.asarray(superclasses, np.int64)
    head = np.zeros((2, x.shape[1]), np.float32)
    head[:, 0] = (-0.5, 0.5)
    sign = 2 * y - 1
    found = np.logaddexp(0, -sign * x[:, 0]) if losses is None else losses
    return Features(
        split,
        tuple(f"{split}-{place}" for place in range(len(x))),
        x,
        (x @ head.T).astype(np.float32),
        np.asarray(found, np.float32),
        y,
        None if subclasses is None else np.asarray(subclasses, np.int64),
        head,
    )
