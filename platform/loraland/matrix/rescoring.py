"""Grades the stored answers of finished cells anew, and puts scores that changed where they belong.

Answers that are still in parts become samples first. An answer never changes here; its grade does
when the grader has, and then the samples, the adapter's card and the cell's record are written
anew. Needs no model, no torch and no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from loraland.adapters.card import Score
from loraland.adapters.registry import Registry
from loraland.errors import LoraLandError, UnknownModel
from loraland.evaluation.exam import Sitting
from loraland.evaluation.parts import drop_parts, has_samples, merge
from loraland.evaluation.samples import Sample, read_samples, write_samples
from loraland.evaluation.scoring import grade, score
from loraland.matrix.cell import Cell
from loraland.matrix.columns import Candidate, Trouble
from loraland.matrix.judging import task_of
from loraland.matrix.ledger import Ledger
from loraland.storage import Storage


class Rescored(NamedTuple):
    """A cell and its score."""

    cell: Cell
    score: Score
    changed: bool  # it, or what it stands on, is another than the record had


class Rescoring(NamedTuple):
    """What became of scoring some cells."""

    scored: list[Rescored]
    troubles: list[Trouble]


def rescore(candidates: Sequence[Candidate], storage: Storage) -> Rescoring:
    """Score cells from what is stored; one that cannot be scored leaves the others alone.

    Killed, the same call does what is left; done, it changes nothing. Raises what storage raises.
    """
    graded = _Graded(storage)
    scored, troubles = [], []
    for candidate in candidates:
        try:
            found = _score(candidate, graded, storage)
        except LoraLandError as error:
            troubles.append(Trouble(candidate.cell, error))
            continue
        changed = not _same(found, candidate.record.score)
        if changed:
            _put(candidate, found, storage)
        scored.append(Rescored(candidate.cell, found, changed))
    return Rescoring(scored, troubles)


def _score(candidate: Candidate, graded: _Graded, storage: Storage) -> Score:
    known = candidate.record.score
    places, source = (known.samples, known.base_samples), known.data_source
    if candidate.exam is not None and (pair := candidate.sittings) is not None:
        for sitting in pair:
            _settle(sitting, storage)
        places, source = (pair[0].place, pair[1].place), candidate.exam.data_source
    ours, theirs = (graded.samples(candidate, place) for place in places)
    return score(task_of(candidate.cell), ours, theirs, *places, source)


def _settle(sitting: Sitting, storage: Storage) -> None:
    if has_samples(sitting, storage):
        drop_parts(sitting, storage)  # that a kill right after the samples left
    else:
        merge(sitting, storage)


class _Graded:
    """Samples as the graders see them now; those of a base are graded once for all its cells."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[str, list[Sample]] = {}

    def samples(self, candidate: Candidate, place: str) -> list[Sample]:
        """Those of a place, whose stored grades are brought up to date."""
        if place not in self._known:
            stored, stamp = read_samples(self._storage, place)
            found = grade(task_of(candidate.cell), stored)
            if found != stored:
                write_samples(self._storage, place, found, stamp)
            self._known[place] = found
        return self._known[place]


def _same(found: Score, known: Score) -> bool:
    aside = {"created"}
    return found.model_dump(exclude=aside) == known.model_dump(exclude=aside)


def _put(candidate: Candidate, found: Score, storage: Storage) -> None:
    """The card first: a record whose card lags behind would not be looked at again."""
    registry, model = Registry(storage), candidate.record.model
    with suppress(UnknownModel):  # the adapter was deleted; what was measured stays true
        registry.put_card(model, registry.card(model).with_score(found))
    Ledger(storage).record_score(candidate.cell, candidate.record, found)
