"""A catalogue: items with a text, a quality and a price, as columns.

What a wine, an adapter or anything else must have to be recommended. Knows no files, no features
and no people.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loraland.errors import DataRefused, UnknownItem, did_you_mean

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TEXTS = ("keys", "titles", "texts", "makers", "kinds", "places", "critics")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [("quality", pa.float64()), ("price", pa.float64()), ("reviews", pa.int64())]
)


@dataclass(frozen=True)
class Catalogue:
    """Items in a fixed order; every column has one entry per item."""

    keys: tuple[str, ...]  # unique, stable between fits
    titles: tuple[str, ...]  # for people
    texts: tuple[str, ...]  # what was said about it; all its reviews together
    makers: tuple[str, ...]  # winery; '' where unknown, and so below
    kinds: tuple[str, ...]  # variety
    places: tuple[str, ...]  # country and region
    critics: tuple[str, ...]  # taster of the first review
    quality: Floats  # mean points of its reviews
    price: Floats  # NaN where unknown
    reviews: Ints  # how many stand behind an item

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of a catalogue differ in length: {lengths}")
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("keys of a catalogue are not unique")
        if not np.all(np.isfinite(self.quality)):
            raise ValueError("an item has no quality")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def index(self) -> dict[str, int]:
        """Key -> position."""
        return {key: place for place, key in enumerate(self.keys)}

    @cached_property
    def has_price(self) -> NDArray[np.bool_]:
        """(items,) whether a price is known."""
        return np.isfinite(self.price)

    @cached_property
    def maker_codes(self) -> Ints:
        """(items,) equal numbers for equal makers; -1 for an unknown one, which no cap counts."""
        return _codes(self.makers)

    @cached_property
    def kind_codes(self) -> Ints:
        """(items,) equal numbers for equal kinds; -1 for an unknown one."""
        return _codes(self.kinds)

    def positions(self, keys: Iterable[str]) -> Ints:
        """Where items stand. Raises UnknownItem, naming what is near."""
        found = []
        for key in keys:
            place = self.index.get(key)
            if place is None:
                near = did_you_mean(key, self.keys) if len(self) <= 1000 else "search by title"
                raise UnknownItem(f"no item '{key[:80]}' among {len(self)}; {near}")
            found.append(place)
        return np.asarray(found, dtype=np.int64)

    def known(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Those of the keys that are in the catalogue, in their order; for old histories."""
        return tuple(key for key in keys if key in self.index)

    def search(self, words: str, most: int = 10) -> list[int]:
        """Positions of items whose title holds all the words, the most reviewed first."""
        wanted = words.casefold().split()
        if not wanted:
            return []
        found = [
            place
            for place, title in enumerate(self._folded)
            if all(word in title for word in wanted)
        ]
        return sorted(found, key=lambda place: (-int(self.reviews[place]), place))[:most]

    def take(self, places: Sequence[int] | Ints) -> Catalogue:
        """The items at these positions, in this order."""
        chosen = np.asarray(places, dtype=np.int64)
        texts = {name: tuple(getattr(self, name)[i] for i in chosen) for name in _TEXTS}
        return Catalogue(
            **texts,
            quality=self.quality[chosen],
            price=self.price[chosen],
            reviews=self.reviews[chosen],
        )

    def to_table(self) -> pa.Table:
        """As a table of `keys, titles, texts, ..., quality, price, reviews`."""
        columns: dict[str, Any] = {name: list(getattr(self, name)) for name in _TEXTS}
        columns |= {"quality": self.quality, "price": self.price, "reviews": self.reviews}
        return pa.table(columns, schema=_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table) -> Catalogue:
        """Read what `to_table` wrote. Raises DataRefused for any other table."""
        if not table.schema.equals(_SCHEMA):
            raise DataRefused(
                f"the items have columns {table.schema.names}, a catalogue has {_SCHEMA.names}"
            )
        columns: dict[str, Any] = {name: tuple(table.column(name).to_pylist()) for name in _TEXTS}
        columns |= {name: table.column(name).to_numpy() for name in ("quality", "price", "reviews")}
        return cls(**columns)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that is in it, 64 hex digits."""
        digest = hashlib.sha256()
        for name in _TEXTS:
            digest.update("\x1f".join(getattr(self, name)).encode() + b"\x1e")
        for numbers in (self.quality, self.price, self.reviews):
            digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()

    @cached_property
    def _folded(self) -> tuple[str, ...]:
        return tuple(title.casefold() for title in self.titles)


def key_of(*parts: str) -> str:
    """A key from what makes an item the same item: 16 hex digits of a hash."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def _codes(names: Sequence[str]) -> Ints:
    numbers: dict[str, int] = {}
    return np.asarray(
        [numbers.setdefault(name, len(numbers)) if name else -1 for name in names], dtype=np.int64
    )
