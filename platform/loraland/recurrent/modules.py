"""The recurrent nets as modules with the conventions of `torch.nn.LSTM`.

    cell       paper                                      equations (arXiv 1808.03314v9)
    Rnn        canonical RNN; standard with W_s = 0       30, 31; 32, 33
    Lstm       Vanilla LSTM                               126-136, back 139-155
    Lstm with window, input_gate, projection: Augmented   196-214, back 216-229

Layers, directions, dropout, packed or padded input, state in and out. What a layer computes is in
`scan` and `scan_rnn`; how weights begin is in `beginnings`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loraland.errors import InvalidConfiguration
from loraland.recurrent import beginnings
from loraland.recurrent.scan import Plan, Weights, lstm
from loraland.recurrent.scan_rnn import RnnWeights, rnn
from loraland.recurrent.stack import Stack, check_sizes


class Lstm(Stack):
    """The Vanilla LSTM, or an Augmented one with any of its three extensions.

    Names of the paper in terms of a layer's parameters: W_x* are rows of `weight_x_l0`
    (window, G d_s, d_x), W_s* of `weight_s_l0` and `weight_s_cr_l0`, W_v* of `weight_v_l0`
    (G d_s, d_v), b_* of `bias_l0`, W_qdr is `weight_q_l0` (d_v, d_s). G is 4: cu, cs, du, cr, which
    are i, f, g, o of torch; with an input gate 5, cx in front. `entities` gives them by name.

    The state is (v, s), (h, c) of torch. With a window of L the value at step n depends on inputs
    up to step n + L - 1; the input must have L steps.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        window: int = 1,
        input_gate: bool = False,
        projection: int | None = None,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        clip: float | None = None,
    ) -> None:
        """`clip` bounds every alpha on the way back, as the paper advises; None: exact gradients.

        Raises InvalidConfiguration.
        """
        super().__init__(
            input_size, hidden_size, num_layers, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, clip=clip,
        )  # fmt: skip
        check_sizes(window=window, **({} if projection is None else {"projection": projection}))
        if projection is not None and projection > hidden_size:
            raise InvalidConfiguration(
                f"the projection has {projection} numbers and the state {hidden_size}; it must not "
                "be larger"
            )
        self.window, self.input_gate, self.projection = window, input_gate, projection
        self.sizes = (projection or hidden_size, hidden_size)
        for name in self.suffixes():
            layer = int(name[1:].split("_")[0])
            d_x = self.sizes[0] * self.directions if layer else input_size
            for part, shape in self._shapes(d_x).items():
                self.register_parameter(f"{part}_{name}", nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    @property
    def gates(self) -> int:
        """Accumulation nodes: 4, or 5 with an input gate."""
        return 5 if self.input_gate else 4

    def _shapes(self, d_x: int) -> dict[str, tuple[int, ...]]:
        (d_v, d_s), gates = self.sizes, self.gates
        found = {
            "weight_x": (self.window, gates * d_s, d_x),
            "weight_s": ((gates - 2) * d_s, d_s),
            "weight_s_cr": (d_s, d_s),
            "weight_v": (gates * d_s, d_v),
            "bias": (gates * d_s,),
        }
        return found if self.projection is None else found | {"weight_q": (d_v, d_s)}

    def reset_parameters(self) -> None:
        """Begin anew, as `beginnings.begin_lstm` says."""
        for number in range(len(self.suffixes())):
            beginnings.begin_lstm(self.weights(number), self.hidden_size)

    def weights(self, number: int = 0) -> Weights:
        """Of a layer and direction, by its place in `suffixes`."""
        name = self.suffixes()[number]
        parts = ("weight_x", "weight_s", "weight_s_cr", "weight_v", "bias", "weight_q")
        return Weights(*(getattr(self, f"{part}_{name}", None) for part in parts))  # type: ignore[arg-type]

    def scan(
        self, number: int, x: Tensor, s0: Tensor, v0: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `scan.lstm`."""
        return lstm(x, s0, v0, self.weights(number), plan)

    def nodes(self) -> tuple[str, ...]:
        """The accumulation nodes in the order of their rows."""
        return ("cx", "cu", "cs", "du", "cr")[-self.gates :]

    def entities(self, number: int = 0) -> dict[str, Tensor]:
        """The weights of a layer and direction under the paper's names, as views.

        W_x* are (d_s, d_x) of a Vanilla cell, and (window, d_s, d_x) of an augmented one.
        """
        w, d_s = self.weights(number), self.hidden_size
        is_vanilla = self.gates == 4 and self.window == 1 and self.projection is None
        found: dict[str, Tensor] = {} if w.q is None else {"W_qdr": w.q}
        for n, node in enumerate(self.nodes()):
            rows = slice(n * d_s, (n + 1) * d_s)
            found[f"W_x{node}"] = w.x[0, rows] if is_vanilla else w.x[:, rows]
            found[f"W_v{node}"], found[f"b_{node}"] = w.v[rows], w.b[rows]
            if node == "cr":
                found["W_scr"] = w.s_cr
            elif node != "du":
                found[f"W_s{node}"] = w.s[rows]
        return found


class VanillaLSTM(Lstm):
    """The Vanilla LSTM: full peepholes, and a readout gate that sees the new state (126-136)."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **how: Any) -> None:
        """Takes what `Lstm` takes, but its extensions."""
        if extra := {"window", "input_gate", "projection"} & set(how):
            raise InvalidConfiguration(
                f"a Vanilla LSTM has no {sorted(extra)[0]}; take AugmentedLSTM"
            )
        super().__init__(input_size, hidden_size, num_layers, **how)


class AugmentedLSTM(Lstm):
    """The Augmented LSTM: window of inputs, gate on the input, projection (196-214)."""

    def __init__(
        self, input_size: int, hidden_size: int, projection: int, window: int,
        num_layers: int = 1, **how: Any,
    ) -> None:  # fmt: skip
        """Takes what `Lstm` takes; all three extensions are on."""
        super().__init__(
            input_size, hidden_size, num_layers, window=window, input_gate=True,
            projection=projection, **how,
        )  # fmt: skip


class Rnn(Stack):
    """The canonical RNN (30, 31), or without a state matrix the standard one (32, 33).

    W_x is `weight_x_l0`, W_r `weight_r_l0`, theta_s `theta_l0`, W_s `weight_s_l0` of a canonical
    one. The state is (r, s), the readout, which is also the output, and the state signal.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        canonical: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        clip: float | None = None,
    ) -> None:
        """See `Lstm`. Raises InvalidConfiguration."""
        super().__init__(
            input_size, hidden_size, num_layers, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, clip=clip,
        )  # fmt: skip
        self.canonical, self.sizes = canonical, (hidden_size, hidden_size)
        square = (hidden_size, hidden_size)
        for name in self.suffixes():
            layer = int(name[1:].split("_")[0])
            d_x = hidden_size * self.directions if layer else input_size
            shapes = {"weight_x": (1, hidden_size, d_x), "weight_r": square, "theta": square[:1]}
            for part, shape in (shapes | ({"weight_s": square} if canonical else {})).items():
                self.register_parameter(f"{part}_{name}", nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin anew, as `beginnings.begin_rnn` says."""
        for number in range(len(self.suffixes())):
            beginnings.begin_rnn(self.weights(number))

    def weights(self, number: int = 0) -> RnnWeights:
        """Of a layer and direction, by its place in `suffixes`."""
        name = self.suffixes()[number]
        parts = ("weight_x", "weight_r", "theta", "weight_s")
        return RnnWeights(*(getattr(self, f"{part}_{name}", None) for part in parts))  # type: ignore[arg-type]

    def scan(
        self, number: int, x: Tensor, s0: Tensor, v0: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `scan_rnn.rnn`."""
        return rnn(x, s0, v0, self.weights(number), plan)
