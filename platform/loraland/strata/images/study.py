"""All modes on one data set with one seed, side by side, each a file; what is there is not redone.

ERM first; its features give the strata; every other mode is then trained from the same start over
groups of its own. A killed study goes on from the files, and a killed training from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from loraland.storage import Storage
from loraland.strata.features import Features, Whole
from loraland.strata.groups import MODES, Mode, groups_of, numbered
from loraland.strata.images.extract import extract
from loraland.strata.images.network import NamedNetwork, network_for
from loraland.strata.images.pictures import ImageData, ImageSplit
from loraland.strata.images.recipe import ImageRecipe
from loraland.strata.images.train import (
    Groups,
    TrainedNetwork,
    predictions,
    train_network,
)
from loraland.strata.metrics import best_strata, group_scores, overall, worst
from loraland.strata.model import Runner, StrataModel, fit_strata, in_process
from loraland.strata.settings import StrataSettings
from loraland.training.checkpoint import CheckpointStore

DIGESTED = 64  # pictures of a split that its key looks at, beside all ids and labels


@dataclass(frozen=True)
class ImageStudy:
    """One data set, recipe, settings and seed; its files lie under a key of all of them."""

    data: ImageData
    storage: Storage
    recipe: ImageRecipe
    settings: StrataSettings
    seed: int = 0
    run: Runner = in_process  # where strata are searched for
    network: NamedNetwork | None = None  # None: one that fits the pictures
    changes: dict[str, Any] = field(default_factory=dict)  # of the recipe, for group DRO

    @property
    def network_name(self) -> str:
        """The name of the network that is trained."""
        return self._network.name

    @property
    def folder(self) -> str:
        """Where the files lie, below the storage root."""
        return f"strata/images/{self.data.name}/{self._key({})}"

    def result(self, mode: Mode) -> dict[str, Any]:
        """The figures of a mode as JSON values, from its file or from training. Raises as that."""
        path = f"{self.folder}/{self._place(mode)}/result.json"
        try:
            return dict(self.storage.read_json(path))
        except FileNotFoundError:
            found = self._judge(mode, self._train(mode))
            self.storage.write_json(path, found)
            self._checkpoints(mode).clear()
            return found

    def results(self, modes: Sequence[Mode] = MODES) -> dict[Mode, dict[str, Any]]:
        """The figures of several modes."""
        return {mode: self.result(mode) for mode in modes}

    def features(self, split: str) -> Features:
        """What the ERM network makes of a split; trains it when that has not been done."""
        if not self.storage.exists(f"{self.folder}/erm/result.json"):
            self.result("erm")
        return Features.load(self.storage, f"{self.folder}/erm/features-{split}")

    def strata(self) -> StrataModel:
        """The strata of the ERM network."""
        folder = f"{self.folder}/{self._place('george', 'strata')}"
        try:
            return StrataModel.load(self.storage, folder)
        except FileNotFoundError:
            train, validation = self.features("train"), self.features("validation")
            settings = self.settings.model_copy(update={"seed": self.seed})
            found = fit_strata(train, validation, settings, self.run)
            found.save(self.storage, folder)
            return found

    def quality(self) -> list[dict[str, Any]]:
        """How the strata of the training split agree with its true subclasses."""
        train = self.features("train")
        if train.subclasses is None:
            return []
        found = best_strata(self.strata().assign(train), train.subclasses, train.superclasses)
        return [one._asdict() for one in found]

    def _train(self, mode: Mode) -> TrainedNetwork:
        recipe = self.recipe
        if mode != "erm":
            recipe = ImageRecipe.model_validate(recipe.model_dump() | self.changes)
        return train_network(
            self._network.make,
            self.data.train,
            self.data.validation,
            recipe,
            groups=self._groups(mode),
            seed=self.seed,
            checkpoints=self._checkpoints(mode),
        )

    def _groups(self, mode: Mode) -> Groups | None:
        splits = (self.data.train, self.data.validation)
        if mode == "erm":
            return None
        strata = [self._strata_of(split) if self._needs_strata(mode) else None for split in splits]
        train, validation = (
            groups_of(
                mode, split.superclasses, strata=mine, subclasses=split.subclasses, seed=self.seed
            )
            for split, mine in zip(splits, strata, strict=True)
        )
        assert train is not None and validation is not None
        return Groups(*numbered(train, validation))

    def _needs_strata(self, mode: Mode) -> bool:
        return mode == "george" or (mode == "random" and self.data.train.subclasses is None)

    def _strata_of(self, split: ImageSplit) -> Whole:
        return self.strata().assign(self.features(split.split))

    def _judge(self, mode: Mode, trained: TrainedNetwork) -> dict[str, Any]:
        if mode == "erm":  # before its result, which says that they are there
            for split in (self.data.train, self.data.validation, self.data.test):
                features = extract(trained.network, split)
                features.save(self.storage, f"{self.folder}/erm/features-{split.split}")
        test = self.data.test
        right = predictions(trained.network, test) == test.superclasses
        found: dict[str, Any] = {
            "mode": mode,
            "seed": self.seed,
            "overall": overall(right),
            "epoch": trained.epoch,
            "validation": trained.validation,
            "q": trained.q,
            "right": np.packbits(right).tobytes().hex(),  # a bit for each test picture, in order
            "test_count": len(test),
        }
        if test.subclasses is not None:
            found["worst_subclass"] = worst(right, test.subclasses)._asdict()
            found["subclasses"] = [one._asdict() for one in group_scores(right, test.subclasses)]
        return found

    def worst_cluster(self, mode: Mode) -> dict[str, Any]:
        """The worst stratum of the test split: the estimate that needs no true subclasses."""
        packed = np.frombuffer(bytes.fromhex(self.result(mode)["right"]), np.uint8)
        right = np.unpackbits(packed, count=len(self.data.test)).astype(bool)
        return worst(right, self.strata().assign(self.features("test")))._asdict()

    def _place(self, mode: Mode, name: str | None = None) -> str:
        """A folder whose name holds all that this mode depends on beside the study's own key."""
        if mode == "erm":
            return "erm"
        about: dict[str, Any] = {} if name else {"changes": self.changes}
        if name or self._needs_strata(mode):
            about["settings"] = self.settings.model_dump(mode="json")
        return f"{name or mode}-{self._key(about)}"

    def _checkpoints(self, mode: Mode) -> CheckpointStore:
        place = self._place(mode)
        folder = f"{self.folder}/{place}/checkpoint"
        return CheckpointStore(self.storage, folder, f"{self._key({})}-{place}")

    @cached_property
    def _network(self) -> NamedNetwork:
        shape = self.data.train.pictures.take(np.zeros(1, np.int64)).shape[1:]
        return self.network or network_for(shape, len(self.data.superclass_names))

    @cached_property
    def _digests(self) -> list[str]:
        return [_digest(split) for split in (self.data.train, self.data.validation, self.data.test)]

    def _key(self, more: dict[str, Any]) -> str:
        about = {
            "data": self._digests,
            "recipe": self.recipe.model_dump(mode="json"),
            "network": self._network.name,
            "seed": self.seed,
            **more,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def _digest(split: ImageSplit) -> str:
    whole = hashlib.sha256("\n".join(split.ids).encode())
    whole.update(split.superclasses.tobytes())
    if split.subclasses is not None:
        whole.update(split.subclasses.tobytes())
    whole.update(split.pictures.take(np.arange(min(DIGESTED, len(split)))).tobytes())
    return whole.hexdigest()
