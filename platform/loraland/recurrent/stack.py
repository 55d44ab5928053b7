"""Layers and directions of a recurrent cell, with the conventions of `torch.nn.LSTM`.

Checks and sorts the input, runs the layers, gives values and states back as they came. What a layer
computes is told by a subclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from loraland.errors import InvalidConfiguration
from loraland.recurrent.inputs import Batch, batch_of, check_state
from loraland.recurrent.scan import Plan

State = tuple[Tensor, Tensor]  # value and inner state, (layers x directions, rows, size) each


class Stack(nn.Module):
    """Layers and directions of some cell."""

    window = 1
    sizes: tuple[int, int]  # of the value and of the inner state

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, *, batch_first: bool,
        dropout: float, bidirectional: bool, clip: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if not 0 <= dropout < 1:
            raise InvalidConfiguration(f"dropout is {dropout}; give a number from 0 to below 1")
        if clip is not None and not clip > 0:
            raise InvalidConfiguration(f"clip is {clip}; give a positive bound, or None for none")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.bidirectional, self.clip = batch_first, bidirectional, clip
        self.dropout = dropout

    @property
    def directions(self) -> int:
        """1, or 2 of a bidirectional one."""
        return 2 if self.bidirectional else 1

    def suffixes(self) -> list[str]:
        """Of the names of weights: `l0`, `l0_reverse`, `l1`, ... as in torch."""
        ways = ("", "_reverse")[: self.directions]
        return [f"l{layer}{way}" for layer in range(self.num_layers) for way in ways]

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> tuple[Any, State]:
        """Values of every step, in the form of the input, and the state after each row's end.

        `x` is (K, rows, d_x), with batch_first (rows, K, d_x), (K, d_x) for one sequence, or a
        PackedSequence; `lengths` (rows,) are of padded rows, whose values are zero past their end.
        `state` is (value, inner state), each (layers x directions, rows, size), or 0; without a
        dimension of rows where x has none. Raises InvalidRequest.
        """
        batch = batch_of(
            x, self.input_size, batch_first=self.batch_first, lengths=lengths, window=self.window
        )
        starts = self._starts(batch, state)
        plan = Plan.of_lengths(batch.lengths, self.clip)
        values, ends = batch.x, []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                values = nn.functional.dropout(values, self.dropout, self.training)
            values, ended = self._layer(layer, values, starts, batch, plan)
            ends += ended
        last = tuple(batch.given_rows(torch.stack([one[n] for one in ends])) for n in range(2))
        if batch.is_single:
            last = tuple(one.squeeze(1) for one in last)
        return batch.output(values), (last[0], last[1])

    def _layer(
        self, layer: int, x: Tensor, starts: State, batch: Batch, plan: Plan
    ) -> tuple[Tensor, list[State]]:
        outputs, ends = [], []
        for way in range(self.directions):
            number = layer * self.directions + way
            given = batch.reversed_time(x) if way else x
            v0, s0 = starts[0][number], starts[1][number]
            of_steps, inner, value = self.scan(number, given, s0, v0, plan)
            outputs.append(batch.reversed_time(of_steps) if way else of_steps)
            ends.append((value, inner))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), ends

    def scan(
        self, number: int, x: Tensor, s0: Tensor, v0: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer and direction: values, last inner state, last value."""
        raise NotImplementedError

    def _starts(self, batch: Batch, state: State | None) -> State:
        shapes = [(self.num_layers * self.directions, batch.rows, size) for size in self.sizes]
        if state is None:
            return (batch.x.new_zeros(shapes[0]), batch.x.new_zeros(shapes[1]))
        given = [one.unsqueeze(1) if batch.is_single and one.dim() == 2 else one for one in state]
        checked = [
            batch.sorted_rows(check_state(name, one, shape))
            for name, one, shape in zip(("value", "inner state"), given, shapes, strict=True)
        ]
        return checked[0], checked[1]

    def extra_repr(self) -> str:
        """Sizes, as printed."""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def check_sizes(**sizes: int) -> None:
    """Raises InvalidConfiguration for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise InvalidConfiguration(f"{name} is {size}; it must be at least 1")
