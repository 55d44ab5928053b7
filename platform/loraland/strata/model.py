"""Strata of a classifier: found on its training features, then asked of any others.

Superclasses are clustered by themselves and their strata numbered on, so that a stratum's number
tells its superclass. Where the work runs is the caller's choice (`Runner`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loraland.errors import DataRefused
from loraland.storage import Storage
from loraland.strata import model_files
from loraland.strata.features import Features, Floats, Whole
from loraland.strata.scan import ks, score_k
from loraland.strata.settings import StrataSettings
from loraland.strata.superclass import Decision, SuperclassStrata, divide, reduce

Runner = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
# ^ Calls a pure function once for each tuple of arguments; results in that order.


def in_process(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One call after the other, here."""
    return [function(*each) for each in arguments]


@dataclass(frozen=True, slots=True)
class StrataModel:
    """Strata that were found; superclass b's are numbered from `offsets[b]` on."""

    settings: StrataSettings
    dimensions: int  # d of the features
    classes: int  # B
    superclasses: tuple[SuperclassStrata, ...]  # those with training examples
    decisions: tuple[Decision, ...]  # of the same

    @property
    def count(self) -> int:
        """How many strata there are over all superclasses."""
        return sum(one.count for one in self.superclasses)

    @property
    def offsets(self) -> dict[int, int]:
        """The first stratum of each superclass."""
        found, following = {}, 0
        for one in self.superclasses:
            found[one.reducer.superclass] = following
            following += one.count
        return found

    @property
    def superclass_of(self) -> Whole:
        """The superclass of each stratum: (count,)."""
        return np.concatenate(
            [np.full(one.count, one.reducer.superclass, np.int64) for one in self.superclasses]
        )

    def assign(self, features: Features) -> Whole:
        """The stratum of each example: (n,), 0..count-1.

        Raises DataRefused for features of another classifier, or a superclass that had no training
        examples.
        """
        found, offsets = np.zeros(len(features), np.int64), self.offsets
        for one, places, points in self._placed(features):
            found[places] = offsets[one.reducer.superclass] + one.assign(points)
        return found

    def place(self, features: Features) -> Floats:
        """Where each example lies in the space that was clustered: (n, components).

        Every superclass has a space of its own; where one has fewer components than another, its
        last are 0. Raises as `assign` does.
        """
        placed = self._placed(features)
        found = np.zeros((len(features), max(each[2].shape[1] for each in placed)), np.float32)
        for _, places, points in placed:
            found[places, : points.shape[1]] = points
        return found

    def _placed(self, features: Features) -> list[tuple[SuperclassStrata, Whole, Floats]]:
        if (features.values.shape[1], features.classes) != (self.dimensions, self.classes):
            raise DataRefused(
                f"features of {features.values.shape[1]} dimensions and {features.classes} classes "
                f"are not those of this model: {self.dimensions} and {self.classes}"
            )
        unknown = set(np.unique(features.superclasses).tolist()) - set(self.offsets)
        if unknown:
            raise DataRefused(
                f"superclasses {sorted(unknown)} of split '{features.split}' had no training "
                f"examples; strata are known of {sorted(self.offsets)}"
            )
        found = []
        for one in self.superclasses:
            places = features.of(one.reducer.superclass)
            if len(places):
                values, logits = features.values[places], features.logits[places]
                found.append((one, places, one.reducer.place(values, logits)))
        return found

    def save(self, storage: Storage, folder: str) -> None:
        """Write arrays, then the manifest with settings and decisions; no pickle."""
        model_files.save_model(self, storage, folder)

    @classmethod
    def load(cls, storage: Storage, folder: str) -> StrataModel:
        """Read what `save` wrote; it assigns the same. Raises FileNotFoundError, StorageCorrupt."""
        return cls(*model_files.load_parts(storage, folder))


def fit_strata(
    train: Features,
    validation: Features,
    settings: StrataSettings,
    run: Runner = in_process,
) -> StrataModel:
    """Find strata on training features; validation features only count towards the keep rules.

    A superclass stays whole where too few or too similar examples, the floor, or the settings say
    so; its decision tells why. A superclass without validation examples keeps no small strata.
    Raises DataRefused.
    """
    if validation.values.shape[1] != train.values.shape[1] or validation.classes != train.classes:
        raise DataRefused(
            f"training features have {train.values.shape[1]} dimensions and {train.classes} "
            f"classes, validation features {validation.values.shape[1]} and {validation.classes}; "
            "extract both with the same classifier"
        )
    found = np.unique(train.superclasses).tolist()
    reduced = run(reduce, [(train, validation, one, settings) for one in found])
    tried = [
        (number, k)
        for number, one in enumerate(found)
        if one not in settings.leave_whole
        for k in ks(len(reduced[number].train), settings)
    ]
    scanned = run(score_k, [(reduced[number].train, k, settings) for number, k in tried])
    divided = run(
        divide,
        [
            (
                reduced[number],
                train.losses[train.of(one)],
                [s for (of, _), s in zip(tried, scanned, strict=True) if of == number],
                settings,
            )
            for number, one in enumerate(found)
        ],
    )
    return StrataModel(
        settings,
        train.values.shape[1],
        train.classes,
        tuple(strata for strata, _ in divided),
        tuple(decision for _, decision in divided),
    )
