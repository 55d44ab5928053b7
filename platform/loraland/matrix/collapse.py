"""Whether an adapter learned nothing: one answer for all, chance, or a loss that never fell.

In the LoRA Land report 19 of 310 runs ended so, 18 of them on Gemma. Decides from stored answers
and the curve of a run; knows no models, no storage and no Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from loraland.adapters.card import CurvePoint, Score
from loraland.evaluation.samples import Sample
from loraland.tasks.task import Task
from loraland.training.recipe import Recipe

FEWEST_ANSWERS = 20  # fewer say nothing about the variety of answers
CONSTANT_SHARE = 0.98  # of answers that are the same
VARIED_SHARE = 0.05  # of gold answers that must differ from their most frequent one
CHANCE_Z = 1.645  # one-sided 5 %
FEWEST_POINTS = 10  # of a curve that is judged
ENDS_SHARE = 0.2  # of a curve, at its start and at its end, that are compared
GENTLER_RATE = 0.2  # of the first learning rate
GENTLER_WARMUP = 0.1  # of all updates, at least


class Collapse(NamedTuple):
    """What is wrong with a run."""

    kind: Literal["constant", "chance", "loss"]
    detail: str  # with the numbers


def find_collapse(
    task: Task, samples: Sequence[Sample], score: Score, curve: Sequence[CurvePoint]
) -> Collapse | None:
    """The first sign of a collapse, or None.

    `samples` are the adapter's answers, `score` its score on them, `curve` that of its run. Answers
    are judged from FEWEST_ANSWERS on, curves from FEWEST_POINTS on.
    """
    answered = [sample for sample in samples if sample.failure is None]
    if len(answered) >= FEWEST_ANSWERS:
        if found := _constant(answered):
            return found
        if task.labels and task.metric == "accuracy" and (found := _chance(answered)):
            return found
    return _flat(curve, score)


def gentler(recipe: Recipe) -> Recipe:
    """The recipe of the one retry: a fifth of the rate, reached over a tenth of the updates."""
    return recipe.model_copy(
        update={
            "learning_rate": recipe.learning_rate * GENTLER_RATE,
            "warmup_share": max(recipe.warmup_share, GENTLER_WARMUP),
        }
    )


def _constant(samples: Sequence[Sample]) -> Collapse | None:
    """One answer for nearly all items, although the gold answers differ."""
    (said, times), gold_times = _most_frequent(samples), _gold_times(samples)
    constant = times >= CONSTANT_SHARE * len(samples)
    varied = len(samples) - gold_times >= VARIED_SHARE * len(samples)
    if not (constant and varied):
        return None
    return Collapse(
        "constant",
        f"{times} of {len(samples)} answers are {said[:60]!r}, "
        f"the most frequent gold answer stands there {gold_times} times",
    )


def _chance(samples: Sequence[Sample]) -> Collapse | None:
    """No more right answers than labels drawn in the same shares would get.

    p_e, the agreement by chance, is the sum over labels of share answered x share gold (Cohen 1960,
    kappa); the share of right answers p_o is held against it with the standard error of a share at
    p_e. Someone who always gives the majority label has p_o = p_e, however frequent that label is.
    """
    count = len(samples)
    said = Counter(_answer(sample) for sample in samples)
    gold = Counter(_normal(sample.target) for sample in samples)
    if len(gold) == 1:
        return None  # nothing is to be told apart
    expected = sum(said[label] * gold[label] for label in gold) / count**2
    right = fmean(sample.score for sample in samples)
    bound = expected + CHANCE_Z * math.sqrt(expected * (1 - expected) / count)
    if right > bound:
        return None
    return Collapse(
        "chance",
        f"{right:.3f} of {count} answers are right, chance gives {expected:.3f} "
        f"and up to {bound:.3f} by luck",
    )


def _flat(curve: Sequence[CurvePoint], score: Score) -> Collapse | None:
    """The training loss at the end is not below that at the start, and the base is not beaten."""
    if len(curve) < FEWEST_POINTS or score.lift_low > 0:
        return None
    width = max(2, round(ENDS_SHARE * len(curve)))
    first = fmean(point.train_loss for point in curve[:width])
    last = fmean(point.train_loss for point in curve[-width:])
    if last < first:
        return None
    return Collapse(
        "loss", f"the loss was {first:.3g} over the first {width} updates, {last:.3g} over the last"
    )


def _most_frequent(samples: Sequence[Sample]) -> tuple[str, int]:
    return Counter(_answer(sample) for sample in samples).most_common(1)[0]


def _gold_times(samples: Sequence[Sample]) -> int:
    return Counter(_normal(sample.target) for sample in samples).most_common(1)[0][1]


def _answer(sample: Sample) -> str:
    """What was understood; what could not be read counts as it was said."""
    return _normal(sample.output if sample.parsed is None else sample.parsed)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
