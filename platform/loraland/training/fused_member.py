"""One run among several that share a base: its own order, schedule, optimiser, curve, best weights.

Does with its adapter in a slot what the plain loop does with an adapter alone. Knows its bank and
its slot; knows nothing of the other runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from loraland.adapters.card import CurvePoint
from loraland.errors import TrainingDiverged
from loraland.lora.bank import LoraBank
from loraland.lora.weights import PEFT_PREFIX, AdapterWeights, LoraPair, peft_name
from loraland.training import batches
from loraland.training.adapter import make_optimizer
from loraland.training.checkpoint import (
    CheckpointStore,
    RunState,
    Tensors,
    pack_optimizer,
    under,
    unpack_optimizer,
)
from loraland.training.examples import Example
from loraland.training.fused_batches import Row
from loraland.training.loop import OnUpdate
from loraland.training.recipe import Recipe
from loraland.training.schedule import (
    best_evaluation,
    gains_no_more,
    learning_rate,
    require_health,
    require_number,
)

_A = peft_name("", "A").removeprefix(PEFT_PREFIX)


@dataclass(frozen=True, slots=True)
class FusedMember:
    """One run of a group: what `train` of the plain loop is told, and a name."""

    name: str
    training: Sequence[Example]
    validation: Sequence[Example]
    recipe: Recipe
    seed: int
    folder: Path  # where the adapter goes
    checkpoints: CheckpointStore | None = None
    on_update: OnUpdate | None = None

    @property
    def total(self) -> int:
        """The number of its updates, when it does not stop early."""
        return self.recipe.updates(len(self.training))

    def trouble(self, state: RunState, vocabulary: int) -> TrainingDiverged | None:
        """What went wrong at the last update, if anything; follows from the state alone."""
        rate = learning_rate(max(0, state.update - 1), self.total, self.recipe)
        try:
            if state.losses:
                require_health(state.losses, vocabulary, rate)
            if state.validation and state.validation[-1][0] == state.update:
                require_number(state.validation[-1][1], state.update, rate)
        except TrainingDiverged as error:
            return error
        return None

    def is_over(self, state: RunState, vocabulary: int) -> bool:
        """Whether no update is left: all done, no more gain, or diverged."""
        return (
            state.update >= self.total
            or self.trouble(state, vocabulary) is not None
            or (bool(state.validation) and gains_no_more(state.validation, self.recipe.patience))
        )


@dataclass(slots=True)
class Resident:
    """A member in its slot."""

    member: FusedMember
    slot: int
    bank: LoraBank
    parameters: dict[str, torch.nn.Parameter]  # by the names in PEFT's files, in the model's order
    optimizer: torch.optim.Optimizer
    state: RunState
    best: Tensors
    cursor: Iterator[batches.Update]
    tokens: int = 0  # of the update under way

    @classmethod
    def move_in(
        cls,
        member: FusedMember,
        slot: int,
        bank: LoraBank,
        initial: Tensors,
        checkpoint: tuple[RunState, Tensors] | None,
    ) -> Resident:
        """Put a member into a slot, as it was at a checkpoint or with its initial weights.

        The names of `initial` are those in PEFT's files, in the order of the model.
        """
        state, tensors = checkpoint or (RunState(), {})
        weights = under("adapter", tensors) or initial
        bank.write(slot, _weights(weights, member.recipe))
        named = bank.named_parameters_of(slot)
        parameters = {name: named[name] for name in initial}
        optimizer = make_optimizer(parameters.values(), member.recipe)
        if checkpoint is not None:
            unpack_optimizer(optimizer, tensors)
        lengths = [len(example.ids) for example in member.training]
        cursor = batches.updates(lengths, member.recipe, member.seed, start=state.update)
        best = under("best", tensors)
        return cls(member, slot, bank, parameters, optimizer, state, best, cursor)

    def next_rows(self) -> list[Row]:
        """The rows of the next update."""
        recipe, seed = self.member.recipe, self.member.seed
        examples = [self.member.training[index] for index in next(self.cursor)]
        self.tokens = sum(len(example.ids) for example in examples)
        return [
            Row(
                self.slot,
                example,
                1 / len(examples),
                recipe.dropout,
                stream=f"{seed}/{self.state.update}/{place}",
            )
            for place, example in enumerate(examples)
        ]

    def step(self, loss: float) -> None:
        """One optimiser update with the gradients that are there; `loss` is their update's."""
        recipe, state = self.member.recipe, self.state
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(state.update, self.member.total, recipe)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.update += 1
        state.tokens += self.tokens
        state.losses.append(loss)

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the plain loop would evaluate after the update just made."""
        update = self.state.update
        return update % self.member.recipe.evaluate_every == 0 or update == self.member.total

    def validation_rows(self) -> list[Row]:
        """The rows that an evaluation takes; nothing is dropped from them."""
        share = 1 / len(self.member.validation)
        return [Row(self.slot, example, share, 0.0, "") for example in self.member.validation]

    def note_evaluation(self, loss: float) -> None:
        """Keep a validation loss, and the weights when it is the best so far."""
        state = self.state
        state.validation.append((state.update, loss))
        if best_evaluation(state.validation)[0] == state.update:
            self.best = self.bank.state_dict_of(self.slot)

    def note_update(self, validated: float | None, seconds: float) -> None:
        """Add the update just made to the curve; `seconds` are those of the whole group."""
        state, recipe = self.state, self.member.recipe
        before = state.curve[-1].seconds if state.curve else 0.0
        state.curve.append(
            CurvePoint(
                step=state.update,
                tokens=state.tokens,
                train_loss=state.losses[-1],
                validation_loss=validated,
                learning_rate=learning_rate(state.update - 1, self.member.total, recipe),
                seconds=round(before + seconds, 3),
            )
        )

    def tensors(self) -> Tensors:
        """All that a checkpoint needs beside the counters; dropout needs none."""
        return (
            {f"adapter/{name}": value for name, value in self.parameters.items()}
            | {f"best/{name}": tensor for name, tensor in self.best.items()}
            | pack_optimizer(self.optimizer)
        )


def _weights(tensors: Tensors, recipe: Recipe) -> AdapterWeights:
    paths = [
        name.removeprefix(PEFT_PREFIX).removesuffix(_A) for name in tensors if name.endswith(_A)
    ]
    scale = recipe.alpha / recipe.rank
    return AdapterWeights.of(
        {
            path: LoraPair(tensors[peft_name(path, "A")], tensors[peft_name(path, "B")], scale)
            for path in paths
        }
    )
