"""Where held-out examples fall in two dimensions: how surely they are right, and what else varies.

x is the margin, the logit of the right label less the best other: left of 0 is wrong. y is the
first principal component of the features without the direction of the labels, of each superclass by
itself turned so that its largest stratum lies low. Pure numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loraland.strata.features import Features, Floats, Whole
from loraland.strata.record import Picture

MOST_POINTS = 1500


def margins(features: Features) -> Floats:
    """The logit of the right label less the best other: (n,)."""
    rows = np.arange(len(features))
    others = features.logits.copy()
    others[rows, features.superclasses] = -np.inf
    right = features.logits[rows, features.superclasses]
    return np.asarray(right - others.max(1), dtype=np.float32)


def picture(features: Features, strata: Whole, most: int = MOST_POINTS) -> Picture:
    """At most so many points, drawn with a fixed seed where there are more."""
    across, up = margins(features), _sideways(features, strata)
    chosen = np.arange(len(features))
    if len(features) > most:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, most, replace=False))
    right = features.correct()
    return Picture(
        x="margin: logit of the right label less the best other",
        y="first principal component of the features, the labels' direction taken out",
        points=[
            (round(float(across[n]), 3), round(float(up[n]), 3), int(strata[n]), bool(right[n]))
            for n in chosen
        ],
        left_out=len(features) - len(chosen),
    )


def _sideways(features: Features, strata: Whole) -> NDArray[np.float64]:
    found = np.zeros(len(features))
    for superclass in np.unique(features.superclasses):
        places = features.of(int(superclass))
        values = features.values[places].astype(np.float64)
        values /= np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6)
        values = _without(values - values.mean(0), features.head)
        _, sizes, axes = np.linalg.svd(values, full_matrices=False)
        points = values @ axes[0] if len(sizes) and sizes[0] > 0 else np.zeros(len(places))
        largest = np.bincount(strata[places]).argmax()
        turned = -1.0 if points[strata[places] == largest].mean() > 0 else 1.0
        found[places] = turned * points / (np.abs(points).max() or 1.0)
    return found


def _without(values: NDArray[np.float64], head: Floats | None) -> NDArray[np.float64]:
    """The values less their part in the span of differences between the labels' rows."""
    if head is None:
        return values
    span = np.linalg.qr((head[1:] - head[:1]).astype(np.float64).T)[0]
    found: NDArray[np.float64] = values - (values @ span) @ span.T
    return found
