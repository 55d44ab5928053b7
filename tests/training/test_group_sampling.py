"""Uniform group sampling."""

from __future__ import annotations

import numpy as np
import pytest

from loraland.errors import DataRefused
from loraland.training.group_sampling import uniform_epoch

LABELS = np.repeat([0, 1, 2], [900, 90, 10])


def test_every_group_is_drawn_as_often_as_any_other() -> None:
    drawn = LABELS[uniform_epoch(LABELS, seed=0, epoch=0, count=30_000)]
    shares = np.bincount(drawn) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.015)  # five standard errors


def test_soft_groups_are_drawn_by_their_shares() -> None:
    soft = np.array([[1.0, 0.0]] * 99 + [[0.0, 1.0]])
    drawn = uniform_epoch(soft, seed=0, epoch=0, count=10_000)
    assert np.mean(drawn == 99) == pytest.approx(0.5, abs=0.03)


def test_an_epoch_is_as_long_as_the_data_and_follows_from_seed_and_number() -> None:
    first = uniform_epoch(LABELS, seed=3, epoch=1)
    assert len(first) == len(LABELS)
    assert (first == uniform_epoch(LABELS, seed=3, epoch=1)).all()
    assert (first != uniform_epoch(LABELS, seed=3, epoch=2)).any()
    assert (first != uniform_epoch(LABELS, seed=4, epoch=1)).any()


def test_nothing_cannot_be_drawn_from() -> None:
    with pytest.raises(DataRefused, match="no examples"):
        uniform_epoch(np.zeros(0, np.int64), seed=0, epoch=0)
