"""Image classifiers: all modes on a small picture puzzle, resumption, and any torch module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from loraland.errors import BaseUnavailable, DataRefused, InvalidConfiguration, TrainingDiverged
from loraland.storage import Storage
from loraland.strata.groups import MODES
from loraland.strata.images.extract import extract
from loraland.strata.images.network import (
    LeNet,
    NamedNetwork,
    Pretrained,
    last_linear,
    network_for,
)
from loraland.strata.images.pictures import ImageData, ImageSplit, InMemory
from loraland.strata.images.recipe import ImageRecipe, image_recipe
from loraland.strata.images.study import ImageStudy
from loraland.strata.images.train import Groups, TrainedNetwork, train_network
from loraland.strata.settings import StrataSettings
from loraland.training.checkpoint import CheckpointStore

RECIPE = ImageRecipe(epochs=3, batch=32, learning_rate=5e-3)
SETTINGS = StrataSettings(reduction="pca", max_k=3, least_count=5)


class Small(nn.Module):
    """Not a LeNet, and without torchvision: features are 6 numbers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Dropout(dropout)
        )
        self.out = nn.Linear(6, 2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(pictures))  # type: ignore[no-any-return]


def puzzle(split: str, count: int, seed: int, rare: float = 0.1) -> ImageSplit:
    """Class: which half is bright; a corner mostly tells it too, and rarely the opposite."""
    draws = np.random.default_rng(seed)
    y = np.arange(count) % 2
    odd = (draws.random(count) < rare).astype(int)
    pixels = draws.integers(0, 120, (count, 1, 32, 32), dtype=np.uint8)
    for place in range(count):
        half = slice(0, 16) if y[place] else slice(16, 32)
        pixels[place, 0, half] += 40
        if y[place] ^ odd[place]:
            pixels[place, 0, :8, :8] = 255
    ids = tuple(f"{split}-{place}" for place in range(count))
    return ImageSplit(
        split, ids, InMemory(pixels), y.astype(np.int64), (2 * y + odd).astype(np.int64)
    )


TRAIN, VALIDATION = puzzle("train", 200, 0), puzzle("validation", 100, 1)
DATA = ImageData(
    "puzzle", TRAIN, VALIDATION, puzzle("test", 200, 2, 0.5), ("a", "b"), tuple("wxyz")
)
GROUPS = Groups(np.asarray(TRAIN.subclasses), np.asarray(VALIDATION.subclasses))


def trained(
    recipe: ImageRecipe = RECIPE, groups: Groups | None = GROUPS, **more: Any
) -> TrainedNetwork:
    return train_network(more.pop("make", Small), TRAIN, VALIDATION, recipe, groups=groups, **more)


def same_weights(one: TrainedNetwork, other: TrainedNetwork, close: float = 0.0) -> bool:
    pairs = zip(one.network.parameters(), other.network.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=close, rtol=0.0) for a, b in pairs)


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_accumulated_passes_train_the_network_of_one_pass(
    groups: Groups | None, optimizer: Any
) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "shift": 2, "flip": True})
    whole = trained(recipe, groups)
    parts = trained(recipe.model_copy(update={"micro_batch": 7}), groups)
    assert same_weights(whole, parts, close=1e-3)
    assert whole.q == (None if groups is None else pytest.approx(parts.q, abs=1e-5))


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("changes", [{}, {"uniform_groups": True, "shift": 1}])
def test_a_killed_training_goes_on_to_the_same_network(
    changes: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update=changes)
    make = lambda: Small(dropout=0.3)  # noqa: E731
    whole = trained(recipe, make=make, seed=3)
    store = CheckpointStore(Storage.open(str(tmp_path)), "run", "key")
    save = CheckpointStore.save

    def save_and_die(*given: Any) -> None:
        save(*given)
        raise Killed

    monkeypatch.setattr(CheckpointStore, "save", save_and_die)
    for _ in range(2):
        with pytest.raises(Killed):
            trained(recipe, make=make, seed=3, checkpoints=store)
    monkeypatch.undo()
    resumed = trained(recipe, make=make, seed=3, checkpoints=store)
    assert same_weights(whole, resumed)
    assert whole.validation == resumed.validation and whole.q == resumed.q


class LooksAtTheCorner(nn.Module):
    """Follows what mostly tells the class, and so fails the rare pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-2.0], [2.0]]))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(pictures[:, :, :8, :8].mean((1, 2, 3))[:, None])  # type: ignore[no-any-return]


def test_the_weight_of_the_groups_that_fail_grows() -> None:
    still = RECIPE.model_copy(
        update={"eta": 0.05, "learning_rate": 1e-12, "uniform_groups": True, "epochs": 1}
    )
    found = trained(still, make=LooksAtTheCorner)
    assert found.q is not None and sum(found.q) == pytest.approx(1.0)
    assert min(found.q[1], found.q[3]) > max(found.q[0], found.q[2])


def test_every_mode_starts_from_the_same_weights() -> None:
    still = RECIPE.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    assert same_weights(trained(still, None), trained(still), close=1e-6)


def test_features_are_what_the_last_linear_layer_is_given() -> None:
    torch.manual_seed(0)
    network = Small(dropout=0.5)
    found = extract(network, TRAIN)
    assert found.values.shape == (200, 6) and found.head is not None
    logits = found.values @ found.head.T + last_linear(network).bias.detach().numpy()
    assert np.allclose(logits, found.logits, atol=1e-5)
    assert np.array_equal(extract(network, TRAIN).values, found.values)  # no dropout
    assert extract(LeNet(), TRAIN).values.shape == (200, 120)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (3, 50, 70), (1, 224, 224)])
def test_there_is_a_network_for_pictures_of_any_size(shape: tuple[int, ...]) -> None:
    found = network_for(shape, 3)
    assert found.name == ("lenet" if shape[1:] == (32, 32) else "small")
    assert found.make()(torch.zeros(2, *shape)).shape == (2, 3)


def test_a_resnet_of_transformers_is_read_from_a_folder(tmp_path: Any) -> None:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    found = Pretrained(tmp_path, classes=2)
    assert found(torch.zeros(2, 3, 40, 40)).shape == (2, 2)
    assert last_linear(found).in_features == 16
    with pytest.raises(BaseUnavailable, match="no image classifier"):
        Pretrained(tmp_path / "nowhere")


def test_a_network_without_a_linear_layer_has_no_features() -> None:
    with pytest.raises(InvalidConfiguration, match="no linear layer"):
        last_linear(nn.Sequential(nn.Conv2d(1, 2, 3)))


def study(storage: Storage, **changes: Any) -> ImageStudy:
    facts: dict[str, Any] = {"recipe": RECIPE, "settings": SETTINGS} | changes
    return ImageStudy(DATA, storage, network=NamedNetwork("tiny", Small), **facts)


def test_a_study_has_every_mode_and_does_nothing_twice(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage.open(str(tmp_path))
    first = study(storage)
    results = first.results()
    assert list(results) == list(MODES)
    for mode, found in results.items():
        accuracies = [one["accuracy"] for one in found["subclasses"]]
        assert found["worst_subclass"]["accuracy"] == min(accuracies)
        assert min(accuracies) <= found["overall"] <= max(accuracies)
        assert 0 <= first.worst_cluster(mode)["accuracy"] <= found["overall"] + 1e-9
        assert (found["q"] is None) == (mode == "erm")
    assert [one["subclass"] for one in first.quality()] == [0, 1, 2, 3]
    assert not [path for path in storage.walk("strata") if "checkpoint" in path]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("loraland.strata.images.study.train_network", refuse)
    monkeypatch.setattr("loraland.strata.images.study.fit_strata", refuse)
    again = study(storage)
    assert again.results() == results and again.quality() == first.quality()


def test_what_a_mode_depends_on_gives_it_a_place_of_its_own(tmp_path: Any) -> None:
    storage = Storage.open(str(tmp_path))
    study(storage).results(("erm", "george"))
    before = set(storage.walk("strata"))
    other = SETTINGS.model_copy(update={"clusterer": "kmeans"})
    study(storage, settings=other).results(("erm", "george"))
    study(storage, changes={"eta": 0.5}).results(("erm", "oracle"))
    new = {path.split("/")[3] for path in set(storage.walk("strata")) - before}
    assert sorted(name.split("-")[0] for name in new) == ["george", "oracle", "strata"]
    study(storage, seed=1).result("erm")
    assert len(storage.names("strata/images/puzzle")) == 2


def test_a_group_without_training_pictures_is_refused() -> None:
    labels = np.where(GROUPS.train == 1, 4, GROUPS.train)
    with pytest.raises(DataRefused, match="empty group"):
        trained(groups=Groups(labels, GROUPS.validation))


def test_a_training_that_diverges_says_so() -> None:
    recipe = RECIPE.model_copy(update={"optimizer": "sgd", "learning_rate": 1e30})
    for groups in (None, GROUPS):
        with pytest.raises(TrainingDiverged, match="lower"):
            trained(recipe, groups)


def test_recipes_are_the_published_ones_and_mistakes_are_told() -> None:
    recipe = image_recipe("u-mnist")
    assert [recipe.rate(epoch) for epoch in (0, 49, 50, 75)] == pytest.approx(
        [2e-3, 2e-3, 2e-4, 2e-5]
    )
    with pytest.raises(InvalidConfiguration, match="waterbirds"):
        image_recipe("waterbird")
    with pytest.raises(InvalidConfiguration, match="epochs"):
        image_recipe("u-mnist", epochs=0)


def test_pictures_and_labels_must_be_as_many() -> None:
    with pytest.raises(DataRefused, match="one of each"):
        ImageSplit("train", ("a",), TRAIN.pictures, TRAIN.superclasses, None)
