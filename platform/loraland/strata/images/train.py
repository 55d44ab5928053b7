"""Trains an image classifier for the mean or for the worst group; keeps the best epoch.

The same start, data order and pictures for every mode of one seed. Resumes from a checkpoint, group
weights included, to the very same network. Knows nothing of where groups come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loraland.errors import TrainingDiverged
from loraland.strata.features import Whole
from loraland.strata.images.network import as_input
from loraland.strata.images.pictures import ImageSplit
from loraland.strata.images.recipe import ImageRecipe
from loraland.strata.metrics import Right, overall, worst
from loraland.training.checkpoint import (
    CheckpointStore,
    RunState,
    Tensors,
    pack_optimizer,
    pack_random_state,
    under,
    unpack_optimizer,
    unpack_random_state,
)
from loraland.training.group_dro import GroupWeights, backward_in_parts
from loraland.training.group_sampling import uniform_epoch

PASS = 512  # pictures of a pass without gradients

MakeNetwork = Callable[[], nn.Module]


class Groups(NamedTuple):
    """What training is robust over: 0..G-1; -1 in validation: not judged."""

    train: Whole  # (n,), every group has an example
    validation: Whole  # (m,)


class TrainedNetwork(NamedTuple):
    """What a run leaves."""

    network: nn.Module  # with the weights of the best epoch, in evaluation mode
    epoch: int  # the best, counted from 1
    validation: list[float]  # of each epoch: accuracy, or the worst group's
    q: list[float] | None  # the last weights of groups


@dataclass(slots=True)
class _Run:
    network: nn.Module
    optimizer: torch.optim.Optimizer
    weights: GroupWeights | None
    state: RunState = field(default_factory=RunState)  # updates are epochs here
    best: Tensors = field(default_factory=dict)

    def tensors(self) -> Tensors:
        found = {f"network/{name}": one for name, one in self.network.state_dict().items()}
        found |= {f"best/{name}": one for name, one in self.best.items()}
        if self.weights is not None:
            found |= {f"groups/{name}": one for name, one in self.weights.state_dict().items()}
        return found | pack_optimizer(self.optimizer) | pack_random_state()

    def restore(self, state: RunState, tensors: Tensors) -> None:
        self.state, self.best = state, under("best", tensors)
        self.network.load_state_dict(under("network", tensors))
        if self.weights is not None:
            self.weights.load_state_dict(under("groups", tensors))
        unpack_optimizer(self.optimizer, tensors)
        unpack_random_state(tensors)

    def keep(self, score: float) -> None:
        """Note the score of an epoch; the first of equals is the best."""
        if all(score > before for _, before in self.state.validation):
            self.best = {name: one.clone() for name, one in self.network.state_dict().items()}
        self.state.validation.append((self.state.update, score))


def train_network(
    make: MakeNetwork,
    train: ImageSplit,
    validation: ImageSplit,
    recipe: ImageRecipe,
    *,
    groups: Groups | None = None,
    seed: int = 0,
    checkpoints: CheckpointStore | None = None,
) -> TrainedNetwork:
    """Train what `make` gives; without groups by ERM, with groups by group DRO.

    The best epoch is that of the highest validation accuracy, or of the highest worst-group one.
    Raises TrainingDiverged, DataRefused for a group without training examples.
    """
    run = _start(make, recipe, groups, seed)
    if checkpoints is not None and (found := checkpoints.load()) is not None:
        run.restore(*found)
    with _tiny_is_zero():
        for epoch in range(run.state.update, recipe.epochs):
            _epoch(run, train, recipe, groups, seed, epoch)
            right = predictions(run.network, validation) == validation.superclasses
            run.keep(_score(right, groups))
            if checkpoints is not None:
                checkpoints.save(run.state, run.tensors())
    run.network.load_state_dict(run.best)
    scores = [score for _, score in run.state.validation]
    q = None if run.weights is None else run.weights.q.tolist()
    return TrainedNetwork(run.network.eval(), int(np.argmax(scores)) + 1, scores, q)


@contextmanager
def _tiny_is_zero() -> Iterator[None]:
    """Count denormal numbers as 0: weights of dead units decay to such, and slow passes tenfold."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _epoch(
    run: _Run,
    train: ImageSplit,
    recipe: ImageRecipe,
    groups: Groups | None,
    seed: int,
    epoch: int,
) -> None:
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = recipe.rate(epoch)
    for places in _batches(train, recipe, groups, seed, epoch):
        _update(run, train, places, recipe, groups)
    run.state.update = epoch + 1


def _start(make: MakeNetwork, recipe: ImageRecipe, groups: Groups | None, seed: int) -> _Run:
    torch.manual_seed(seed)
    network = make()
    weights = None
    if groups is not None:
        sizes = np.bincount(groups.train)
        weights = GroupWeights(sizes.tolist(), eta=recipe.eta, adjustment=recipe.adjustment)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=decay)
    return _Run(network, optimizer, weights)


def _batches(
    train: ImageSplit, recipe: ImageRecipe, groups: Groups | None, seed: int, epoch: int
) -> Iterator[Whole]:
    if groups is not None and recipe.uniform_groups:
        order = uniform_epoch(groups.train, seed, epoch)
    else:
        order = np.random.default_rng([seed, 5, epoch]).permutation(len(train))
    for start in range(0, len(order), recipe.batch):
        yield order[start : start + recipe.batch]


def _update(
    run: _Run, train: ImageSplit, places: Whole, recipe: ImageRecipe, groups: Groups | None
) -> None:
    """One optimiser step, in as many passes as the recipe says."""
    run.network.train()
    pixels = torch.from_numpy(train.pictures.take(places))
    pictures = as_input(_varied(pixels, recipe))
    labels = torch.from_numpy(train.superclasses[places])
    size = recipe.micro_batch or len(places)
    passes = list(zip(_parts(pictures, size), _parts(labels, size), strict=True))
    run.optimizer.zero_grad(set_to_none=True)
    if groups is None or run.weights is None:
        loss = 0.0
        for part in passes:
            mine = _losses(run.network, part).sum() / len(places)
            mine.backward()  # type: ignore[no-untyped-call]
            loss += float(mine.detach())
    else:
        their = _parts(torch.from_numpy(groups.train[places]), size)
        loss = backward_in_parts(
            run.weights,
            list(zip(passes, their, strict=True)),
            lambda part: _losses(run.network, part),
        )
    if not np.isfinite(loss):
        raise TrainingDiverged(
            f"the loss is {loss} in epoch {run.state.update + 1}; lower learning_rate "
            f"({recipe.learning_rate:g})"
        )
    run.optimizer.step()


def _parts(whole: Tensor, size: int) -> list[Tensor]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def _losses(network: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(network(part[0]), part[1], reduction="none")


def _varied(pixels: Tensor, recipe: ImageRecipe) -> Tensor:
    """Training pictures moved and mirrored at random: (n, c, h, w), drawn from torch's stream."""
    if recipe.flip:
        mirrored = torch.rand(len(pixels)) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    if recipe.shift:
        height, width, most = pixels.shape[2], pixels.shape[3], recipe.shift
        wide = functional.pad(pixels, (most, most, most, most))
        down, right = torch.randint(0, 2 * most + 1, (2, len(pixels), 1))
        rows = (down + torch.arange(height))[:, None, :, None]  # (n, 1, h, 1)
        columns = (right + torch.arange(width))[:, None, None, :]
        each = torch.arange(len(pixels))[:, None, None, None]
        channels = torch.arange(pixels.shape[1])[None, :, None, None]
        pixels = wide[each, channels, rows, columns]
    return pixels


@torch.no_grad()
def predictions(network: nn.Module, split: ImageSplit) -> Whole:
    """The class that a network gives each picture: (n,)."""
    network.eval()
    found = []
    for start in range(0, len(split), PASS):
        places = np.arange(start, min(start + PASS, len(split)))
        logits = network(as_input(torch.from_numpy(split.pictures.take(places))))
        found.append(logits.argmax(1).numpy())
    return np.concatenate(found).astype(np.int64)


def _score(right: Right, groups: Groups | None) -> float:
    return overall(right) if groups is None else worst(right, groups.validation).accuracy
