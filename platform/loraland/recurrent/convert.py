"""Weights from and to `torch.nn.LSTM`, which is the cell whose peepholes are zero.

torch has two biases, which are added; here there is one. Rows come in the same order: i, f, g, o
are cu, cs, du, cr. `proj_size` is the projection.
"""

from __future__ import annotations

import torch
from torch import nn

from loraland.errors import InvalidConfiguration
from loraland.recurrent.modules import Lstm


@torch.no_grad()
def from_torch(given: nn.LSTM) -> Lstm:
    """The same function with all peepholes 0, in the precision and on the device of `given`."""
    made = Lstm(
        given.input_size,
        given.hidden_size,
        given.num_layers,
        projection=given.proj_size or None,
        batch_first=given.batch_first,
        dropout=given.dropout,
        bidirectional=given.bidirectional,
    ).to(next(given.parameters()))
    for number, name in enumerate(made.suffixes()):
        w = made.weights(number)
        w.x[0] = getattr(given, f"weight_ih_{name}")
        w.v.copy_(getattr(given, f"weight_hh_{name}"))
        w.b.zero_()
        if given.bias:
            w.b.add_(getattr(given, f"bias_ih_{name}")).add_(getattr(given, f"bias_hh_{name}"))
        w.s.zero_()
        w.s_cr.zero_()
        if w.q is not None:
            w.q.copy_(getattr(given, f"weight_hr_{name}"))
    return made


@torch.no_grad()
def to_torch(given: Lstm) -> nn.LSTM:
    """The same function. Raises InvalidConfiguration where torch has no such cell."""
    if given.input_gate or given.window > 1:
        raise InvalidConfiguration(
            "torch.nn.LSTM has no window of inputs and no gate on the input; only a cell with "
            "window=1 and without an input gate can become one"
        )
    if given.projection == given.hidden_size:
        raise InvalidConfiguration(
            f"torch.nn.LSTM projects to less than the state's {given.hidden_size} numbers only"
        )
    made = nn.LSTM(
        given.input_size,
        given.hidden_size,
        given.num_layers,
        batch_first=given.batch_first,
        dropout=given.dropout,
        bidirectional=given.bidirectional,
        proj_size=given.projection or 0,
    ).to(given.weights().b)
    for number, name in enumerate(given.suffixes()):
        w = given.weights(number)
        if bool(w.s.any()) or bool(w.s_cr.any()):
            raise InvalidConfiguration(
                f"peepholes of layer {name} are not zero, and torch.nn.LSTM has none; zero "
                "weight_s and weight_s_cr if the function may change"
            )
        getattr(made, f"weight_ih_{name}").copy_(w.x[0])
        getattr(made, f"weight_hh_{name}").copy_(w.v)
        getattr(made, f"bias_ih_{name}").copy_(w.b)
        getattr(made, f"bias_hh_{name}").zero_()
        if w.q is not None:
            getattr(made, f"weight_hr_{name}").copy_(w.q)
    return made
