"""Made-up sequence problems, each of which one property of a cell decides. NumPy alone, seeded.

    adding      two marked numbers among many are to be added at the end: memory over the length
    copy        symbols are to be repeated after a long blank: memory for several things at once
    look_ahead  the label of a step depends on the step two later: the window of inputs
    noisy       an oscillation goes on while loud noise hides it: the gate on the input

adding and copy as in Hochreiter and Schmidhuber (1997); the other two are ours.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from loraland.recurrent.warping import Array

Kind = Literal["number", "label"]


class Examples(NamedTuple):
    """Some sequences and what is to be said of their last steps."""

    x: NDArray[np.float32]  # (K, rows, d_x)
    y: Array  # (scored, rows) numbers, or whole numbers that name a label


class Form(NamedTuple):
    """The sizes of a problem."""

    inputs: int  # d_x
    outputs: int  # numbers, or labels
    kind: Kind
    scored: int  # steps, from the last, at which something is to be said
    chance: float  # the error of a constant answer that needs no memory


class Problem(Protocol):
    """What every problem has."""

    @property
    def form(self) -> Form:
        """Its sizes."""

    def draw(self, rows: int, random: np.random.Generator) -> Examples:
        """Fresh examples."""

    def shortened(self, share: float) -> Problem:
        """The same problem over a share of its length, for the beginning of training."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Adding(_Strict):
    """Two numbers in (0, 1), one marked in each half; error: mean squared."""

    kind: Literal["adding"]
    steps: int = Field(default=200, ge=4, le=10_000)

    @property
    def form(self) -> Form:
        """Answering 1 always has the variance of the sum, 1/6, for its error."""
        return Form(2, 1, "number", 1, 1 / 6)

    def draw(self, rows: int, random: np.random.Generator) -> Examples:
        """x: the numbers, and the marks."""
        x = np.zeros((self.steps, rows, 2), np.float32)
        x[..., 0] = random.random((self.steps, rows))
        half, each = self.steps // 2, np.arange(rows)
        places = random.integers(half, size=rows), random.integers(half, self.steps, size=rows)
        for place in places:
            x[place, each, 1] = 1
        return Examples(x, (x[..., 0] * x[..., 1]).sum(0, keepdims=True))

    def shortened(self, share: float) -> Adding:
        """Over fewer steps."""
        return self.model_copy(update={"steps": max(4, round(share * self.steps))})


class Copy(_Strict):
    """Symbols, a blank of `delay` steps, a cue, then all of them again; error: share wrong."""

    kind: Literal["copy"]
    delay: int = Field(default=50, ge=1, le=10_000)
    symbols: int = Field(default=5, ge=1, le=100)
    alphabet: int = Field(default=8, ge=2, le=100)

    @property
    def form(self) -> Form:
        """Inputs are one of the alphabet, blank, or cue."""
        return Form(self.alphabet + 2, self.alphabet, "label", self.symbols, 1 - 1 / self.alphabet)

    def draw(self, rows: int, random: np.random.Generator) -> Examples:
        """x: one-hot."""
        said = random.integers(self.alphabet, size=(self.symbols, rows))
        written = np.full((2 * self.symbols + self.delay, rows), self.alphabet)
        written[: self.symbols] = said
        written[self.symbols + self.delay - 1] = self.alphabet + 1
        x = np.eye(self.alphabet + 2, dtype=np.float32)[written]
        return Examples(x, said)

    def shortened(self, share: float) -> Copy:
        """Over fewer blank steps."""
        return self.model_copy(update={"delay": max(1, round(share * self.delay))})


class LookAhead(_Strict):
    """Of each step, the sum of its symbol and the one `ahead` later, modulo; error: share wrong."""

    kind: Literal["look_ahead"]
    steps: int = Field(default=40, ge=4, le=10_000)
    ahead: int = Field(default=2, ge=1, le=100)
    alphabet: int = Field(default=3, ge=2, le=100)

    @property
    def form(self) -> Form:
        """Past the end there is a symbol 0."""
        return Form(self.alphabet, self.alphabet, "label", self.steps, 1 - 1 / self.alphabet)

    def draw(self, rows: int, random: np.random.Generator) -> Examples:
        """x: one-hot."""
        symbols = random.integers(self.alphabet, size=(self.steps, rows))
        later = np.zeros_like(symbols)
        later[: -self.ahead] = symbols[self.ahead :]
        x = np.eye(self.alphabet, dtype=np.float32)[symbols]
        return Examples(x, (symbols + later) % self.alphabet)

    def shortened(self, share: float) -> LookAhead:
        """Over fewer steps."""
        return self.model_copy(update={"steps": max(4, round(share * self.steps))})


class Noisy(_Strict):
    """A sine of unknown phase and frequency, to be told at every step; error: mean squared.

    At a share of the steps, in bursts that a flag marks, the input is noise without a signal.
    """

    kind: Literal["noisy"]
    steps: int = Field(default=60, ge=10, le=10_000)
    noise: float = Field(default=3.0, ge=0)  # standard deviation; the sine's amplitude is 1
    burst: int = Field(default=6, ge=1)  # steps

    @property
    def form(self) -> Form:
        """Answering 0 always has the mean square of a sine for its error."""
        return Form(2, 1, "number", self.steps, 0.5)

    def draw(self, rows: int, random: np.random.Generator) -> Examples:
        """x: signal or noise, and the flag; the first burst of steps is always clean."""
        times = np.arange(self.steps)[:, None]
        phase = random.uniform(0, 2 * math.pi, rows)
        period = random.uniform(8, 16, rows)
        y = np.sin(2 * math.pi * times / period + phase)
        bursts = -(-self.steps // self.burst)
        loud = np.repeat(random.random((bursts, rows)) < 0.5, self.burst, axis=0)[: self.steps]
        loud[: self.burst] = False
        seen = np.where(loud, random.normal(0, self.noise, y.shape), y)
        return Examples(np.stack([seen, loud], 2).astype(np.float32), y)

    def shortened(self, share: float) -> Noisy:
        """Over fewer steps."""
        return self.model_copy(update={"steps": max(10, round(share * self.steps))})


AnyProblem = Adding | Copy | LookAhead | Noisy


def errors_of(problem: Problem, said: Array, y: Array) -> Array:
    """The error of each row: mean squared, or the share of labels that are wrong.

    `said` is (scored, rows, outputs): the number, or a score for each label. (rows,) of [0, ...).
    """
    if problem.form.kind == "number":
        return np.asarray(((said[..., 0] - y) ** 2).mean(axis=0))
    return np.asarray((said.argmax(axis=2) != y).mean(axis=0))
