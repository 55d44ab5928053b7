"""Trains one net on a made-up problem with one seed, and says how large its error is on fresh rows.

Told a trial; knows no storage and no Ray. The same trial gives the same result on one machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from loraland.errors import TrainingDiverged
from loraland.recurrent.beginnings import count, remember
from loraland.recurrent.modules import Lstm, Rnn
from loraland.recurrent.problems import Examples, Problem, errors_of
from loraland.recurrent.recipe import Cell, Training, Trial

TEST_SEED = 1_000_003  # of the rows that all seeds of a problem are tested on


class Result(NamedTuple):
    """How a trial ended."""

    error: float  # mean over test rows
    updates: int
    curve: list[tuple[int, float]]  # updates, error on 200 fresh rows
    parameters: int
    seconds: float


class Net(nn.Module):
    """A recurrent net and a linear layer on its values."""

    def __init__(self, cell: Cell, hidden: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net: Lstm | Rnn
        if cell.net == "lstm":
            self.net = Lstm(
                inputs, hidden, window=cell.window, input_gate=cell.input_gate,
                projection=cell.projection,
            )  # fmt: skip
            if cell.memory is not None:
                remember(self.net.weights(), cell.memory)
        else:
            self.net = Rnn(inputs, hidden, canonical=cell.net == "canonical_rnn")
        self.head = nn.Linear(self.net.sizes[0], outputs)

    def forward(self, x: Tensor, scored: int) -> Tensor:
        """What is said of the last `scored` steps of x (K, rows, d_x)."""
        values, _ = self.net(x)
        said: Tensor = self.head(values[-scored:])
        return said


def run_trial(trial: Trial, on_evaluation: Callable[[int, float], None] | None = None) -> Result:
    """Train and test. Raises TrainingDiverged when the loss is no number."""
    problem, how = trial.study.problem, trial.study.training
    form = problem.form
    torch.manual_seed(trial.seed)
    random = np.random.default_rng(trial.seed)
    net = Net(trial.study.cells[trial.cell], how.hidden, form.inputs, form.outputs)
    optimiser = torch.optim.Adam(net.parameters(), how.learning_rate)
    begun, curve, update = time.monotonic(), [], 0
    checked = np.random.default_rng(TEST_SEED + 1 + trial.seed)
    for update in range(1, how.updates + 1):
        for group in optimiser.param_groups:
            group["lr"] = _rate(how, update)
        part = _part(problem, how, update)
        loss = _loss(net, part, part.draw(how.rows, random))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(net.parameters(), how.clip_norm)
        if not bool(torch.isfinite(loss + norm)):
            raise TrainingDiverged(
                f"the loss of {trial.cell} with seed {trial.seed} is {float(loss.detach())} at "
                f"update {update}, its gradient {float(norm)}; lower learning_rate "
                f"({how.learning_rate}) or clip_norm"
            )
        optimiser.step()
        if update % how.evaluate_every == 0 or update == how.updates:
            curve.append((update, test_error(net, problem, 200, checked)))
            if on_evaluation is not None:
                on_evaluation(*curve[-1])
            if how.stop_below is not None and curve[-1][1] < how.stop_below:
                break
    error = test_error(net, problem, how.test_rows, np.random.default_rng(TEST_SEED))
    return Result(error, update, curve, count(net), time.monotonic() - begun)


@torch.no_grad()
def test_error(net: Net, problem: Problem, rows: int, random: np.random.Generator) -> float:
    """The mean error over fresh rows."""
    examples = problem.draw(rows, random)
    said = net(torch.from_numpy(examples.x), problem.form.scored)
    return float(errors_of(problem, said.numpy(), examples.y).mean())


def _loss(net: Net, problem: Problem, examples: Examples) -> Tensor:
    said = net(torch.from_numpy(examples.x), problem.form.scored)
    if problem.form.kind == "number":
        return nn.functional.mse_loss(said[..., 0], torch.from_numpy(examples.y).to(said))
    return nn.functional.cross_entropy(said.flatten(0, 1), torch.from_numpy(examples.y).flatten())


def _part(problem: Problem, how: Training, update: int) -> Problem:
    """The problem as long as it is at an update: from an eighth of its length on, evenly."""
    growing = how.lengthen * how.updates
    return problem if update > growing else problem.shortened(1 / 8 + 7 / 8 * update / growing)


def _rate(how: Training, update: int) -> float:
    return how.learning_rate * (1 + math.cos(math.pi * (update - 1) / how.updates)) / 2
