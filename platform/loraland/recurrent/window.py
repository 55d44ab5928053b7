"""Products of the inputs with the filters of a window, over all steps at once, and the way back.

A window of L inputs is L matrices; step n sees inputs n to n + L - 1, and zeros past the last. Time
comes first, so a shift by some steps is a part of the same memory. Knows no cell.
"""

from __future__ import annotations

import torch
from torch import Tensor


def input_products(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """xi[n] + b = sum over l of W[l] x[n+l] + b, for (K, rows, d_x) and (L, G d_s, d_x).

    Past the last step there are zeros, so a shift by l steps just leaves the last l out.
    """
    steps, rows, _ = x.shape
    flat = x.reshape(steps * rows, -1)
    found = torch.addmm(bias, flat, filters[0].t().contiguous())
    for late in range(1, min(len(filters), steps)):
        found[: (steps - late) * rows].addmm_(flat[late * rows :], filters[late].t().contiguous())
    return found.view(steps, rows, -1)


def input_gradients(
    x: Tensor, alpha: Tensor, filters: Tensor, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """dE/dW and, where wanted, dE/dx of `input_products`, from dE/dxi (K rows, G d_s)."""
    steps, rows, _ = x.shape
    flat = x.reshape(steps * rows, -1)
    by_filters = torch.zeros_like(filters)
    d_x = torch.mm(alpha, filters[0]) if wanted else None
    for late in range(min(len(filters), steps)):
        part = alpha[: (steps - late) * rows]
        torch.mm(part.t(), flat[late * rows :], out=by_filters[late])
        if d_x is not None and late:
            d_x[late * rows :].addmm_(part, filters[late])
    return by_filters, None if d_x is None else d_x.view_as(x)
