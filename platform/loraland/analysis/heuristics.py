"""How complex a task's data looks: lengths, likeness of input and output, compressibility.

The report names these quantities (Figure 8) without defining them; the definitions here are ours
and are said at each. Told examples and a way to measure length; knows no files and no models.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from loraland.errors import DataRefused

Length = Callable[[str], int]


class Example(NamedTuple):
    """A question and its gold answer, as a model is trained on them."""

    prompt: str
    completion: str

    @property
    def text(self) -> str:
        """Both, with a space between, as they are trained on."""
        return f"{self.prompt} {self.completion}"


class Spread(NamedTuple):
    """Of one quantity over examples."""

    mean: float
    std: float  # over all examples, divided by their number
    p95: float  # linear between order statistics


class Heuristics(NamedTuple):
    """What is known of a task before it is trained."""

    measured: int  # examples that were looked at
    train_examples: int  # that there are
    unit: str  # of the lengths: words, characters or tokens
    input_length: Spread
    output_length: Spread
    example_length: Spread  # input and output together
    similarity: Spread  # ROUGE-L F-measure of input and output, in [0, 1]
    compressibility: Spread  # compressed bytes / bytes; smaller: more compressible
    answers: int  # different outputs among those looked at

    def values(self) -> dict[str, float]:
        """By the names that Figure 8 has in `analysis/data/figure8.csv`."""
        lengths = ("input_length", "output_length", "example_length")
        found = {
            f"{name}_{part}": value
            for name in lengths
            for part, value in getattr(self, name)._asdict().items()
        }
        for name in ("similarity", "compressibility"):
            spread: Spread = getattr(self, name)
            found |= {f"{name}_mean": spread.mean, f"{name}_std": spread.std}
        return found | {"train_examples": float(self.train_examples)}


NAMES = (
    *(f"{n}_length_{p}" for n in ("input", "output", "example") for p in ("mean", "std", "p95")),
    *(f"{name}_{part}" for name in ("similarity", "compressibility") for part in ("mean", "std")),
    "train_examples",
)


def words(text: str) -> int:
    """Runs of characters without white space."""
    return len(re.findall(r"\S+", text))


LENGTHS: dict[str, Length] = {"words": words, "characters": len}


def measure(
    examples: Sequence[Example],
    unit: str = "words",
    length: Length | None = None,
    train_examples: int | None = None,
) -> Heuristics:
    """The heuristics of some examples of a task.

    `length` measures in `unit`; it may be left out for words and characters. `train_examples` is
    how many there are where `examples` is a sample. Raises DataRefused when there are none,
    KeyError for a unit that needs a `length`.
    """
    if not examples:
        raise DataRefused("there are no examples to measure; give at least one")
    count = length or LENGTHS[unit]
    return Heuristics(
        measured=len(examples),
        train_examples=train_examples or len(examples),
        unit=unit,
        input_length=spread([count(one.prompt) for one in examples]),
        output_length=spread([count(one.completion) for one in examples]),
        example_length=spread([count(one.text) for one in examples]),
        similarity=spread([similarity(one.prompt, one.completion) for one in examples]),
        compressibility=spread([compressibility(one.text) for one in examples]),
        answers=len({one.completion for one in examples}),
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and 95th percentile. Raises ValueError when there are none."""
    if not values:
        raise ValueError("no values to spread")
    found = np.asarray(values, dtype=np.float64)
    return Spread(float(found.mean()), float(found.std()), float(np.percentile(found, 95)))


def similarity(first: str, second: str) -> float:
    """ROUGE-L F-measure (Lin 2004) of two texts, symmetric, in [0, 1].

    On lower-case runs of a-z and 0-9, without stemming: texts of other scripts have nothing in
    common.
    """
    return float(_rouge_l().score(first, second)["rougeL"].fmeasure)


@cache
def _rouge_l() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: only when needed

    return RougeScorer(["rougeL"])


def compressibility(text: str) -> float:
    """Bytes after zlib at level 9 / bytes before, of the UTF-8 text; above 1 for very short texts.

    The direction is the report's: in its Figure 8 longer examples have less of it (-0.75). Raises
    ValueError for an empty text.
    """
    raw = text.encode("utf-8", "surrogatepass")
    if not raw:
        raise ValueError("an empty text has no compressibility")
    return len(zlib.compress(raw, 9)) / len(raw)
