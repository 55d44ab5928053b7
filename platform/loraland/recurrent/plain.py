"""The same LSTM cell as `scan`, written for autograd: slow, plain, and it must agree.

A test holds the explicit way back against it; `benchmarks/recurrent.py` measures against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loraland.recurrent.scan import Plan, Weights, ends


def plain_lstm(
    x: Tensor, s0: Tensor, v0: Tensor, weights: Weights, plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """See `scan.lstm`; `plan.clip` is not for autograd and must be None."""
    assert plan.clip is None
    w, d_s, filters = weights, s0.shape[1], weights.x
    ahead = torch.cat([x, x.new_zeros(len(filters) - 1, *x.shape[1:])])
    s, v = s0, v0
    values, states = [], []
    for n, k in enumerate(plan.running):
        xi = sum(ahead[n + late] @ filters[late].t() for late in range(len(filters)))
        assert isinstance(xi, Tensor)
        gates = len(w.b) // d_s
        parts = [xi.chunk(gates, 1), (v @ w.v.t()).chunk(gates, 1), w.b.chunk(gates)]
        (*early_x, du_x, cr_x), (*early_v, du_v, cr_v), (*early_b, du_b, cr_b) = parts
        early_s = (s @ w.s.t()).chunk(gates - 2, 1)
        early = [
            torch.sigmoid(one_x + one_s + one_v + one_b)
            for one_x, one_s, one_v, one_b in zip(early_x, early_s, early_v, early_b, strict=True)
        ]
        g_cu, g_cs = early[-2:]
        u = torch.tanh((early[0] * du_x if gates == 5 else du_x) + du_v + du_b)
        new_s = g_cs * s + g_cu * u
        g_cr = torch.sigmoid(cr_x + new_s @ w.s_cr.t() + cr_v + cr_b)
        q = g_cr * torch.tanh(new_s)
        new_v = q if w.q is None else q @ w.q.t()
        goes_on = (torch.arange(x.shape[1], device=x.device) < k).unsqueeze(1)
        s, v = new_s * goes_on, new_v * goes_on
        values.append(v)
        states.append(s)
    of_steps = torch.stack(values)
    return of_steps, *ends(plan, torch.stack(states), of_steps)
