"""The fused loop: many runs on one base at once, each as the plain loop would have done it alone.

The base is loaded once, and rows of several runs share forward passes. Every run keeps its own loss
mean, clip, schedule, optimiser, data order, early stop and best weights; a run that ends leaves its
slot to the next in line. Knows bases, examples and recipes; knows nothing of tasks, Ray or the
registry.

A run without dropout ends with the weights of the plain loop up to rounding. The plain loop draws
dropout from one generator in the order of its passes, which differ here; so masks come from streams
of each run's own instead: its result depends on its seed and not on its company, but is not the
plain loop's. A base that drops activations by itself (phi-2 does) draws for all rows together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from loraland.bases.loading import LoadedBase
from loraland.errors import LoraLandError
from loraland.lora.bank import LoraBank
from loraland.training.checkpoint import RunState, Tensors
from loraland.training.fused_batches import Row, merge
from loraland.training.fused_checkpoint import (
    Moments,
    Saved,
    common_moment,
    find_saved,
    load_saved,
)
from loraland.training.fused_member import FusedMember, Resident
from loraland.training.fused_passes import backward, evaluate
from loraland.training.loop import TrainedAdapter
from loraland.training.robust import require_fusable
from loraland.training.schedule import best_evaluation
from loraland.training.template import AdapterTemplate

__all__ = ["FusedMember", "OnFinished", "Outcome", "train_fused"]

Outcome = TrainedAdapter | LoraLandError
OnFinished = Callable[[str, Outcome], None]  # a member's name, and what became of it

_MAX_RANK = 512  # the recipes' own limit; the same for every group, whoever is in it


def train_fused(
    base: LoadedBase,
    members: Sequence[FusedMember],
    *,
    slots: int,
    on_finished: OnFinished | None = None,
) -> dict[str, Outcome]:
    """Train all members, at most `slots` at a time, and say by name what became of each.

    A member that fails (TrainingDiverged, a checkpoint that cannot be used, targets that the base
    does not have, group DRO) has its error for an outcome; the others go on. Each adapter is in its
    folder when `on_finished` is called, which finds the base as it was loaded and must leave it so.
    Members resume from their checkpoints: killed anywhere and called again with the same members,
    or those of them that had not finished, in the same order, all end as if nothing had happened.
    Raises ValueError for names that are not distinct, and what storage raises.
    """
    if len({member.name for member in members}) < len(members):
        raise ValueError("members of a group need distinct names")
    if not members:
        return {}
    group = _Group.of(base, members, slots, on_finished)
    try:
        group.fill_slots()
        while group.residents:
            group.update()
            group.save_when_due()
            group.tell()
            group.let_go()
            group.fill_slots()
        return group.outcomes
    finally:
        group.leave_base()


@dataclass(slots=True)
class _Group:
    """The members in their slots, those that wait, and what became of the others."""

    base: LoadedBase
    bank: LoraBank
    order: dict[str, int]  # of the members, as given
    on_finished: OnFinished | None
    resumed: dict[str, Saved]
    moments: Moments
    waiting: list[FusedMember]
    residents: list[Resident] = field(default_factory=list)  # in the order given
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    templates: dict[Hashable, AdapterTemplate] = field(default_factory=dict)
    checkpoints_activations: bool = False  # of the base, when a resident wants it

    @classmethod
    def of(
        cls,
        base: LoadedBase,
        members: Sequence[FusedMember],
        slots: int,
        on_finished: OnFinished | None,
    ) -> _Group:
        slots = min(slots, len(members))
        bank = LoraBank(base.model, slots=slots, max_rank=_MAX_RANK, trainable=True)
        order = {member.name: place for place, member in enumerate(members)}
        group = cls(base, bank, order, on_finished, {}, Moments(), list(members))
        group._find_checkpoints()
        return group

    @property
    def vocabulary(self) -> int:
        return int(self.base.model.get_output_embeddings().weight.shape[0])

    # One update of every resident

    def update(self) -> None:
        """Each resident makes one update of its own, and evaluates when its recipe says so."""
        started = time.monotonic()
        losses = self._gradients()
        for resident in self.residents:
            resident.step(losses[resident.slot])
        self.moments.tick += 1
        healthy = [resident for resident in self.residents if not self._trouble(resident)]
        validated = self._evaluate([one for one in healthy if one.evaluation_is_due])
        seconds = time.monotonic() - started
        for resident in healthy:
            if not self._trouble(resident):
                resident.note_update(validated.get(resident.slot), seconds)

    def _gradients(self) -> dict[int, float]:
        """Gradients of one update of each resident; the loss of each by slot."""
        self._checkpoint_activations(
            any(one.member.recipe.gradient_checkpointing for one in self.residents)
        )
        self.base.model.train()
        self._seed_base()
        rows = [row for resident in self.residents for row in resident.next_rows()]
        return self._sums(rows, backward)

    def _evaluate(self, due: Sequence[Resident]) -> dict[int, float]:
        """The validation losses by slot, noted."""
        if not due:
            return {}
        self.base.model.eval()
        rows = [row for resident in due for row in resident.validation_rows()]
        losses = self._sums(rows, evaluate)
        for resident in due:
            resident.note_evaluation(losses[resident.slot])
        return losses

    def _sums(
        self,
        rows: Sequence[Row],
        run: Callable[[LoadedBase, LoraBank, Sequence[Row]], list[float]],
    ) -> dict[int, float]:
        budget = max(resident.member.recipe.micro_batch_tokens for resident in self.residents)
        sums: dict[int, float] = {}
        for together in merge(rows, budget):
            for row, part in zip(together, run(self.base, self.bank, together), strict=True):
                sums[row.slot] = sums.get(row.slot, 0.0) + part
        return sums

    def _seed_base(self) -> None:
        """For bases with dropout of their own: the same numbers after a resume."""
        runs = [f"{one.member.seed}/{one.state.update}" for one in self.residents]
        torch.manual_seed(random.Random(" ".join(runs)).getrandbits(63))

    def _trouble(self, resident: Resident) -> LoraLandError | None:
        return resident.member.trouble(resident.state, self.vocabulary)

    def _is_over(self, resident: Resident) -> bool:
        return resident.member.is_over(resident.state, self.vocabulary)

    def tell(self) -> None:
        """Report the update just made to each member that is well."""
        for one in self.residents:
            if one.member.on_update is not None and not self._trouble(one):
                one.member.on_update(one.state.curve[-1], one.member.total)

    # Checkpoints

    def save_when_due(self) -> None:
        """Save all residents together: from time to time, and before any of them leaves."""
        every = min(one.member.recipe.checkpoint_every for one in self.residents)
        leaving = any(self._is_over(resident) for resident in self.residents)
        if leaving or self.moments.tick - self.moments.saved_at >= every:
            self.moments.next()
            for resident in self.residents:
                self._save(resident)

    def _save(self, resident: Resident) -> None:
        if resident.member.checkpoints is not None:
            self.moments.save(resident.member.checkpoints, resident.state, resident.tensors())

    def _find_checkpoints(self) -> None:
        found: dict[str, list[Saved]] = {}
        over = []
        for member in list(self.waiting):
            if member.checkpoints is None:
                continue
            try:
                saved = found[member.name] = find_saved(member.checkpoints)
            except LoraLandError as error:
                self.waiting.remove(member)
                self._conclude(member, error)
                continue
            if any(member.is_over(one.state, self.vocabulary) for one in saved):
                over.append(member.name)
        self.resumed = common_moment(found, over)
        self.moments = Moments.after(self.resumed.values())
        # Those that were in house come first, as they were.
        self.waiting.sort(key=lambda member: member.name not in self.resumed)

    # Coming and going

    def fill_slots(self) -> None:
        """Let members in while there are slots; one with no update left leaves at once."""
        while self.waiting and len(self.residents) < self.bank.slots:
            self._let_in(self.waiting.pop(0))
            self.let_go()

    def _let_in(self, member: FusedMember) -> None:
        taken = {resident.slot for resident in self.residents}
        slot = next(slot for slot in range(1, self.bank.slots + 1) if slot not in taken)
        try:
            require_fusable(member.recipe)
            checkpoint = self._checkpoint_of(member)
            initial = self._initial_weights(member)
        except LoraLandError as error:
            self._conclude(member, error)
            return
        resident = Resident.move_in(member, slot, self.bank, initial, checkpoint)
        self.residents.append(resident)
        self.residents.sort(key=lambda one: self.order[one.member.name])
        if checkpoint is None:
            self._save(resident)  # so that the next moment finds all residents at this one

    def let_go(self) -> None:
        """Write the adapters of those that are over, and empty their slots."""
        for resident in [one for one in self.residents if self._is_over(one)]:
            self.residents.remove(resident)
            outcome: Outcome = self._trouble(resident) or self._write(resident)
            self.bank.clear(resident.slot)
            self._conclude(resident.member, outcome)

    def _conclude(self, member: FusedMember, outcome: Outcome) -> None:
        self.outcomes[member.name] = outcome
        if self.on_finished is not None:
            with self._own_layers():
                self.base.model.eval()
                self.on_finished(member.name, outcome)

    def _checkpoint_of(self, member: FusedMember) -> tuple[RunState, Tensors] | None:
        saved = self.resumed.get(member.name)
        if saved is None or member.checkpoints is None:
            return None
        return load_saved(member.checkpoints, saved)

    def _template(self, member: FusedMember) -> AdapterTemplate:
        recipe = member.recipe
        key = (recipe.rank, recipe.alpha, recipe.dropout, recipe.targets)
        if key not in self.templates:
            with self._own_layers():
                self.templates[key] = AdapterTemplate.of(self.base, recipe)
        return self.templates[key]

    def _initial_weights(self, member: FusedMember) -> Tensors:
        """The plain loop's."""
        template = self._template(member)
        with self._own_layers():
            return template.initial(self.base, member.recipe, member.seed)

    def _write(self, resident: Resident) -> TrainedAdapter:
        """Write the best weights as PEFT does."""
        member, state = resident.member, resident.state
        self._template(member).write(resident.best, member.folder)
        return TrainedAdapter(
            member.folder,
            state.curve,
            best_evaluation(state.validation)[0],
            stopped_early=state.update < member.total,
        )

    # The base

    @contextmanager
    def _own_layers(self) -> Iterator[None]:
        """The base as it was loaded, for as long as the block takes."""
        self._checkpoint_activations(False)
        with self.bank.lifted():
            yield

    def _checkpoint_activations(self, wanted: bool) -> None:
        if wanted and not self.checkpoints_activations:
            self.base.model.gradient_checkpointing_enable({"use_reentrant": False})
        elif not wanted and self.checkpoints_activations:
            self.base.model.gradient_checkpointing_disable()
        self.checkpoints_activations = wanted

    def leave_base(self) -> None:
        """Leave the base as `load_base` gave it."""
        self._checkpoint_activations(False)
        self.bank.detach()
        self.base.model.eval().requires_grad_(False)
