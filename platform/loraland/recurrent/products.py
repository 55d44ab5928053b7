"""Products of a step: a few rows times a matrix that stays the same over all steps of a scan.

torch multiplies fp32 matrices with MKL, which is slow on processors that are not Intel's; oneDNN,
in the same wheel, is faster from some size on: at 128 units it made the cell of
benchmarks/recurrent.py slower by a quarter to a third. Which one is used changes the last bits
alone. Knows no cell.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

WORTH_WEIGHTS = 1 << 17  # numbers of a matrix from which oneDNN wins over the cost of its call


class Product(Protocol):
    """Adds x @ matrix to what is there."""

    def add(self, target: Tensor, x: Tensor) -> Tensor:
        """target (rows, out) += x (rows, in) @ matrix (in, out), in place; returns target."""


class _Plain:
    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix.contiguous()

    def add(self, target: Tensor, x: Tensor) -> Tensor:
        return target.addmm_(x, self._matrix)


class _OneDnn:
    def __init__(self, matrix: Tensor, rows: int) -> None:
        # oneDNN wants (out, in), and then the layout that it likes best for so many rows.
        ordered = matrix.t().contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(ordered, rows)

    def add(self, target: Tensor, x: Tensor) -> Tensor:
        found = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return target.add_(found)


def product(matrix: Tensor, rows: int) -> Product:
    """A product with a matrix (in, out) for about so many rows at a time."""
    suits = matrix.device.type == "cpu" and matrix.dtype == torch.float32
    if suits and matrix.numel() >= WORTH_WEIGHTS and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return _OneDnn(matrix, rows)
    return _Plain(matrix)
