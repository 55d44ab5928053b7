"""A linear layer of the base with the adapters of many slots beside it.

Stands in for the base's own layer. Told by a `Binding` which rows the next passes have; asks
`choice` for the operations, and `ops` to run them. Knows nothing of adapters as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from loraland.lora.choice import Conditions, choose
from loraland.lora.dropout import Span, drop
from loraland.lora.factors import Factors, TrainedFactors
from loraland.lora.ops import OPS, Op
from loraland.lora.rows import Rows, Segment
from loraland.lora.trained import add_shares


class Binding:
    """What all layers of one bank share."""

    __slots__ = ("dropout", "head", "head_dropout", "rows", "stats")

    def __init__(self) -> None:
        self.rows: Rows | None = None  # of the next passes; None: everything is base
        self.head: Rows | None = None  # of the input of the lm_head
        self.dropout: Sequence[Span] = ()  # of the rows, in training mode
        self.head_dropout: Sequence[Span] = ()
        self.stats: Counter[str] = Counter()  # operation -> times it was run


class _Step(NamedTuple):
    """One operation over a window of the rows."""

    name: str
    op: Op
    window: slice | None  # None: all rows
    rows: Rows  # of the window; tokens of other steps count as base


class MultiLoraLinear(nn.Module):
    """y = base(x) + scale[s] B[s] A[s] x, with s the slot of each token."""

    def __init__(
        self,
        base: nn.Module,
        factors: Factors,
        binding: Binding,
        dtype: torch.dtype,
        path: str,
        is_head: bool,
    ) -> None:
        """`path` is the layer's in the model, and sets its dropout apart from other layers'."""
        super().__init__()
        self.base = base
        self.in_features, self.out_features = factors.shape
        self.factors: Factors = factors
        self._binding, self._dtype = binding, dtype
        self._path, self._is_head = path, is_head

    @property
    def weight(self) -> Tensor:
        """The base's weight; some models look at its dtype."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out); the leading dimensions, flattened, are the bound rows.

        Raises ValueError when there are more or fewer tokens than rows.
        """
        y: Tensor = self.base(x)
        rows = self._binding.head if self._is_head else self._binding.rows
        if rows is None or rows.base_only:
            return y
        flat = x.reshape(-1, self.in_features)
        if rows.tokens != flat.shape[0]:
            raise ValueError(
                f"{rows.tokens} rows are bound, but a layer was given {len(flat)} tokens; bind "
                "the rows of this pass (the lm_head's apart, when it sees a part of the tokens)"
            )
        if self.factors.trainable or (x.requires_grad and torch.is_grad_enabled()):
            return self._trained(flat, y, rows)
        return self._served(flat, y, rows)

    def _served(self, x: Tensor, y: Tensor, rows: Rows) -> Tensor:
        """Adds in place: nobody else holds the base's fresh output."""
        factors, dtype = self.factors, self._dtype
        steps: list[_Step] | None = rows.memo.get(("steps", factors.layout))
        if steps is None:
            steps = rows.memo["steps", factors.layout] = self._plan(rows)
        if not steps:
            return y  # no row of this pass has an adapter on this layer
        total = y
        # Most bases answer in this form already, and every call counts: 210 layers, each pass.
        if y.dtype is not dtype or x.dtype is not dtype or not y.is_contiguous():
            total, x = y.to(dtype).contiguous(), x.to(dtype)
        flat = total.view(-1, self.out_features)
        for name, op, window, part in steps:
            self._binding.stats[name] += 1
            if window is None:
                op.add(flat, x, factors, part)
            else:
                op.add(flat[window], x[window], factors, part)
        return total if total is y else total.to(y.dtype)

    def _trained(self, x: Tensor, y: Tensor, rows: Rows) -> Tensor:
        segments = _adapted(rows, self.factors)
        if not segments:
            return y
        choice = choose(self._conditions(len(segments), gradients=True))
        self._binding.stats[choice.rest] += 1
        x = x.to(self._dtype)
        if self.training:
            x = drop(x, self._spans(), self._path)
        plain = choice.rest == "loop" and y.dtype is x.dtype and y.is_contiguous()
        if plain and isinstance(self.factors, TrainedFactors):
            return add_shares(y, x, self.factors, segments)
        delta = OPS[choice.rest].delta(x, self.factors, rows)
        return (y + delta.view(y.shape)).to(y.dtype)

    def _spans(self) -> list[Span]:
        spans = self._binding.head_dropout if self._is_head else self._binding.dropout
        ranks = self.factors.layout.ranks
        return [span for span in spans if span.rate and ranks[span.slot]]

    def _plan(self, rows: Rows) -> list[_Step]:
        if rows.present is None:
            choice = choose(self._conditions(None, gradients=False))
            return [_Step(choice.rest, _op(choice.rest), None, rows)]
        segments = _adapted(rows, self.factors)
        choice = choose(self._conditions(len(segments), gradients=False))
        long = frozenset(part for part in segments if part.stop - part.start >= choice.loop_from)
        plan = [("loop", long), (choice.rest, frozenset(segments) - long)]
        if not all(parts for _, parts in plan):
            return [_Step(name, _op(name), None, rows) for name, parts in plan if parts]
        return [_step(name, parts, rows) for name, parts in plan]

    def _conditions(self, segments: int | None, gradients: bool) -> Conditions:
        device = self.factors.device
        whole = 16 // self._dtype.itemsize  # elements in 16 bytes
        return Conditions(
            device=device.type,
            gradients=gradients,
            segments=segments,
            can_sample=device.type == "cpu" and self._dtype in (torch.float32, torch.float64),
            can_group=all(n % whole == 0 for n in (*self.factors.shape, self.factors.layout.width)),
            has_triton=device.type == "cuda" and find_spec("triton") is not None,
        )


def _adapted(rows: Rows, factors: Factors) -> list[Segment]:
    return [part for part in rows.segments if factors.layout.ranks[part.slot]]


def _step(name: str, parts: frozenset[Segment], rows: Rows) -> _Step:
    start, stop = min(part.start for part in parts), max(part.stop for part in parts)
    return _Step(name, _op(name), slice(start, stop), rows.window(start, stop, parts))


def _op(name: str) -> Op:
    if name == "triton":
        from loraland.lora.triton_ops import TRITON

        return TRITON
    return OPS[name]
