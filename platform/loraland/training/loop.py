"""The plain QLoRA loop: one adapter, one base, one device. The oracle for anything faster.

Knows a base, examples and a recipe; knows nothing of tasks, Ray or the registry. Reports every
update, stops early when validation gains no more, and resumes from any checkpoint to the very same
adapter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from loraland.adapters.card import CurvePoint
from loraland.bases.loading import LoadedBase
from loraland.training import batches
from loraland.training.adapter import add_adapter, make_optimizer, remove_adapter, write_adapter
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
from loraland.training.examples import Example
from loraland.training.groups import labels_to_draw_by
from loraland.training.loss import example_losses, summed_loss
from loraland.training.recipe import Recipe
from loraland.training.robust import Robust
from loraland.training.schedule import (
    best_evaluation,
    gains_no_more,
    learning_rate,
    require_health,
    require_number,
)

OnUpdate = Callable[[CurvePoint, int], None]  # the newest point and the total number of updates


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """What a run leaves."""

    folder: Path  # as PEFT writes it
    curve: list[CurvePoint]
    best_step: int  # the update whose weights were kept
    stopped_early: bool


def train(
    base: LoadedBase,
    training: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    folder: Path,
    *,
    seed: int = 0,
    checkpoints: CheckpointStore | None = None,
    on_update: OnUpdate | None = None,
) -> TrainedAdapter:
    """Train one adapter and write it to `folder`; the base is left as it was.

    Resumes from the newest of `checkpoints` when there is one. With the recipe's `group_dro` the
    examples must have groups (`groups.with_groups`), and the weights that do best on the worst
    group are kept. Raises TrainingDiverged, and DataRefused for examples without groups.
    """
    run = _Run.start(base, recipe, seed, Robust.of(recipe, training))
    try:
        if checkpoints is not None and (found := checkpoints.load()) is not None:
            run.restore(*found)
        advance(run, training, validation, seed, checkpoints, on_update)
        return run.finish(folder, total=recipe.updates(len(training)))
    finally:
        run.leave_base()


class Run(Protocol):
    """One adapter in training, as `advance` sees it; on one device or on several."""

    recipe: Recipe
    state: RunState

    @property
    def vocabulary(self) -> int:
        """The size of the output vocabulary."""

    def step(self, groups: Sequence[Sequence[Example]], rate: float) -> float:
        """One optimiser update over micro-batches; returns the mean loss per example."""

    def evaluate(self, validation: Sequence[Example]) -> float:
        """The mean loss per validation example; keeps the weights when it is the best so far.

        Of the worst group, where the recipe has groups.
        """

    def gains_no_more(self) -> bool:
        """Whether validation says that more updates would not help."""

    def tensors(self) -> Tensors:
        """All that a checkpoint needs beside the counters."""


class KeepsCheckpoints(Protocol):
    """What `advance` asks of a store."""

    def save(self, state: RunState, tensors: Tensors) -> None:
        """Store a checkpoint over the one before."""


def advance(
    run: Run,
    training: Sequence[Example],
    validation: Sequence[Example],
    seed: int,
    checkpoints: KeepsCheckpoints | None,
    on_update: OnUpdate | None,
) -> None:
    """Take a run from where it stands to its end: the loop of every way to train one adapter.

    Raises TrainingDiverged.
    """
    recipe, state = run.recipe, run.state
    lengths = [len(example.ids) for example in training]
    total = recipe.updates(len(training))
    by = labels_to_draw_by(recipe, training)
    cursor = batches.updates(lengths, recipe, seed, start=state.update, labels=by)
    for update in islice(cursor, max(0, total - state.update)):
        if run.gains_no_more():
            break
        started = time.monotonic()
        rate = learning_rate(state.update, total, recipe)
        groups = batches.micro_batches(update, lengths, recipe)
        loss = run.step([[training[index] for index in group] for group in groups], rate)
        require_health(state.losses, run.vocabulary, rate)
        due = state.update % recipe.evaluate_every == 0 or state.update == total
        validated = run.evaluate(validation) if due else None
        if validated is not None:
            require_number(validated, state.update, rate)
        before = state.curve[-1].seconds if state.curve else 0.0
        state.curve.append(
            CurvePoint(
                step=state.update,
                tokens=state.tokens,
                train_loss=loss,
                validation_loss=validated,
                learning_rate=rate,
                seconds=round(before + time.monotonic() - started, 3),
            )
        )
        if checkpoints is not None and state.update % recipe.checkpoint_every == 0:
            checkpoints.save(state, run.tensors())
        if on_update is not None:
            on_update(state.curve[-1], total)


@dataclass(slots=True)
class _Run:
    """One adapter in training: model, optimiser, counters, best weights so far."""

    base: LoadedBase
    recipe: Recipe
    model: PeftModel
    optimizer: torch.optim.Optimizer
    state: RunState
    best: Tensors
    robust: Robust | None  # what group DRO keeps, where the recipe has it

    @classmethod
    def start(cls, base: LoadedBase, recipe: Recipe, seed: int, robust: Robust | None) -> _Run:
        model = add_adapter(base, recipe, seed)
        optimizer = make_optimizer((p for p in model.parameters() if p.requires_grad), recipe)
        return cls(base, recipe, model, optimizer, RunState(), {}, robust)

    @property
    def vocabulary(self) -> int:
        return int(self.base.model.get_output_embeddings().weight.shape[0])

    def step(self, groups: Sequence[Sequence[Example]], rate: float) -> float:
        """One optimiser update over micro-batches; returns the mean loss per example."""
        self.model.train()
        loss = self.robust.backward(groups, self._losses) if self.robust else self._backward(groups)
        trainable: list[Tensor] = [
            p for group in self.optimizer.param_groups for p in group["params"]
        ]
        torch.nn.utils.clip_grad_norm_(trainable, self.recipe.clip_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.update += 1
        self.state.tokens += sum(len(example.ids) for group in groups for example in group)
        self.state.losses.append(loss)
        return loss

    def _backward(self, groups: Sequence[Sequence[Example]]) -> float:
        """Gradients of one update in which all examples count alike; its loss."""
        count = sum(len(group) for group in groups)
        loss = 0.0
        for group in groups:
            part = summed_loss(self.base.model, group, self._pad) / count
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        return loss

    @torch.no_grad()
    def evaluate(self, validation: Sequence[Example]) -> float:
        """The mean loss per validation example; keeps the weights when it is the best so far."""
        self.model.eval()
        lengths = [len(example.ids) for example in validation]
        groups = batches.micro_batches(list(range(len(validation))), lengths, self.recipe)
        parts = [[validation[index] for index in group] for group in groups]
        loss = self._worst(parts) if self.robust else self._mean(parts)
        self.state.validation.append((self.state.update, loss))
        if best_evaluation(self.state.validation)[0] == self.state.update:
            self.best = {name: tensor.clone() for name, tensor in self._weights().items()}
        return loss

    def _mean(self, parts: Sequence[Sequence[Example]]) -> float:
        total = sum(summed_loss(self.base.model, part, self._pad).item() for part in parts)
        return total / sum(len(part) for part in parts)

    def _worst(self, parts: Sequence[Sequence[Example]]) -> float:
        assert self.robust is not None
        return self.robust.worst(self.robust.sums(parts, [self._losses(part) for part in parts]))

    def _losses(self, examples: Sequence[Example]) -> Tensor:
        return example_losses(self.base.model, examples, self._pad)

    def gains_no_more(self) -> bool:
        """Whether validation says that more updates would not help."""
        return bool(self.state.validation) and gains_no_more(
            self.state.validation, self.recipe.patience
        )

    def tensors(self) -> Tensors:
        """All that a checkpoint needs beside the counters."""
        return (
            {f"adapter/{name}": tensor for name, tensor in self._weights().items()}
            | {f"best/{name}": tensor for name, tensor in self.best.items()}
            | pack_optimizer(self.optimizer)
            | (self.robust.tensors() if self.robust else {})
            | pack_random_state()
        )

    def restore(self, state: RunState, tensors: Tensors) -> None:
        """Go on from a checkpoint."""
        self.state = state
        set_peft_model_state_dict(self.model, under("adapter", tensors))
        self.best = under("best", tensors)
        unpack_optimizer(self.optimizer, tensors)
        if self.robust is not None:
            self.robust.restore(tensors)
        unpack_random_state(tensors)

    def finish(self, folder: Path, total: int) -> TrainedAdapter:
        """Write the best weights as PEFT does."""
        write_adapter(self.model, self.best, folder)
        return TrainedAdapter(
            folder,
            self.state.curve,
            best_evaluation(self.state.validation)[0],
            stopped_early=self.state.update < total,
        )

    def leave_base(self) -> None:
        """Take the adapter out of the base and leave it as `load_base` gave it."""
        remove_adapter(self.base, self.model, self.recipe)

    def _weights(self) -> Tensors:
        return dict(get_peft_model_state_dict(self.model, save_embedding_layers=False))

    @property
    def _pad(self) -> int:
        return int(self.base.tokenizer.pad_token_id)
