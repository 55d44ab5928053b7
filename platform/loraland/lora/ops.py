"""What the adapters of the rows add to one layer's output, in interchangeable ways.

For each token t with slot s: y[t] += x[t] A[s]^T B[s] (the scale is within B). Every operation has
the same result; they differ in what they copy, sort, or multiply for nothing. `loop` is the
reference. All are told by `Rows` who uses what, and by `Factors` with which matrices.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from loraland.lora.factors import Factors, Layout, Pair
from loraland.lora.rows import BASE, Rows

Delta = Callable[[Tensor, Factors, Rows], Tensor]  # x (tokens, in) -> (tokens, out)
Add = Callable[[Tensor, Tensor, Factors, Rows], None]  # y (tokens, out) in place, x, ...


class Op(NamedTuple):
    """One way to compute it."""

    delta: Delta  # a new tensor
    add: Add  # into y; serving only, passes no gradient on
    differentiable: bool


# One slot after the other


def loop(x: Tensor, factors: Factors, rows: Rows) -> Tensor:
    """Segment by segment, two products each. The reference; copies nothing."""
    if not rows.segments:
        return x.new_zeros(0, factors.shape[1])
    pairs = {slot: factors.pair(slot) for slot in rows.present or () if factors.layout.ranks[slot]}
    # Split at once: the gradient of each slice alone would be as large as all tokens.
    parts = torch.split(x, [stop - start for start, stop, _ in rows.segments])
    sums = [
        _times(part, pairs.get(s.slot), factors)
        for part, s in zip(parts, rows.segments, strict=True)
    ]
    return torch.cat(sums)


def _times(x: Tensor, pair: Pair | None, factors: Factors) -> Tensor:
    if pair is None:
        return x.new_zeros(len(x), factors.shape[1])
    return x @ pair.a @ pair.b


def _add_loop(y: Tensor, x: Tensor, factors: Factors, rows: Rows) -> None:
    for start, stop, slot in _adapted(rows, factors.layout):
        a, b = factors.pair(slot)
        if stop - start == rows.tokens:  # a slice costs as much as a product with one token
            y.addmm_(x @ a, b)
        else:
            y[start:stop].addmm_(x[start:stop] @ a, b)


def _adapted(rows: Rows, layout: Layout) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] | None = rows.memo.get(("adapted", layout))
    if found is None:
        found = [part for part in rows.segments if layout.ranks[part.slot]]
        rows.memo["adapted", layout] = found
    return found


# All slots at once, then a mask


def dense(x: Tensor, factors: Factors, rows: Rows) -> Tensor:
    """Every token times every slot present, and zero for those that are not its own."""
    present, mask = _mask(rows, factors.layout)
    a, b = (side.index_select(0, present).flatten(0, 1) for side in factors.stack())
    return ((x @ a.t()) * mask.to(x.dtype)) @ b


def _mask(rows: Rows, layout: Layout) -> tuple[Tensor, Tensor]:
    """The slots present, and (tokens, slots present * width): 1 where the slot is the token's."""
    found: tuple[Tensor, Tensor] | None = rows.memo.get(("mask", layout.width))
    if found is None:
        present = torch.tensor(rows.present or (), dtype=torch.long, device=rows.slots.device)
        own = rows.slots.unsqueeze(1) == present
        found = present, own.repeat_interleave(layout.width, dim=1)
        rows.memo["mask", layout.width] = found
    return found


# A copy of the matrices for each token


def gathered(x: Tensor, factors: Factors, rows: Rows) -> Tensor:
    """Each token with a copy of its slot's matrices. Slots are read on the device only."""
    a, b = (side.index_select(0, rows.slots) for side in factors.stack())
    hidden = torch.bmm(x.unsqueeze(1), a.transpose(1, 2))  # (tokens, 1, width)
    return torch.bmm(hidden, b).squeeze(1)


def _add_gathered(y: Tensor, x: Tensor, factors: Factors, rows: Rows) -> None:
    a, b = (side.index_select(0, rows.slots) for side in factors.stack())
    y.unsqueeze(1).baddbmm_(torch.bmm(x.unsqueeze(1), a.transpose(1, 2)), b)


# Tokens sorted by slot, one product with groups of uneven size


def grouped(x: Tensor, factors: Factors, rows: Rows) -> Tensor:
    """Two grouped products over the tokens in the order of their slots, base tokens left out.

    `grouped_mm` wants rows that start at multiples of 16 bytes: width, in and out must be
    divisible by 16 / element size.
    """
    order, ends = _groups(rows, len(factors.layout.ranks))
    a, b = (side[BASE + 1 :] for side in factors.stack())
    hidden = torch.nn.functional.grouped_mm(x[order], a.transpose(1, 2), offs=ends)
    delta = torch.nn.functional.grouped_mm(hidden, b, offs=ends)
    return x.new_zeros(len(x), factors.shape[1]).index_copy(0, order, delta)


def _groups(rows: Rows, slots: int) -> tuple[Tensor, Tensor]:
    """The adapted tokens in the order of their slots, and where each slot's tokens end."""
    found: tuple[Tensor, Tensor] | None = rows.memo.get(("groups", slots))
    if found is None:
        counts = torch.bincount(rows.slots, minlength=slots)
        order = rows.slots.argsort(stable=True)[int(counts[BASE]) :]
        found = order, counts[BASE + 1 :].cumsum(0, dtype=torch.int32)
        rows.memo["groups", slots] = found
    return found


# Dot products with the rows of the stacks in place: nothing is copied, padded ranks cost nothing


class _Sampling(NamedTuple):
    """For each token the rows of the flattened stacks that belong to its slot."""

    pattern: Tensor  # sparse CSR (tokens, slots * width), one entry per token and rank
    rows: Tensor  # (entries,): its columns
    starts: Tensor  # (tokens,): where each token's entries begin


def sampled(x: Tensor, factors: Factors, rows: Rows) -> Tensor:
    """A sampled product for A, weighted bags of rows for B. CPU; passes no gradient on.

    The first product is x A^T over all slots, computed only where slot and token belong together
    (`sampled_addmm`). The second sums the rows of B with those numbers as weights, which is what
    an embedding bag does.
    """
    pattern, columns, starts = _sampling(x, factors.layout, rows)
    a, b = factors.flat()
    hidden = torch.sparse.sampled_addmm(pattern, x, a, beta=0.0).values()
    return torch.embedding_bag(b, columns, starts, False, 0, False, hidden)[0]


def _sampling(x: Tensor, layout: Layout, rows: Rows) -> _Sampling:
    found: _Sampling | None = rows.memo.get(("sampling", layout))
    if found is None:
        found = rows.memo["sampling", layout] = _sample(x, layout, rows.slots)
    return found


def _sample(x: Tensor, layout: Layout, slots: Tensor) -> _Sampling:
    ranks = torch.tensor(layout.ranks, device=slots.device)[slots]  # (tokens,)
    ends = ranks.cumsum(0)
    starts = ends - ranks
    # Entry e of a token is row (e - its first entry) of its slot.
    own = torch.arange(int(ranks.sum()), device=slots.device) - starts.repeat_interleave(ranks)
    columns = (slots * layout.width).repeat_interleave(ranks) + own
    pattern = _csr(
        torch.cat([ends.new_zeros(1), ends]),
        columns,
        x.new_zeros(len(columns)),
        (len(slots), len(layout.ranks) * layout.width),
    )
    return _Sampling(pattern, columns, starts)


def _csr(ends: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(ends, columns, values, size=size, check_invariants=False)


def _announce_sparse() -> None:
    """Let torch say once, unheard, that its CSR tensors are beta; the tests hold their results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _csr(torch.tensor([0, 0]), torch.tensor([], dtype=torch.long), torch.zeros(0), (1, 1))


_announce_sparse()


def _adding(delta: Delta) -> Add:
    def add(y: Tensor, x: Tensor, factors: Factors, rows: Rows) -> None:
        y.add_(delta(x, factors, rows))

    return add


OPS: dict[str, Op] = {
    "loop": Op(loop, _add_loop, differentiable=True),
    "dense": Op(dense, _adding(dense), differentiable=True),
    "gathered": Op(gathered, _add_gathered, differentiable=True),
    "grouped": Op(grouped, _adding(grouped), differentiable=True),
    "sampled": Op(sampled, _adding(sampled), differentiable=False),
}
