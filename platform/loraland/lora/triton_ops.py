"""The adapters' share of a layer as two Triton kernels, for serving on a GPU.

`shrink` computes x A^T token by token, its sum split over several programs; `expand` adds the
product with B to y. Both read the slots from the device and the stacks in place, so they can be
captured in a graph. Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loraland.lora.factors import Factors
from loraland.lora.ops import Op
from loraland.lora.rows import Rows

BLOCK = 256  # columns that a program reads at once
SPLITS = 8  # programs that share the sum of one token in `shrink`


@triton.jit  # type: ignore[untyped-decorator]
def _shrink(  # type: ignore[no-untyped-def]  # pragma: no cover
    x, a, slots, hidden, tokens, columns, width,
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """hidden[split, token, r] = the split's part of sum_k x[token, k] a[slot, r, k]."""
    token = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    slot = tl.load(slots + token)
    if slot != 0:
        rank = tl.arange(0, WIDTH)
        total = tl.zeros((WIDTH,), tl.float32)
        for first in range(split * BLOCK, columns, SPLITS * BLOCK):
            column = first + tl.arange(0, BLOCK)
            inside = column < columns
            some_x = tl.load(x + token * columns + column, mask=inside, other=0.0)
            some_a = tl.load(
                a + (slot * width + rank)[:, None] * columns + column[None, :],
                mask=(rank < width)[:, None] & inside[None, :],
                other=0.0,
            )
            total += tl.sum(some_a.to(tl.float32) * some_x.to(tl.float32)[None, :], 1)
        tl.store(hidden + (split * tokens + token) * WIDTH + rank, total)


@triton.jit  # type: ignore[untyped-decorator]
def _expand(  # type: ignore[no-untyped-def]  # pragma: no cover
    y, hidden, b, slots, tokens, columns, width,
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[token, o] += sum_r hidden[token, r] b[slot, r, o]."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot != 0:
        rank = tl.arange(0, WIDTH)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < columns
        weights = tl.zeros((WIDTH,), tl.float32)
        for split in range(SPLITS):
            weights += tl.load(hidden + (split * tokens + token) * WIDTH + rank)
        some_b = tl.load(
            b + (slot * width + rank)[:, None] * columns + column[None, :],
            mask=(rank < width)[:, None] & inside[None, :],
            other=0.0,
        )
        sums = tl.sum(some_b.to(tl.float32) * weights[:, None], 0)
        place = y + token * columns + column
        before = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, (before + sums).to(y.dtype.element_ty), mask=inside)


def add(y: Tensor, x: Tensor, factors: Factors, rows: Rows) -> None:
    """Add the adapters' share to y (tokens, out), in place; sums are kept in fp32."""
    a, b = factors.stack()
    tokens, width = rows.tokens, a.shape[1]
    if tokens == 0:
        return
    padded = triton.next_power_of_2(width)
    hidden = torch.empty(SPLITS, tokens, padded, dtype=torch.float32, device=x.device)
    sizes = {"WIDTH": padded, "SPLITS": SPLITS, "BLOCK": BLOCK}
    _shrink[(tokens, SPLITS)](
        x.contiguous(), a, rows.slots, hidden, tokens, x.shape[1], width, **sizes
    )
    _expand[(tokens, triton.cdiv(y.shape[1], BLOCK))](
        y, hidden, b, rows.slots, tokens, y.shape[1], width, **sizes
    )


def delta(x: Tensor, factors: Factors, rows: Rows) -> Tensor:
    """The adapters' share alone, (tokens, out)."""
    y = x.new_zeros(len(x), factors.shape[1])
    add(y, x, factors, rows)
    return y


TRITON = Op(delta, add, differentiable=False)
