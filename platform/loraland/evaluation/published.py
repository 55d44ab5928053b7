"""The stored score of a published adapter, computed again from its samples; loads no torch."""

from __future__ import annotations

from typing import NamedTuple

from loraland.adapters.card import Card, Score
from loraland.adapters.registry import Registry
from loraland.errors import SamplesMissing
from loraland.evaluation.scoring import regrade
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task


class Evaluation(NamedTuple):
    """A score computed now, and the one that was stored before."""

    model: str  # base/task@version
    computed: Score
    stored: Score | None

    @property
    def reproduced(self) -> bool | None:
        """Whether every number of the stored score came out again; None when there was none."""
        if self.stored is None:
            return None
        # Where the answers and the data lie is no part of a score; the data's fingerprint is in the
        # key of the samples.
        aside = {"created", "samples", "base_samples", "data_source"}
        if not self.stored.secondary:  # made when there were none
            aside.add("secondary")
        return self.computed.model_dump(exclude=aside) == self.stored.model_dump(exclude=aside)


def regrade_model(name: str, storage: Storage) -> Evaluation:
    """Grade the stored samples of an adapter again.

    Loads no model. Raises SamplesMissing, UnknownModel.
    """
    registry = Registry(storage)
    resolved = registry.resolve(name)
    stored = newest_score(registry.card(resolved))
    if stored is None:
        raise SamplesMissing(
            f"{resolved} was never judged; `loraland evaluate {name} --fresh` does it"
        )
    task = get_task(str(resolved.task))
    computed = regrade(task, stored.samples, stored.base_samples, stored.data_source, storage)
    return Evaluation(str(resolved), computed, stored)


def newest_score(card: Card) -> Score | None:
    """The score of a card that was made last."""
    return max(card.scores, key=lambda score: score.created, default=None)
