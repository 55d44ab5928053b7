"""One layer of the RNN over all steps, forward and by its explicit, corrected way back.

As `scan`, for s[n] = W_s s[n-1] + W_r r[n-1] + W_x x[n] + theta, r[n] = tanh(s[n]): the canonical
RNN, or the standard one without W_s. `reference_rnn` is its oracle.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from loraland.recurrent.products import product
from loraland.recurrent.scan import Plan, ends
from loraland.recurrent.window import input_gradients, input_products


class RnnWeights(NamedTuple):
    """The entities of one layer and direction."""

    x: Tensor  # (1, d_s, d_x)
    r: Tensor  # (d_s, d_s)
    theta: Tensor  # (d_s)
    s: Tensor | None  # (d_s, d_s); None: the standard RNN


def rnn(
    x: Tensor, s0: Tensor, r0: Tensor, weights: RnnWeights, plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """Readouts r (K, rows, d_s) of x (K, rows, d_x), and the state s and r after each row's end.

    From s0 and r0 (rows, d_s). Steps past the end of a row must be zero in x, and are zero in r.
    Differentiable once, by x, s0, r0 and the weights.
    """
    readouts, states = _Rnn.apply(x, s0, r0, plan, *weights)  # type: ignore[no-untyped-call]
    return readouts, *ends(plan, states, readouts)


class _Rnn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s0: Tensor, r0: Tensor, plan: Plan, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        w = RnnWeights(*weights)  # type: ignore[arg-type]
        a, rows = input_products(x, w.x, w.theta), x.shape[1]
        s, r = (a.new_zeros(len(a) + 1, *s0.shape) for _ in range(2))
        s[0], r[0] = s0, r0
        by_r = product(w.r.t(), rows)
        by_s = None if w.s is None else product(w.s.t(), rows)
        for n, k in enumerate(plan.running):
            new = by_r.add(a[n, :k], r[n, :k])
            if by_s is not None:
                by_s.add(new, s[n, :k])
            s[n + 1, :k] = new
            torch.tanh(new, out=r[n + 1, :k])
        ctx.save_for_backward(x, s, r, *weights)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        return r[1:], s[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_r: Tensor | None, d_s: Tensor | None) -> tuple[Tensor | None, ...]:
        x, s, r, *weights = ctx.saved_tensors
        w, plan, rows = RnnWeights(*weights), ctx.plan, x.shape[1]
        psi = torch.zeros_like(r[1:])
        slope = 1 - r[1:] ** 2
        by_r, by_s = product(w.r, rows), None if w.s is None else product(w.s, rows)
        chi, from_next = r.new_zeros(rows, r.shape[2]), r.new_zeros(rows, r.shape[2])
        for n in reversed(range(len(plan.running))):
            k = plan.running[n]
            back, direct, now = chi[:k], from_next[:k], psi[n, :k]
            if d_r is not None:
                back.add_(d_r[n, :k])
            if d_s is not None:
                direct.add_(d_s[n, :k])
            torch.addcmul(direct, back, slope[n, :k], out=now)
            if plan.clip is not None:
                now.clamp_(-plan.clip, plan.clip)
            by_r.add(back.zero_(), now)
            direct.zero_()
            if by_s is not None:
                by_s.add(direct, now)
        flat = psi.flatten(0, 1)
        turned = flat.t()
        by_filters, d_x = input_gradients(x, flat, w.x, ctx.needs_input_grad[0])
        old_s = None if w.s is None else turned @ s[:-1].flatten(0, 1)
        by_old_r = turned @ r[:-1].flatten(0, 1)
        return d_x, from_next, chi, None, by_filters, by_old_r, flat.sum(0), old_s


def plain_rnn(
    x: Tensor, s0: Tensor, r0: Tensor, weights: RnnWeights, plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for autograd: slow, plain, and it must agree."""
    assert plan.clip is None
    w, s, r = weights, s0, r0
    readouts, states = [], []
    for n, k in enumerate(plan.running):
        goes_on = (torch.arange(x.shape[1], device=x.device) < k).unsqueeze(1)
        new = x[n] @ w.x[0].t() + r @ w.r.t() + w.theta
        if w.s is not None:
            new = new + s @ w.s.t()
        s, r = new * goes_on, torch.tanh(new) * goes_on
        readouts.append(r)
        states.append(s)
    of_steps = torch.stack(readouts)
    return of_steps, *ends(plan, torch.stack(states), of_steps)
