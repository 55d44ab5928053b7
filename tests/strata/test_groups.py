"""Groups of the five modes."""

from __future__ import annotations

import numpy as np
import pytest

from loraland.errors import MetricUnavailable
from loraland.strata.groups import groups_of, shuffled_within

Y = np.repeat([0, 1], [60, 40])
TRUE = np.concatenate([np.repeat([0, 1], [50, 10]), np.repeat([2, 3], [30, 10])])
FOUND = np.arange(100) % 2 + 2 * Y


def test_each_mode_has_its_groups() -> None:
    assert groups_of("erm", Y, subclasses=TRUE, strata=FOUND) is None
    for mode, expected in (("superclass", Y), ("oracle", TRUE), ("george", FOUND)):
        found = groups_of(mode, Y, subclasses=TRUE, strata=FOUND)  # type: ignore[arg-type]
        assert np.array_equal(found, expected)


def test_random_groups_have_the_true_sizes_within_each_superclass_and_the_wrong_members() -> None:
    found = groups_of("random", Y, subclasses=TRUE, seed=1)
    assert found is not None
    for superclass in (0, 1):
        members = superclass == Y
        assert np.array_equal(np.bincount(found[members]), np.bincount(TRUE[members]))
    assert np.mean(found == TRUE) < 0.9
    assert np.array_equal(found, shuffled_within(Y, TRUE, 1))
    assert not np.array_equal(found, shuffled_within(Y, TRUE, 2))


def test_random_groups_without_true_subclasses_have_the_sizes_of_the_strata() -> None:
    found = groups_of("random", Y, strata=FOUND)
    assert found is not None and np.array_equal(np.bincount(found), np.bincount(FOUND))


@pytest.mark.parametrize("mode", ["george", "oracle", "random"])
def test_a_mode_without_its_labels_is_refused(mode: str) -> None:
    with pytest.raises(MetricUnavailable, match="possible without: erm, superclass"):
        groups_of(mode, Y)  # type: ignore[arg-type]
