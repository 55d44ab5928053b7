"""The four keep rules, each alone, and the relabelling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loraland.strata.clusterer import Clustering
from loraland.strata.overclustering import Part, judge, part_labels, relabelling, split
from loraland.strata.settings import StrataSettings

SETTINGS = StrataSettings(factor=2, least_count=10, least_share=0.0, clusterer="kmeans")


def scene(gap: float = 6.0, small: int = 30, small_loss: float = 2.0, seen: int = 30) -> list[Part]:
    """Two base clusters; the first has a small part `gap` away, the second is round."""
    draws = np.random.default_rng(0)
    points = np.concatenate(
        [
            draws.normal((0, 0), 0.5, (200, 2)),
            draws.normal((0, gap), 0.5, (small, 2)),
            draws.normal((40, 0), 0.5, (200, 2)),
        ]
    )
    labels = np.repeat([0, 1], [200 + small, 200])
    parted = np.repeat([0, 1, 2], [200, small, 200])
    losses = np.repeat([1.0, small_loss, 1.0], [200, small, 200]).astype(np.float32)
    validation = np.repeat([0, 1, 2], [50, seen, 50])
    return judge(points, losses, labels, parted, validation, SETTINGS)


def small_part(**changes: Any) -> Part:
    return next(part for part in scene(**changes) if part.part == 1)


def test_a_part_that_stands_out_is_hard_and_large_enough_is_kept() -> None:
    found = small_part(gap=25.0)
    assert found.is_kept and found.train_count == 30 and found.validation_count == 30
    assert found.loss == pytest.approx(2.0) and found.parent_loss < 1.2


def test_each_rule_alone_rejects_a_part_and_says_why() -> None:
    separated, easy = small_part(gap=0.2), small_part(gap=25.0, small_loss=0.5)
    few, unseen = small_part(gap=25.0, small=9), small_part(gap=25.0, seen=9)
    for part, reason in (
        (separated, "silhouette"),
        (easy, "loss 0.500 is below"),
        (few, "9 training examples, fewer than 10"),
        (unseen, "9 validation examples, fewer than 10"),
    ):
        assert not part.is_kept and len(part.reasons) == 1 and reason in part.reasons[0]


def test_a_part_may_be_exactly_as_hard_and_as_large_as_needed() -> None:
    assert small_part(gap=25.0, small=10, seen=10).is_kept
    assert small_part(gap=25.0, small_loss=1.0).is_kept


def test_the_least_share_grows_with_the_superclass() -> None:
    draws = np.random.default_rng(0)
    points = np.concatenate(
        [draws.normal((0, 0), 0.5, (970, 2)), draws.normal((0, 30), 0.5, (30, 2))]
    )
    points = np.concatenate([points, draws.normal((60, 0), 0.5, (1000, 2))])
    labels, parted = np.repeat([0, 1], 1_000), np.repeat([0, 1, 2], [970, 30, 1_000])
    losses = np.ones(2_000, np.float32)
    strict = SETTINGS.model_copy(update={"least_share": 0.02})
    kept = [part.is_kept for part in judge(points, losses, labels, parted, parted, SETTINGS)]
    assert kept[1] and not judge(points, losses, labels, parted, parted, strict)[1].is_kept


def part(parent: int, number: int, *reasons: str) -> Part:
    return Part(parent, number, 0.5, 0.1, 1.0, 1.0, 30, 30, reasons)


BASE = Clustering(np.zeros((3, 2)))
SEEN = np.arange(6)  # every part of three clusters of two


def test_rejected_parts_are_one_stratum_again_and_parents_without_a_rest_are_gone() -> None:
    parts = [
        part(0, 0),
        part(0, 1, "easy"),
        part(1, 2),
        part(1, 3),
        part(2, 4, "a"),
        part(2, 5, "b"),
    ]
    # The rest of the first, its kept part, two kept parts of the second, all of the third.
    assert relabelling(BASE, SEEN, parts, 2).tolist() == [1, 0, 2, 3, 4, 4]


def test_without_a_kept_part_the_clusters_stay_as_they_were() -> None:
    parts = [part(number // 2, number, "easy") for number in range(6)]
    assert relabelling(BASE, SEEN, parts, 2).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_part_that_no_training_point_has_leaves_no_empty_stratum() -> None:
    parts = [part(1, 2), part(1, 3), part(2, 4, "a"), part(2, 5, "b")]
    seen = np.array([0, 2, 3, 4, 5])  # the first cluster was not split
    assert relabelling(BASE, seen, parts, 2).tolist() == [0, 0, 1, 2, 3, 3]


def test_a_cluster_with_fewer_points_than_parts_is_not_split() -> None:
    points = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 0.0]])
    labels, base = np.array([0, 0, 1]), Clustering(np.array([[0.0, 0.0], [9.0, 0.0]]))
    parts = split(points, labels, base, SETTINGS)
    assert parts[0] is not None and parts[1] is None
    found = part_labels(points, labels, parts, 2)
    assert found[2] == 2 and set(found[:2]) == {0, 1}
