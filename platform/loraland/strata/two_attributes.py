"""The paper's example 3.1: two attributes, one of which sets the class, and rare mismatches.

A linear classifier that minimises the mean loss follows the easy attribute and fails where it does
not match. Small enough to train every mode within seconds; what the method is measured on first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from loraland.strata.features import Features, Whole
from loraland.strata.groups import Mode, groups_of, numbered
from loraland.strata.metrics import group_scores
from loraland.strata.model import StrataModel, fit_strata
from loraland.strata.settings import StrataSettings
from loraland.training.group_dro import GroupSums, GroupWeights

RARE = 0.03  # of a class, whose first attribute does not match
STEPS, RATE, DECAY, ETA = 6_000, 0.1, 1e-3, 0.01
SETTINGS = StrataSettings(
    reduction="none", normalise=False, max_k=5, overcluster=False, floor=0.0
)  # the points themselves, and the published rule


class Points(NamedTuple):
    """n points of two attributes."""

    x: NDArray[np.float32]  # (n, 2): the easy attribute, the true one
    superclasses: Whole  # (n,): 0 or 1
    subclasses: Whole  # (n,): 2 * superclass + whether the easy attribute does not match


def draw(count: int, rare: float, seed: int) -> Points:
    """So many points of each class; x1 ~ N(+-4, 1) by the match, x2 ~ N(+-1.5, 1) by the class."""
    draws = np.random.default_rng(seed)
    superclasses = np.repeat([0, 1], count)
    sign = 2 * superclasses - 1
    mismatched = np.tile(np.arange(count) < round(rare * count), 2).astype(np.int64)
    easy = draws.normal(4.0 * sign * (1 - 2 * mismatched), 1.0)
    true = draws.normal(1.5 * sign, 1.0)
    x = np.stack([easy, true], axis=1).astype(np.float32)
    return Points(x, superclasses, 2 * superclasses + mismatched)


def train_linear(points: Points, groups: Whole | None, steps: int = STEPS) -> Tensor:
    """Logistic regression through the origin by full-batch gradient descent: two weights, (2,).

    Over the mean loss, or with groups by group DRO. Classes lie opposite each other, so that a
    constant has nothing to add.
    """
    x = torch.from_numpy(points.x)
    sign = torch.from_numpy(2.0 * points.superclasses - 1.0).float()
    found = torch.zeros(2, requires_grad=True)
    weights = sizes = shares = None
    if groups is not None:
        shares = functional.one_hot(torch.from_numpy(groups)).float()
        sizes = shares.sum(0)
        weights = GroupWeights(sizes, eta=ETA)
    for _ in range(steps):
        losses = functional.softplus(-sign * (x @ found))
        if weights is None or shares is None or sizes is None:
            loss = losses.mean()
        else:
            loss = weights.update_and_weigh(*GroupSums(losses @ shares, sizes))
        (slope,) = torch.autograd.grad(loss, found)
        with torch.no_grad():
            found -= RATE * (slope + DECAY * found)
    return found.detach()


def features_of(points: Points, weights: Tensor, split: str = "train") -> Features:
    """The points as the features of a linear classifier."""
    margin = (points.x @ weights.numpy()).astype(np.float32)
    sign = 2 * points.superclasses - 1
    return Features(
        split,
        tuple(str(place) for place in range(len(points.x))),
        points.x,
        np.stack([-margin / 2, margin / 2], axis=1),
        np.logaddexp(0, -sign * margin).astype(np.float32),
        points.superclasses,
        points.subclasses,
    )


class Outcome(NamedTuple):
    """Worst-group accuracy of each mode, and the strata."""

    worst: dict[Mode, float]
    strata: StrataModel


def run(seed: int, count: int = 2_000, steps: int = STEPS, test_count: int = 20_000) -> Outcome:
    """Train every mode but superclass-GDRO, and judge all on a test set with equal groups."""
    train, test = draw(count, RARE, seed), draw(test_count, 0.5, seed + 1_000)
    erm = train_linear(train, None, steps)
    features = features_of(train, erm)
    strata = fit_strata(features, features, SETTINGS.model_copy(update={"seed": seed}))
    found: dict[Mode, float] = {"erm": _worst(test, erm)}
    modes: tuple[Mode, ...] = ("random", "george", "oracle")
    for mode in modes:
        groups = groups_of(
            mode,
            train.superclasses,
            strata=strata.assign(features),
            subclasses=train.subclasses,
            seed=seed,
        )
        assert groups is not None
        found[mode] = _worst(test, train_linear(train, numbered(groups, groups)[0], steps))
    return Outcome(found, strata)


def _worst(test: Points, weights: Tensor) -> float:
    margin = test.x @ weights.numpy()
    right = (margin > 0) == (test.superclasses == 1)
    return min(score.accuracy for score in group_scores(right, test.subclasses))
