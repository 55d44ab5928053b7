"""Inference on a stream: one step in, and the value that can be known by then out.

A window of L inputs makes a layer wait for L - 1 steps, and layers add up: the value of step n
comes when step n + latency is there. Knows no files and no network.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from loraland.errors import InvalidConfiguration, InvalidRequest
from loraland.recurrent.modules import Lstm
from loraland.recurrent.scan import Plan, lstm


class Stream:
    """The state of one net on a stream of some rows in step.

    After `finish` every value has been given, equal to those of the whole sequence at once.
    """

    def __init__(self, net: Lstm, rows: int = 1) -> None:
        """Raises InvalidConfiguration for a bidirectional net, which needs the end first."""
        if net.bidirectional:
            raise InvalidConfiguration(
                "a bidirectional net reads a sequence from its end, which a stream does not have; "
                "take a window of inputs instead"
            )
        self._net, self._rows = net, rows
        self._layers = [_Layer(net, n, rows) for n in range(net.num_layers)]
        self._given = 0  # steps
        self._finished = False

    @property
    def latency(self) -> int:
        """Steps that a value waits for its inputs: layers times (window - 1)."""
        return self._net.num_layers * (self._net.window - 1)

    @torch.inference_mode()
    def step(self, x: Tensor) -> Tensor | None:
        """Take x (rows, d_x); give the value (rows, d_v) of the step `latency` ago, if there is.

        Raises InvalidRequest for another shape, numbers that are not finite, or after `finish`.
        """
        if self._finished:
            raise InvalidRequest("this stream was finished; begin a new one")
        expected = (self._rows, self._net.input_size)
        if tuple(x.shape) != expected or not bool(torch.isfinite(x).all()):
            raise InvalidRequest(
                f"a step of {tuple(x.shape)} came; expected {expected}, finite numbers"
            )
        self._given += 1
        return self._through(x, 0)

    @torch.inference_mode()
    def finish(self) -> list[Tensor]:
        """The stream is over: the values that still waited, at most `latency` of them, in order."""
        self._finished = True
        values = []
        for number, layer in enumerate(self._layers):
            # What a layer gives late goes through those above before these are told of the end.
            for late in layer.drain():
                value = self._through(late, number + 1)
                if value is not None:
                    values.append(value)
        return values

    def _through(self, x: Tensor, first: int) -> Tensor | None:
        value: Tensor | None = x
        for layer in self._layers[first:]:
            if value is None:
                return None
            value = layer.step(value)
        return value


class _Layer:
    """One layer: its last inputs, as many as the window, and its state."""

    def __init__(self, net: Lstm, number: int, rows: int) -> None:
        self._weights, self._window = net.weights(number), net.window
        kind = self._weights.b
        self._v = kind.new_zeros(rows, net.sizes[0])
        self._s = kind.new_zeros(rows, net.sizes[1])
        self._waiting: deque[Tensor] = deque()

    def step(self, x: Tensor) -> Tensor | None:
        self._waiting.append(x)
        return self._run() if len(self._waiting) == self._window else None

    def drain(self) -> list[Tensor]:
        """Values of the last steps, whose windows reach past the end."""
        return [self._run() for _ in range(len(self._waiting))]

    def _run(self) -> Tensor:
        """The first step that waits, by a scan of one step over what its window sees."""
        w = self._weights
        seen = torch.cat([*self._waiting], 1)  # (rows, steps seen x d_x)
        filters = torch.cat(list(w.x[: len(self._waiting)]), 1).unsqueeze(0)
        one = Plan((len(seen),))
        values, self._s, self._v = lstm(
            seen.unsqueeze(0), self._s, self._v, w._replace(x=filters), one
        )
        self._waiting.popleft()
        return values[0]
