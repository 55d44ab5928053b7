"""The two warping functions of the paper, their derivatives, and the scaling of data before a net.

NumPy alone; takes complex numbers too, so that derivatives can be checked with a complex step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float64, or complex128 under a complex step


def gate(z: Array) -> Array:
    """G_c(z) = 1 / (1 + exp(-z)), in (0, 1), any shape. Equations 109 to 111."""
    return np.asarray((1 + np.tanh(z / 2)) / 2)


def data(z: Array) -> Array:
    """G_d(z) = tanh(z), in (-1, 1), any shape. Equations 109 to 111."""
    return np.asarray(np.tanh(z))


def gate_slope(g: Array) -> Array:
    """G_c' where G_c is `g`. Equations 137, 138."""
    return np.asarray(g * (1 - g))


def data_slope(d: Array) -> Array:
    """G_d' where G_d is `d`. Equations 137, 138."""
    return np.asarray(1 - d * d)


class Standard(NamedTuple):
    """What standardises data: statistics of the train rows, for all rows. Equations 118 to 120."""

    mean: Array  # (features,)
    std: Array  # (features,), divisor N - 1; 1 for a feature that never changes

    @classmethod
    def of(cls, x: Array) -> Standard:
        """From train rows (..., features). Raises ValueError below two rows."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) < 2:
            raise ValueError(f"{len(rows)} rows of data have no spread; give at least two")
        std = rows.std(axis=0, ddof=1)
        return cls(rows.mean(axis=0), np.where(std > 0, std, 1.0))

    def apply(self, x: Array) -> Array:
        """(..., features) to mean 0 and standard deviation 1 of the train rows."""
        return np.asarray((x - self.mean) / self.std)
