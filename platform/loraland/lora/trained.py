"""Adds the adapters' shares to the base's output in place, as one step that autograd can undo.

The same sum as the operation `loop` with its gradients, without the copies that autograd makes of
every slice, and with oneDNN for the narrow products, in which MKL is slow on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loraland.bases.products import has_onednn, onednn
from loraland.lora.factors import TrainedFactors
from loraland.lora.rows import Segment

_ONEDNN = has_onednn()


def add_shares(
    y: Tensor, x: Tensor, factors: TrainedFactors, segments: Sequence[Segment]
) -> Tensor:
    """y (..., out) with the shares of x (tokens, in) added to it; both of one dtype, contiguous.

    `segments` are those whose slots adapt this layer. The caller gives y away: nobody else may hold
    it, nor its gradient need it.
    """
    slots = sorted({part.slot for part in segments})
    pairs = [factors.slots[slot] for slot in slots]
    spans = [(start, stop, slots.index(slot)) for start, stop, slot in segments]
    sides = [side for pair in pairs for side in (pair.a, pair.b)]
    found: Tensor = _Shares.apply(  # type: ignore[no-untyped-call]
        y, x, spans, [pair.scale for pair in pairs], *sides
    )
    return found


class _Shares(torch.autograd.Function):
    """y[t] += scale B A x[t], with the adapter of each span of tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        spans: list[tuple[int, int, int]],
        scales: list[float],
        *sides: Tensor,
    ) -> Tensor:
        flat, hidden = y.view(-1, y.shape[-1]), []
        for start, stop, place in spans:
            a, b = sides[2 * place : 2 * place + 2]
            hidden.append(_product(x[start:stop], a))  # (span, rank)
            flat[start:stop].addmm_(hidden[-1], b.t(), alpha=scales[place])
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, *sides, *hidden)
        ctx.spans, ctx.scales = spans, scales
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, (x, *saved) = gradients[0], ctx.saved_tensors
        sides, hidden = saved[: 2 * len(ctx.scales)], saved[2 * len(ctx.scales) :]
        flat = dy.reshape(-1, dy.shape[-1])
        dx = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        d_sides: list[Tensor | None] = [None] * len(sides)
        for (start, stop, place), h in zip(ctx.spans, hidden, strict=True):
            a, b = sides[2 * place : 2 * place + 2]
            part = flat[start:stop]
            dh = _product(part, b.t()).mul_(ctx.scales[place])  # (span, rank)
            db = _product(h.t().contiguous(), part.t()).t() * ctx.scales[place]
            for side, more in ((2 * place, dh.t() @ x[start:stop]), (2 * place + 1, db)):
                before = d_sides[side]
                d_sides[side] = more if before is None else before + more
            if dx is not None:
                torch.mm(dh, a, out=dx[start:stop])
        return dy, dx, None, None, *d_sides


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x (rows, in) times weight (out, in) transposed."""
    if _ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32:
        return onednn(x, weight)
    return x @ weight.t()
