from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loraland.palate.alignment import align, keep_ids, refit
from loraland.palate.catalogue import Catalogue
from loraland.palate.fitting import FitSettings
from loraland.palate.model import PalateModel
from loraland.palate.preference import Tastes, profile


def shuffled(model: PalateModel, order: list[int]) -> PalateModel:
    """The same model with its palates in another order, under ids of that order."""
    old = model.mixture
    mixture = replace(
        old,
        weights=old.weights[order],
        means=old.means[order],
        variances=old.variances[order],
        centres=old.centres[order],
    )
    palates = tuple(model.palates[i]._replace(id=f"p{at:02d}") for at, i in enumerate(order))
    return replace(model, mixture=mixture, palates=palates)


def test_the_same_palates_in_another_order_keep_their_ids(model: PalateModel) -> None:
    order = [3, 0, 5, 1, 4, 2]
    kept, found = keep_ids(model, shuffled(model, order))
    assert [palate.id for palate in kept.palates] == [model.palates[i].id for i in order]
    assert found.matched == {palate.id: palate.id for palate in model.palates}
    theta = np.asarray([0.5, 0.3, 0.2, 0, 0, 0])
    assert np.allclose(found.carry(theta), theta[order])


def test_a_refit_with_new_wines_keeps_people_s_palates(
    model: PalateModel, catalogue: Catalogue
) -> None:
    fewer = catalogue.take(np.arange(0, len(catalogue), 2))
    new, found = refit(fewer, model, FitSettings(k=6, seed=9))
    assert len(found.matched) == 6
    assert {palate.id for palate in new.palates} == {palate.id for palate in model.palates}
    liked = fewer.keys[:1] + tuple(
        fewer.keys[i] for i in np.flatnonzero(new.palate == new.palate[0])[1:8]
    )
    before, after = profile(model, Tastes(liked=liked)), profile(new, Tastes(liked=liked))
    mine = model.palates[int(before.theta.argmax())].id
    assert new.palates[int(after.theta.argmax())].id == mine
    carried = found.carry(before.theta)
    assert carried.sum() == pytest.approx(1)
    assert new.palates[int(carried.argmax())].id == mine


def test_a_palate_that_is_new_gets_an_id_that_was_never_used(
    model: PalateModel, catalogue: Catalogue
) -> None:
    more, found = refit(catalogue, model, FitSettings(k=8, seed=1))
    old_ids = {palate.id for palate in model.palates}
    fresh = [palate.id for palate in more.palates if palate.id not in old_ids]
    assert len(more.palates) == 8
    assert len(fresh) >= 2 and all(int(name[1:]) >= 6 for name in fresh)
    assert len({palate.id for palate in more.palates}) == 8
    back, _ = refit(catalogue, more, FitSettings(k=6))
    again, _ = refit(catalogue, back, FitSettings(k=9, seed=2))
    reused = {palate.id for palate in again.palates} & set(fresh) - {p.id for p in back.palates}
    assert not reused
    assert np.allclose(found.transfer.sum(axis=1), 1)


def test_aligning_changes_nothing(model: PalateModel) -> None:
    ids = [palate.id for palate in model.palates]
    found = align(model, model)
    assert np.allclose(np.diag(found.overlap), 1)
    assert [palate.id for palate in model.palates] == ids
