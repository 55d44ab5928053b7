"""Checkpoints of runs that share a base: one file per run, all of the same moment of their group.

How the last digit of a run's sums is rounded depends on the rows beside its own, so a resumed group
is exact only when all its runs go back to one moment. Each run therefore keeps two files that are
written in turn: while the new ones are being written, the old ones are a moment that all have.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from loraland.training.checkpoint import CheckpointStore, RunState, Tensors

FILES = ("fused-0.safetensors", "fused-1.safetensors")


class Saved(NamedTuple):
    """One checkpoint of one run, without its tensors."""

    turn: int  # which of the two files
    state: RunState


@dataclass(slots=True)
class Moments:
    """The moments that a group of runs has been through."""

    group: str = field(default_factory=lambda: uuid.uuid4().hex)
    tick: int = 0  # updates of the group so far
    turn: int = 0  # the file that holds the newest moment
    saved_at: int = 0  # its tick

    @classmethod
    def after(cls, resumed: Iterable[Saved]) -> Moments:
        """Go on after the checkpoints that runs resume from; a new group when they are of several.

        Those of a group are of one moment, or the caller accepts that they are not.
        """
        found = list(resumed)
        if not found:
            return cls()
        newest = max(found, key=lambda saved: saved.state.tick)
        groups = {saved.state.group for saved in found}
        group = newest.state.group if len(groups) == 1 else uuid.uuid4().hex
        return cls(group, newest.state.tick, newest.turn, newest.state.tick)

    def next(self) -> None:
        """The moment now becomes the newest; what is saved goes over the one before the last."""
        self.turn, self.saved_at = 1 - self.turn, self.tick

    def save(self, store: CheckpointStore, state: RunState, tensors: Tensors) -> None:
        """Store one run as it is at the newest moment."""
        state.group, state.tick = self.group, self.saved_at
        replace(store, file=FILES[self.turn]).save(state, tensors)


def find_saved(store: CheckpointStore) -> list[Saved]:
    """What a run has stored. Raises CheckpointMismatch, StorageCorrupt."""
    found = [(turn, replace(store, file=file).load()) for turn, file in enumerate(FILES)]
    return [Saved(turn, loaded[0]) for turn, loaded in found if loaded is not None]


def load_saved(store: CheckpointStore, saved: Saved) -> tuple[RunState, Tensors]:
    """The same with its tensors. Raises CheckpointMismatch, StorageCorrupt."""
    found = replace(store, file=FILES[saved.turn]).load()
    assert found is not None  # only its own run writes it, and never removes it
    return found


def common_moment(found: Mapping[str, Sequence[Saved]], over: Iterable[str]) -> dict[str, Saved]:
    """From which checkpoint each run resumes; a run that has none starts anew.

    All resume from the newest moment that every run has. Runs in `over` (their newest checkpoint
    is their end) take part when they have it, because the others ran beside them after it. Runs
    that were never together, or of which one was away for a while, resume from their own newest:
    right, but rounded in another way than an undisturbed run.
    """
    newest = {
        name: max(saved, key=lambda one: (one.state.update, one.state.tick))
        for name, saved in found.items()
        if saved
    }
    running = {name: saved for name, saved in newest.items() if name not in set(over)}
    if not running:
        return newest
    group, tick = min((saved.state.group, saved.state.tick) for saved in running.values())
    shared = {
        name: one
        for name, saved in found.items()
        for one in saved
        if (one.state.group, one.state.tick) == (group, tick)
    }
    return newest | shared if shared.keys() >= running.keys() else newest
