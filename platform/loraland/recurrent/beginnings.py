"""How weights begin. The paper is silent on it; these are common choices, in one place.

Filters on the input Xavier-uniform, recurrent matrices orthogonal by gate, peepholes uniform and
small, so that states do not shut gates at first; the state gate opens at +1, so that a state lasts,
and so does the gate on the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loraland.recurrent.scan import Weights
from loraland.recurrent.scan_rnn import RnnWeights

PEEPHOLE = 0.1  # bound of a peephole weight, over the root of the state's size
OPEN = 1.0  # bias of the gates that begin open: cs, cx


@torch.no_grad()
def begin_lstm(w: Weights, d_s: int) -> None:
    """Fill the weights of one layer and direction in place, from torch's generator."""
    gates = len(w.b) // d_s
    for one in w.x.flatten(0, 1).chunk(len(w.x) * gates):
        nn.init.xavier_uniform_(one)
    for one in w.v.chunk(gates):
        nn.init.orthogonal_(one)
    for one in (w.s, w.s_cr):
        nn.init.uniform_(one, -PEEPHOLE / d_s**0.5, PEEPHOLE / d_s**0.5)
    w.b.zero_()
    biases = w.b.chunk(gates)
    for one in (biases[-3], *biases[:-4]):
        one.fill_(OPEN)
    if w.q is not None:
        nn.init.orthogonal_(w.q)


@torch.no_grad()
def begin_rnn(w: RnnWeights) -> None:
    """Fill the weights of one layer and direction in place: W_r orthogonal, W_s near 0."""
    nn.init.xavier_uniform_(w.x[0])
    nn.init.orthogonal_(w.r)
    w.theta.zero_()
    if w.s is not None:
        nn.init.uniform_(w.s, -PEEPHOLE / len(w.theta) ** 0.5, PEEPHOLE / len(w.theta) ** 0.5)


def count(module: nn.Module) -> int:
    """The numbers that a module learns."""
    found: list[Tensor] = list(module.parameters())
    return sum(one.numel() for one in found)


@torch.no_grad()
def remember(w: Weights, steps: int) -> None:
    """Let units of an LSTM begin with memories of 1 to `steps` steps: b_cs = log U(1, steps - 1).

    And b_cu = -b_cs, as Tallec and Ollivier (2018, arXiv 1804.11188) advise.
    """
    gates = w.b.chunk(len(w.b) // len(w.s_cr))
    gates[-3].uniform_(1, max(steps - 1, 1) + 1e-6).log_()
    gates[-4].copy_(gates[-3]).neg_()
