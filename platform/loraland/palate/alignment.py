"""Keeps people's palates through a refit: which new palate is which old one.

Items of the old catalogue are placed by the new model; palates are matched by the items they share
(Hungarian method). A matched palate keeps its id, others get ids that were never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from loraland.palate.catalogue import Catalogue, Floats
from loraland.palate.fitting import FitSettings, Tell, fit
from loraland.palate.model import PalateModel
from loraland.palate.scan import Runner, run_here

LEAST_OVERLAP = 0.1  # Jaccard index of two palates' items, to be the same palate


class Alignment(NamedTuple):
    """How an old model's palates went over into a new one's."""

    matched: dict[str, str]  # old id -> id of the new model's palate
    overlap: Floats  # (old palates, new palates) Jaccard indices
    transfer: Floats  # (old, new) share of an old palate's items that are now in a new one

    def carry(self, theta: Floats) -> Floats:
        """(new palates,) somebody's theta over old palates, over the new ones. Sums to 1."""
        moved = np.asarray(theta @ self.transfer, dtype=np.float64)
        return np.asarray(moved / moved.sum())


def align(old: PalateModel, new: PalateModel) -> Alignment:
    """Match palates by the old model's items; ids are those the models have now."""
    before = old.palate
    placed = new.memberships(new.features.place(old.catalogue))
    after = placed.argmax(axis=1)
    both = np.zeros((len(old.palates), len(new.palates)))
    np.add.at(both, (before, after), 1)
    union = both.sum(axis=1)[:, None] + both.sum(axis=0)[None, :] - both
    overlap = both / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(-overlap)
    matched = {
        old.palates[i].id: new.palates[j].id
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        if overlap[i, j] >= LEAST_OVERLAP
    }
    counts = both.sum(axis=1)[:, None]
    transfer = np.where(counts > 0, both / np.maximum(counts, 1), new.share[None, :])
    return Alignment(matched, overlap, transfer)


def keep_ids(old: PalateModel, new: PalateModel) -> tuple[PalateModel, Alignment]:
    """The new model with the old ids where palates are the same, and how they went over."""
    found = align(old, new)
    of_new = {new_id: old_id for old_id, new_id in found.matched.items()}
    fresh = _first_unused(old)
    palates = []
    for palate in new.palates:
        if palate.id in of_new:
            palates.append(palate._replace(id=of_new[palate.id]))
        else:
            palates.append(palate._replace(id=f"p{fresh:02d}"))
            fresh += 1
    facts = new.facts | {"ids_used": fresh, "refit_of": old.version}
    kept = replace(new, palates=tuple(palates), facts=facts)
    return kept, found._replace(matched={name: name for name in found.matched})


def refit(
    catalogue: Catalogue,
    old: PalateModel,
    settings: FitSettings | None = None,
    *,
    runner: Runner = run_here,
    source: Mapping[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
    tell: Tell = lambda stage: None,
) -> tuple[PalateModel, Alignment]:
    """Fit anew, and keep the old palates' ids. Raises as `fitting.fit` does."""
    new = fit(catalogue, settings, runner=runner, source=source, warnings=warnings, tell=tell)
    return keep_ids(old, new)


def _first_unused(model: PalateModel) -> int:
    used = int(model.facts.get("ids_used", 0))
    numbers = [int(palate.id[1:]) + 1 for palate in model.palates]
    return max([used, *numbers])
