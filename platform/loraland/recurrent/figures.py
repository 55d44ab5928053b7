"""The figures of docs/recurrent.md, from numbers of one run of this code.

    loraland recurrent figures docs        # writes recurrent-flow.svg, and recurrent-STUDY.svg

Gradient flow needs seconds; learning curves are those of studies whose results are in storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from loraland.recurrent.beginnings import remember
from loraland.recurrent.flow import Flow, flow_of
from loraland.recurrent.modules import Lstm, Rnn, VanillaLSTM
from loraland.recurrent.plot import Line, Panel, draw
from loraland.recurrent.recipe import Study

STEPS, INPUTS, HIDDEN = 200, 2, 32


def flow_figure(seed: int = 0) -> str:
    """|dE/ds| at each step for an error at the last of 200, of nets that have learned nothing yet.

    An RNN with W_r scaled to norm 0.9, the Vanilla LSTM as it begins and with memories up to the
    length, and the carousel: gates held at g_cs = 1, g_cu = g_cr = 0 but at the last step.
    """
    torch.manual_seed(seed)
    x = np.random.default_rng(seed).normal(size=(STEPS, INPUTS))
    rnn, plain, long = Rnn(INPUTS, HIDDEN), VanillaLSTM(INPUTS, HIDDEN), VanillaLSTM(INPUTS, HIDDEN)
    with torch.no_grad():
        rnn.weights().r.mul_(0.9)
    remember(long.weights(), STEPS)
    flows = {
        "RNN, orthogonal W_r times 0.9": flow_of(rnn, x),
        "Vanilla LSTM, b_cs = 1": flow_of(plain, x),
        "Vanilla LSTM, memories up to 200 steps": flow_of(long, x),
        "constant error carousel": flow_of(carousel(), x),
    }
    return draw(
        [
            Panel("error in the state", "step", "|psi|, of the last = 1", _lines(flows), True),
            Panel("error in the value", "step", "|chi|", _lines(flows, of_state=False), True),
        ]
    )


def carousel() -> Lstm:
    """A Vanilla LSTM whose state gate stays open and whose update gate stays shut (example 2)."""
    made = VanillaLSTM(INPUTS, HIDDEN)
    with torch.no_grad():
        for one in made.parameters():
            one.zero_()
        cu, cs, _, _ = made.weights().b.chunk(4)
        cu.fill_(-40.0)
        cs.fill_(40.0)
    return made


def curve_figure(study: Study, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The median error over seeds while training, a line a cell.

    Raises ValueError where a study has no result.
    """
    lines = [Line(cell, _median_curve(results)) for cell, results in found.items() if results]
    logarithmic = study.problem.form.kind == "number"
    return draw([Panel(study.name, "updates", "error on fresh rows", lines, logarithmic)])


def _median_curve(results: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """A seed that stopped early, because it was good enough, counts with its last error."""
    updates = sorted({int(n) for one in results for n, _ in one["curve"]})
    curves = [{int(n): float(error) for n, error in one["curve"]} for one in results]
    points = []
    for update in updates:
        errors = [curve[max(n for n in curve if n <= update)] for curve in curves]
        points.append((float(update), float(np.median(errors))))
    return points


def _lines(flows: Mapping[str, Flow], of_state: bool = True) -> list[Line]:
    lines = []
    for name, flow in flows.items():
        norms = flow.psi / max(flow.psi[-1], 1e-300) if of_state else flow.chi
        lines.append(Line(name, [(float(n), float(one)) for n, one in enumerate(norms)]))
    return lines
