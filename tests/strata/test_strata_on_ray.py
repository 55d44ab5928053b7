"""A fit on Ray finds what a fit in this process finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loraland.errors import DataRefused
from loraland.strata.model import fit_strata
from loraland.strata.settings import StrataSettings
from tests.strata.made_up import clouds

pytestmark = pytest.mark.ray


def test_the_strata_are_those_of_a_fit_in_this_process(ray_cluster: Any) -> None:
    from loraland.strata.on_ray import on_ray

    train, validation = clouds(), clouds(seed=1, split="validation")
    settings = StrataSettings(reduction="pca", components=3, max_k=4)
    here = fit_strata(train, validation, settings)
    there = fit_strata(train, validation, settings, on_ray)
    assert here.decisions == there.decisions
    assert np.array_equal(here.assign(validation), there.assign(validation))


def test_an_error_of_a_task_is_raised_as_it_is(ray_cluster: Any) -> None:
    from loraland.strata.on_ray import on_ray

    with pytest.raises(DataRefused, match="too little"):
        on_ray(_refuse, [("little",)])


def _refuse(how: str) -> None:
    raise DataRefused(f"too {how}")
