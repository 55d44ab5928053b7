"""A fitted model: items, where they stand, palates with names, prices; immutable.

What `fitting` makes, `artifact` keeps and `recommend` asks. Knows no people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from loraland.palate.catalogue import Catalogue, Floats, Ints
from loraland.palate.clusters import Mixture
from loraland.palate.features import Features, Vectors
from loraland.palate.pricing import Curves, PricingSettings, Values, learn_curves, shrink, values


class Palate(NamedTuple):
    """A cluster as people see it."""

    id: str  # 'p00'; survives a refit
    name: str  # its first telling terms
    terms: tuple[str, ...]  # most telling first
    items: int  # whose likeliest palate it is


@dataclass(frozen=True)
class PalateModel:
    """All that recommending needs. `version` is a hash of content (`artifact`), '' before."""

    catalogue: Catalogue
    features: Features
    mixture: Mixture
    places: Vectors  # (items, dimensions), unit length
    palates: tuple[Palate, ...]
    pricing: PricingSettings
    facts: dict[str, Any]  # JSON values: settings, scan, hygiene, data, warnings
    version: str = ""

    @cached_property
    def membership(self) -> Vectors:
        """(items, palates) p(c|w)."""
        return self.memberships(self.places)

    @cached_property
    def palate(self) -> Ints:
        """(items,) the likeliest palate of each item."""
        return np.asarray(self.membership.argmax(axis=1), dtype=np.int64)

    @cached_property
    def members(self) -> tuple[Ints, ...]:
        """Of each palate the positions of its items."""
        order = np.argsort(self.palate, kind="stable")
        counts = np.bincount(self.palate, minlength=len(self.palates))
        return tuple(np.split(order, np.cumsum(counts)[:-1]))

    @cached_property
    def worth(self) -> dict[str, Floats]:
        """Objective -> (items,) sigmoid of the value, 0..1; NaN without a price."""
        return {name: expit(value) for name, value in self.values.by.items()}

    @cached_property
    def share(self) -> Floats:
        """(palates,) each one's share of the catalogue, softly counted."""
        return np.asarray(self.membership.mean(axis=0), dtype=np.float64)

    @cached_property
    def quality(self) -> Floats:
        """(items,) quality, drawn to the palate's mean where few reviews stand behind it."""
        c = self.catalogue
        k0 = self.pricing.prior_reviews
        return shrink(c.quality, c.reviews, self.palate, len(self.palates), k0)

    @cached_property
    def curves(self) -> Curves:
        """Usual quality at a price, in each palate."""
        return learn_curves(self.quality, self.catalogue.price, self.palate, len(self.palates))

    @cached_property
    def values(self) -> Values:
        """What each item gives for its price."""
        return values(self.quality, self.catalogue.price, self.palate, self.curves, self.pricing)

    def memberships(self, places: Vectors) -> Vectors:
        """(items, palates) of any places: new items need no refit."""
        return self.mixture.memberships(places)

    def palate_index(self, palate_id: str) -> int | None:
        """The position of a palate id, None when it is gone."""
        return next((at for at, one in enumerate(self.palates) if one.id == palate_id), None)

    def warm(self) -> PalateModel:
        """Compute all that is computed once, so that the first answer is as quick as others."""
        _ = (self.membership, self.share, self.worth, self.members, self.catalogue.index)
        _ = (self.catalogue.maker_codes, self.catalogue.kind_codes)
        self.features.place_text("warm")
        return self
