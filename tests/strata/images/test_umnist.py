"""U-MNIST as the paper builds it, from files and from the digits that come with scikit-learn."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loraland.errors import DataRefused, SourceUnavailable
from loraland.strata.images.umnist import load_umnist


def write(folder: Path, name: str, count: int = 400, **changes: Any) -> None:
    draws = np.random.default_rng(len(name))
    arrays = {
        "images": draws.integers(0, 256, (count, 28, 28), dtype=np.uint8),
        "labels": (np.arange(count) % 10).astype(np.uint8),
    }
    np.savez(folder / f"{name}.npz", **arrays | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "train")
    write(tmp_path, "test", 100)
    return tmp_path


def test_training_loses_all_but_a_twentieth_of_the_eights(folder: Path) -> None:
    data = load_umnist(folder)
    assert data.train.subclasses is not None and data.validation.subclasses is not None
    assert np.bincount(data.train.subclasses).tolist() == [32] * 8 + [2, 32]
    assert np.bincount(data.validation.subclasses).tolist() == [8] * 10
    assert np.bincount(data.test.subclasses).tolist() == [10] * 10  # type: ignore[arg-type]
    assert not set(data.train.ids) & set(data.validation.ids)


def test_superclasses_are_digits_below_five_and_the_others(folder: Path) -> None:
    for split in load_umnist(folder)[1:4]:
        assert np.array_equal(split.superclasses, np.asarray(split.subclasses) >= 5)


def test_pictures_are_framed_for_the_network_and_belong_to_their_labels(folder: Path) -> None:
    data = load_umnist(folder)
    with np.load(folder / "train.npz") as file:
        for place in (0, 50):
            picture = data.train.pictures.take(np.array([place]))[0, 0]
            number = int(data.train.ids[place].removeprefix("train-"))
            assert picture.shape == (32, 32)
            assert np.array_equal(picture[2:30, 2:30], file["images"][number])
            assert data.train.subclasses[place] == file["labels"][number]  # type: ignore[index]


def test_another_seed_divides_otherwise(folder: Path) -> None:
    assert load_umnist(folder, 0).train.ids == load_umnist(folder, 0).train.ids
    assert load_umnist(folder, 0).train.ids != load_umnist(folder, 1).train.ids


def test_without_a_folder_the_digits_of_scikit_learn_are_taken() -> None:
    data = load_umnist(kept=0.3)
    assert len(data.test) == 599 and data.train.pictures.take(np.arange(2)).shape == (2, 1, 32, 32)
    counts = np.bincount(data.train.subclasses)  # type: ignore[arg-type]
    assert counts[8] < 0.4 * counts[0] and counts[8] >= 25


def test_real_digits_are_read(real_data: Path) -> None:
    data = load_umnist(real_data / "mnist")
    assert (len(data.validation), len(data.test)) == (2_401, 2_000)
    assert int((data.train.subclasses == 8).sum()) == 47


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"train\.npz"):
        load_umnist(tmp_path)


def idx(values: Any) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


@pytest.fixture
def published(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same digits as MNIST was published: idx files, one of them packed."""
    found = tmp_path_factory.mktemp("idx")
    for part, name in (("train", "train"), ("test", "t10k")):
        with np.load(folder / f"{part}.npz") as file:
            (found / f"{name}-images-idx3-ubyte").write_bytes(idx(file["images"]))
            packed = gzip.compress(idx(file["labels"]))
            (found / f"{name}-labels-idx1-ubyte.gz").write_bytes(packed)
    return found


def test_the_files_as_published_hold_the_same(folder: Path, published: Path) -> None:
    for here, there in zip(load_umnist(folder)[1:4], load_umnist(published)[1:4], strict=True):
        assert here.ids == there.ids and np.array_equal(here.subclasses, there.subclasses)
        every = np.arange(len(here))
        assert np.array_equal(here.pictures.take(every), there.pictures.take(every))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: whole[:3],
        lambda whole: b"",
        lambda whole: b"\1" + whole[1:],
        lambda whole: whole[:2] + b"\x0d" + whole[3:],
        lambda whole: whole[:4] + b"\xff" * 12 + whole[16:],
    ],
    ids=["short", "long", "cut in its head", "empty", "magic", "floats", "huge"],
)
def test_idx_files_that_are_none_are_refused(published: Path, spoil: Any) -> None:
    path = published / "train-images-idx3-ubyte"
    sound = path.read_bytes()
    path.write_bytes(spoil(sound))
    with pytest.raises(DataRefused, match="train-images") as refused:
        load_umnist(published)
    assert str(refused.value).count("train-images") == 1
    path.write_bytes(sound)
    packed = published / "train-labels-idx1-ubyte.gz"
    whole = packed.read_bytes()
    for spoiled in (b"no gzip", whole[:-9], whole[:20] + b"\xff" * 8 + whole[28:]):
        packed.write_bytes(spoiled)
        with pytest.raises(DataRefused):
            load_umnist(published)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((400, 28, 28))},
        {"images": np.zeros((400, 8, 8), np.uint8)},
        {"labels": np.zeros(3, np.uint8)},
        {"labels": np.full(400, 12, np.uint8)},
        {"labels": np.zeros(400, np.uint8)},
    ],
)
def test_files_that_are_no_mnist_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path, "train", **changes)
    write(tmp_path, "test", 100)
    with pytest.raises(DataRefused):
        load_umnist(tmp_path)


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_files_that_hold_pickles_are_not_opened(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "train", images=np.array([Trap()], object))
    with pytest.raises(DataRefused):
        load_umnist(tmp_path)
    assert not (tmp_path / "trapped").exists()
    (tmp_path / "train.npz").write_bytes(b"no archive")
    with pytest.raises(DataRefused):
        load_umnist(tmp_path)
