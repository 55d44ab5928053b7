"""What a trained classifier makes of one split: all that finding strata needs.

Checks shapes and values once, so that nothing after it has to. Knows no models, images or texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from loraland.errors import DataRefused, StorageCorrupt
from loraland.storage import Storage

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]

_ARRAYS, _MANIFEST = "features.safetensors", "features.json"


@dataclass(frozen=True, slots=True)
class Features:
    """n examples of one split, with d features, of B superclasses."""

    split: str  # "train", "validation", "test"
    ids: tuple[str, ...]  # unique
    values: Floats  # (n, d): what goes into the last linear layer
    logits: Floats  # (n, B)
    losses: Floats  # (n,): cross-entropy, nats; zeros where unknown
    superclasses: Whole  # (n,): 0..B-1
    subclasses: Whole | None = None  # (n,): the true ones, only ever for reporting
    head: Floats | None = None  # (B, d): rows of the last linear layer, for the hardness direction

    def __post_init__(self) -> None:
        """Raises DataRefused with every mistake that is found."""
        mistakes = list(_mistakes(self))
        if mistakes:
            raise DataRefused(f"features of split '{self.split}': " + "; ".join(mistakes))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> int:
        """B, the number of superclasses."""
        return int(self.logits.shape[1])

    def of(self, superclass: int) -> Whole:
        """The places of a superclass's examples, ascending."""
        return np.flatnonzero(self.superclasses == superclass)

    def take(self, places: Whole) -> Features:
        """Some of the examples. Raises DataRefused when that leaves one superclass or none."""
        return replace(
            self,
            ids=tuple(self.ids[place] for place in places),
            values=self.values[places],
            logits=self.logits[places],
            losses=self.losses[places],
            superclasses=self.superclasses[places],
            subclasses=None if self.subclasses is None else self.subclasses[places],
        )

    def correct(self) -> NDArray[np.bool_]:
        """Whether the classifier is right, per example: (n,)."""
        return np.asarray(self.logits.argmax(1) == self.superclasses)

    def save(self, storage: Storage, folder: str) -> None:
        """Write to a folder below the storage root; its manifest comes last."""
        content = save(
            {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}
        )
        storage.write(f"{folder}/{_ARRAYS}", content)
        storage.write_json(
            f"{folder}/{_MANIFEST}",
            {
                "split": self.split,
                "ids": list(self.ids),
                "sha256": hashlib.sha256(content).hexdigest(),
            },
        )

    @classmethod
    def load(cls, storage: Storage, folder: str) -> Features:
        """Read what `save` wrote. Raises FileNotFoundError, StorageCorrupt."""
        manifest = storage.read(f"{folder}/{_MANIFEST}")
        content = storage.read(f"{folder}/{_ARRAYS}")
        try:
            about = json.loads(manifest)
            if about["sha256"] != hashlib.sha256(content).hexdigest():
                raise ValueError("the arrays are not those of the manifest")
            return cls(split=about["split"], ids=tuple(about["ids"]), **load(content))
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StorageCorrupt(
                f"{storage.describe(folder)} holds no whole features ({error}); extract them again"
            ) from None

    def _arrays(self) -> dict[str, NDArray[Any]]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _mistakes(found: Features) -> Sequence[str]:
    """What is wrong, in words a person can act on."""
    n = len(found.ids)
    if n == 0:
        return ["there are no examples"]
    wrong = []
    if len(set(found.ids)) < n:
        wrong.append("some ids occur twice")
    if found.values.ndim != 2 or found.logits.ndim != 2:
        return [*wrong, "values must be (n, d) and logits (n, B)"]
    d, classes = found.values.shape[1], found.logits.shape[1]
    shapes: dict[str, tuple[NDArray[Any] | None, tuple[int, ...], type[np.generic]]] = {
        "values": (found.values, (n, d), np.float32),
        "logits": (found.logits, (n, classes), np.float32),
        "losses": (found.losses, (n,), np.float32),
        "superclasses": (found.superclasses, (n,), np.int64),
        "subclasses": (found.subclasses, (n,), np.int64),
        "head": (found.head, (classes, d), np.float32),
    }
    for name, (array, shape, kind) in shapes.items():
        if array is None:
            continue
        if array.shape != shape or array.dtype != kind:
            wrong.append(
                f"{name} is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape} for {n} ids"
            )
        elif kind == np.float32 and not np.isfinite(array).all():
            rows = np.unique(np.argwhere(~np.isfinite(array))[:, 0])
            wrong.append(
                f"{name} has {len(rows)} rows that are not finite, first that of "
                f"'{found.ids[rows[0]] if name != 'head' else rows[0]}'"
            )
    if d == 0:
        wrong.append("there are no features (d = 0)")
    return wrong or _wrong_labels(found)


def _wrong_labels(found: Features) -> list[str]:
    wrong = []
    lowest, highest = int(found.superclasses.min()), int(found.superclasses.max())
    if lowest < 0 or highest >= found.classes:
        wrong.append(
            f"superclasses run from {lowest} to {highest}, but the logits know 0 to "
            f"{found.classes - 1}"
        )
    elif found.classes < 2 or lowest == highest:
        wrong.append(
            f"all {len(found)} examples have superclass {lowest}; a classifier needs two classes "
            "at least"
        )
    if found.subclasses is not None:
        pairs = np.unique(np.stack([found.subclasses, found.superclasses], 1), axis=0)
        if len(np.unique(pairs[:, 0])) < len(pairs):
            wrong.append("some subclass belongs to two superclasses; number them apart")
    return wrong
