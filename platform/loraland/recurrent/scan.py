"""One layer of the LSTM over all steps, forward and by its explicit, corrected way back.

The training path of both cells: autograd sees one operation. The products with the input, and all
gradients of weights, are one product each over every step; what is left in the scan are three or
four products and some element-wise passes a step, over all gates at once. Told tensors whose rows
are sorted by length; knows no modules. Its oracles are `reference_vanilla` and
`reference_augmented`.

Gates lie side by side in the order cx (augmented alone), cu, cs, du, cr, that is torch's i, f, g, o
behind cx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from loraland.recurrent.products import product
from loraland.recurrent.window import input_gradients, input_products

# factor * g (1 - g) and factor * (1 - d^2) in one pass: what autograd itself calls.
_sigmoid_slope = torch.ops.aten.sigmoid_backward.grad_input
_tanh_slope = torch.ops.aten.tanh_backward.grad_input


class Weights(NamedTuple):
    """The entities of one layer and direction, side by side. G is 4, or 5 with an input gate."""

    x: Tensor  # (L, G d_s, d_x), a filter per step of the window
    s: Tensor  # ((G - 2) d_s, d_s), what cx, cu and cs see of the old state
    s_cr: Tensor  # (d_s, d_s), what cr sees of the new one
    v: Tensor  # (G d_s, d_v)
    b: Tensor  # (G d_s)
    q: Tensor | None  # (d_v, d_s), the projection; None: v is q


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pass is told besides tensors."""

    running: tuple[int, ...]  # of each step, how many rows, from the first, still have input
    clip: float | None = None  # bound of every alpha on the way back; None: gradients are exact

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], clip: float | None = None) -> Plan:
        """For rows of these lengths, the longest first."""
        return cls(tuple(sum(one > n for one in lengths) for n in range(lengths[0])), clip)

    @property
    def is_ragged(self) -> bool:
        """Whether some rows end before others."""
        return self.running[-1] < self.running[0]

    def steps(self, of_steps: Tensor) -> Sequence[Tensor]:
        """Views of (K, rows, ...), one for each step, of the rows that still have input."""
        views = of_steps.unbind(0)
        if not self.is_ragged:
            return views
        return [one[:k] for one, k in zip(views, self.running, strict=False)]


class _Parts(NamedTuple):
    """Columns of the gates in a row of G d_s numbers."""

    cx: slice | None
    cu: slice
    cs: slice
    du: slice
    cr: slice
    early: slice  # all gates that see the old state
    before_cr: slice

    @classmethod
    def of(cls, gates: int, d_s: int) -> _Parts:
        cx, cu, cs, du, cr = (slice((n + gates - 5) * d_s, (n + gates - 4) * d_s) for n in range(5))
        early, before_cr = slice(0, cs.stop), slice(0, du.stop)
        return cls(cx if gates == 5 else None, cu, cs, du, cr, early, before_cr)


def lstm(
    x: Tensor, s0: Tensor, v0: Tensor, weights: Weights, plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """Values v (K, rows, d_v) of x (K, rows, d_x); state s and value v at the end of each row.

    From s0 (rows, d_s) and v0 (rows, d_v). Steps past the end of a row must be zero in x, and are
    zero in v. Differentiable once, by x, s0, v0 and the weights.
    """
    values, states = _Lstm.apply(x, s0, v0, plan, *weights)  # type: ignore[no-untyped-call]
    return values, *ends(plan, states, values)


def ends(plan: Plan, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """What two tensors (K, rows, d) hold at the last step of each row, (rows, d)."""
    if not plan.is_ragged:
        return first[-1], second[-1]
    rows = torch.arange(plan.running[0], device=first.device)
    running = torch.tensor(plan.running, device=rows.device)
    last = (running.unsqueeze(1) > rows).sum(0) - 1
    return first[last, rows], second[last, rows]


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s0: Tensor, v0: Tensor, plan: Plan, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        w = Weights(*weights)  # type: ignore[arg-type]
        parts = _Parts.of(w.b.shape[0] // s0.shape[1], s0.shape[1])
        a = input_products(x, w.x, _without(w.b, parts.du) if parts.cx else w.b)
        xi_du = None
        if parts.cx:  # the update's input waits for its gate
            xi_du = a[..., parts.du].clone()
            a[..., parts.du] = w.b[parts.du]
        s, v = _room(s0, plan), _room(v0, plan)
        _scan(a, xi_du, s, v, w, parts, plan)
        ctx.save_for_backward(x, a, xi_du, s, v, *weights)
        ctx.plan, ctx.parts = plan, parts
        ctx.set_materialize_grads(False)
        return v[1:], s[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_v: Tensor | None, d_s: Tensor | None) -> tuple[Tensor | None, ...]:
        x, a, xi_du, s, v, *weights = ctx.saved_tensors
        w, parts = Weights(*weights), ctx.parts
        if d_v is None:
            d_v = torch.zeros_like(v[1:])
        alpha, to_psi = _slopes(a, xi_du, s, parts)
        back = _scan_back(alpha, to_psi, a[..., parts.cs], d_v, d_s, w, parts, ctx.plan)
        flat, old_s, new_s = alpha.flatten(0, 1), s[:-1].flatten(0, 1), s[1:].flatten(0, 1)
        turned = flat.t()
        d_b = flat.sum(0)
        by_v, by_s = turned @ v[:-1].flatten(0, 1), turned[parts.early] @ old_s
        by_cr = turned[parts.cr] @ new_s
        by_q = None
        if w.q is not None:
            q = torch.tanh(s[1:]).mul_(a[..., parts.cr])
            by_q = back.chi.flatten(0, 1).t() @ q.flatten(0, 1)
        if parts.cx:  # equation 246, corrected: only now, since the bias is not gated
            alpha[..., parts.du] *= a[..., parts.cx]
        by_filters, d_x = input_gradients(x, flat, w.x, ctx.needs_input_grad[0])
        return d_x, back.s0, back.v0, None, by_filters, by_s, by_cr, by_v, d_b, by_q


def _room(first: Tensor, plan: Plan) -> Tensor:
    """(K + 1, rows, d) with `first` in place, zero where rows have ended."""
    shape = (len(plan.running) + 1, *first.shape)
    room = first.new_zeros(shape) if plan.is_ragged else first.new_empty(shape)
    room[0] = first
    return room


def _without(bias: Tensor, part: slice) -> Tensor:
    found = bias.clone()
    found[part] = 0
    return found


def _scan(
    a: Tensor, xi_du: Tensor | None, s: Tensor, v: Tensor, w: Weights, parts: _Parts, plan: Plan
) -> None:
    """Fill s and v, and turn accumulations `a` into gates and updates, step by step."""
    rows, d_s = a.shape[1], s.shape[2]
    by_v, by_s = product(w.v.t(), rows), product(w.s.t(), rows)
    by_cr = product(w.s_cr.t(), rows)
    by_q = None if w.q is None else product(w.q.t(), rows)
    readout = None if by_q is None else a.new_empty(rows, d_s)
    outer = [None] * len(a) if xi_du is None else plan.steps(xi_du)
    gated = outer if parts.cx is None else plan.steps(a[..., parts.cx])
    columns = (parts.early, parts.cu, parts.cs, parts.du, parts.cr)
    gates = zip(*(plan.steps(a[..., one]) for one in columns), strict=True)
    states = zip(*(plan.steps(one) for one in (s, s[1:], v, v[1:])), strict=False)
    for all_gates, gate, (old, new, old_v, value), cx, xi in zip(
        plan.steps(a), gates, states, gated, outer, strict=True
    ):
        early, cu, cs, u, cr = gate
        by_v.add(all_gates, old_v)
        by_s.add(early, old).sigmoid_()
        if cx is not None and xi is not None:
            u.addcmul_(cx, xi)
        u.tanh_()
        torch.mul(cs, old, out=new).addcmul_(cu, u)
        by_cr.add(cr, new).sigmoid_()
        if by_q is None or readout is None:
            torch.tanh(new, out=value).mul_(cr)
        else:
            q = torch.tanh(new, out=readout[: len(new)]).mul_(cr)
            by_q.add(value.zero_(), q)


def _slopes(a: Tensor, xi_du: Tensor | None, s: Tensor, parts: _Parts) -> tuple[Tensor, Tensor]:
    """What psi and beta are multiplied by at every step, for all steps at once.

    First (K, rows, G d_s): the factor of each alpha, of beta in cr and of psi elsewhere. Second
    (K, rows, d_s): the factor of beta in psi.
    """
    cu, cs, u, cr = a[..., parts.cu], a[..., parts.cs], a[..., parts.du], a[..., parts.cr]
    r, alpha = torch.tanh(s[1:]), torch.empty_like(a)
    _sigmoid_slope(r, cr, grad_input=alpha[..., parts.cr])
    _sigmoid_slope(s[:-1], cs, grad_input=alpha[..., parts.cs])
    _sigmoid_slope(u, cu, grad_input=alpha[..., parts.cu])
    _tanh_slope(cu, u, grad_input=alpha[..., parts.du])
    if parts.cx and xi_du is not None:
        by_du = alpha[..., parts.du] * xi_du
        _sigmoid_slope(by_du, a[..., parts.cx], grad_input=alpha[..., parts.cx])
    return alpha, _tanh_slope(cr, r, grad_input=r)


class _Back(NamedTuple):
    chi: Tensor  # (K, rows, d_v), filled with a projection alone
    s0: Tensor  # (rows, d_s), dE/ds[-1]
    v0: Tensor  # (rows, d_v), dE/dv[-1]


def _scan_back(
    alpha: Tensor, to_psi: Tensor, cs: Tensor, d_v: Tensor, d_s: Tensor | None, w: Weights,
    parts: _Parts, plan: Plan,
) -> _Back:  # fmt: skip
    """Turn the factors in `alpha` into alphas, from the last step to the first."""
    rows, width = alpha.shape[1], to_psi.shape[2]
    by_v, by_s, by_cr = product(w.v, rows), product(w.s, rows), product(w.s_cr, rows)
    by_q = None if w.q is None else product(w.q, rows)
    chi = d_v if by_q is None else torch.zeros_like(d_v, memory_format=torch.contiguous_format)
    f_chi, f_psi = d_v.new_zeros(rows, d_v.shape[2]), d_v.new_zeros(rows, width)
    behind_psi = alpha[..., parts.before_cr].unflatten(2, (-1, width))  # type: ignore[no-untyped-call]
    steps = zip(
        *(plan.steps(one) for one in (d_v, alpha, alpha[..., parts.cr], behind_psi)),
        *(plan.steps(one) for one in (alpha[..., parts.early], to_psi, cs, chi)),
        [None] * len(alpha) if d_s is None else plan.steps(d_s),
        strict=True,
    )
    for by_value, al, cr, others, early, slope, gate, kept, by_state in reversed(list(steps)):
        back, psi = f_chi[: len(al)].add_(by_value), f_psi[: len(al)]
        if by_state is not None:
            psi.add_(by_state)
        beta = back
        if by_q is not None:
            kept.copy_(back)
            beta = by_q.add(back.new_zeros(len(al), width), back)
        cr.mul_(beta)
        if plan.clip is not None:
            cr.clamp_(-plan.clip, plan.clip)
        by_cr.add(psi.addcmul_(beta, slope), cr)
        others.mul_(psi.unsqueeze(1))
        if plan.clip is not None:
            others.clamp_(-plan.clip, plan.clip)
        by_s.add(psi.mul_(gate), early)
        by_v.add(back.zero_(), al)
    for n, k in enumerate(plan.running if plan.is_ragged else ()):
        alpha[n, k:] = 0  # of rows that have ended there is nothing
    return _Back(chi, f_psi, f_chi)
