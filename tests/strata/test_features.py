"""Features: what is refused, and what storage gives back."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from loraland.errors import DataRefused, StorageCorrupt
from loraland.storage import Storage
from loraland.strata.features import Features
from tests.strata.made_up import clouds

SMALL = clouds(count=5)
N = len(SMALL)


def test_features_come_back_from_storage_as_they_were(storage_uri: str) -> None:
    storage = Storage.open(storage_uri)
    SMALL.save(storage, "strata/a")
    found = Features.load(storage, "strata/a")
    for field in fields(Features):
        ours, theirs = getattr(SMALL, field.name), getattr(found, field.name)
        assert np.array_equal(ours, theirs)


def test_what_is_absent_stays_absent(tmp_path: Any) -> None:
    storage = Storage.open(str(tmp_path))
    replace(SMALL, subclasses=None, head=None).save(storage, "a")
    found = Features.load(storage, "a")
    assert found.subclasses is None and found.head is None


def with_nan(array: Any) -> Any:
    damaged = array.copy()
    damaged.reshape(-1)[3] = np.nan
    return damaged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": with_nan(SMALL.values)}, "values has 1 rows that are not finite"),
        ({"logits": with_nan(SMALL.logits)}, "first that of 'train-1'"),
        ({"losses": with_nan(SMALL.losses)}, "losses has 1 rows"),
        ({"superclasses": np.zeros(N, np.int64)}, "all 25 examples have superclass 0"),
        ({"superclasses": np.full(N, 7)}, "the logits know 0 to 1"),
        ({"superclasses": SMALL.superclasses - 1}, "run from -1"),
        ({"subclasses": np.zeros(N, np.int64)}, "belongs to two superclasses"),
        ({"losses": SMALL.losses[:-1]}, r"losses is float32 \(24,\), not float32 \(25,\)"),
        ({"values": SMALL.values.astype(np.float64)}, "values is float64"),
        ({"values": SMALL.values[:, 0]}, r"values must be \(n, d\)"),
        ({"values": SMALL.values[:, :0], "head": None}, "no features"),
        ({"ids": ("same",) * N}, "ids occur twice"),
        ({"ids": ()}, "no examples"),
    ],
)
def test_features_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataRefused, match=message):
        replace(SMALL, **changes)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DataRefused, match=r"twice.*values.*losses"):
        replace(SMALL, ids=("a",) * N, values=with_nan(SMALL.values), losses=with_nan(SMALL.losses))


def test_damaged_files_are_told_from_missing_ones(tmp_path: Any) -> None:
    storage = Storage.open(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        Features.load(storage, "a")
    SMALL.save(storage, "a")
    content = storage.read("a/features.safetensors")
    storage.write("a/features.safetensors", content[:-4] + b"\0\0\0\1")
    with pytest.raises(StorageCorrupt, match="extract them again"):
        Features.load(storage, "a")


def test_a_part_of_the_examples_keeps_their_order() -> None:
    found = SMALL.take(np.array([20, 3, 7]))
    assert found.ids == ("train-20", "train-3", "train-7")
    assert np.array_equal(found.values, SMALL.values[[20, 3, 7]])
    with pytest.raises(DataRefused, match="two classes"):
        SMALL.take(np.array([0, 1]))
