"""Makes wines of reviews: drops what says nothing, merges one wine's reviews, warns of surprises.

The key of a wine is its winery, designation, variety, vintage and region; the vintage stands in the
title. Knows the shape of the published data and says where a file differs; refuses only what no
palate can be learned from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from loraland.errors import DataRefused
from loraland.palate.catalogue import Catalogue, key_of

LEAST_ITEMS = 10  # for any palate to be learned
POINTS = (80, 100)
PRICES = (4.0, 3300.0)  # the least and the most of the published files
FIRST_VINTAGE = 1900
LAST_VINTAGE = 2035
USUAL_WORDS = (20, 60)  # a published description has about 40
MOST_WITHOUT_PRICE = 0.15  # published: 7 %
MOST_DUPLICATES = 0.4  # published: 8 %, and a third in first150k

_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_NO_LETTER = re.compile(r"[^0-9a-z]+")


class Cleaned(NamedTuple):
    """A catalogue and what became of the rows."""

    catalogue: Catalogue
    rows: int  # reviews that were given
    duplicates: int  # exact copies, dropped
    empty: int  # without a description or points, dropped
    warnings: tuple[str, ...]  # where the data is not what the published files are


def catalogue_of(table: pa.Table) -> Cleaned:
    """Wines of a table of reviews (`reviews.checked`).

    Reviews of one wine are merged: texts joined, points averaged, the median of prices. A price
    of 0 or less is none. Raises DataRefused with fewer than ten wines.
    """
    rows = table.to_pylist()
    kept = [row for row in rows if (row["description"] or "").strip() and row["points"] is not None]
    unique = list({tuple(row.values()): row for row in kept}.values())
    groups: dict[str, list[dict[str, object]]] = {}
    for row in unique:
        groups.setdefault(wine_key(row), []).append(row)
    if len(groups) < LEAST_ITEMS:
        raise DataRefused(
            f"{len(rows)} reviews hold {len(groups)} wines with a description and points; at "
            f"least {LEAST_ITEMS} are needed to find palates, and some thousands to find good ones"
        )
    catalogue = Catalogue(
        keys=tuple(groups),
        titles=tuple(_title(group[0]) for group in groups.values()),
        texts=tuple(" ".join(_text(row, "description") for row in g) for g in groups.values()),
        makers=tuple(_text(group[0], "winery") for group in groups.values()),
        kinds=tuple(_text(group[0], "variety") for group in groups.values()),
        places=tuple(_place(group[0]) for group in groups.values()),
        critics=tuple(_text(group[0], "taster_name") for group in groups.values()),
        quality=np.asarray([np.mean([r["points"] for r in g]) for g in groups.values()]),
        price=np.asarray([_price(group) for group in groups.values()]),
        reviews=np.asarray([len(group) for group in groups.values()], dtype=np.int64),
    )
    duplicates, empty = len(kept) - len(unique), len(rows) - len(kept)
    warnings = surprises(unique, duplicates, len(rows), empty)
    return Cleaned(catalogue, len(rows), duplicates, empty, tuple(warnings))


def wine_key(row: dict[str, object]) -> str:
    """The key of the wine that a review is about."""
    names = ("winery", "designation", "variety", "region_1")
    year = vintage(_text(row, "title"), _text(row, "winery"))
    return key_of(*(_normal(_text(row, name)) for name in names), str(year or ""))


def vintage(title: str, winery: str = "") -> int | None:
    """The last plausible year of a title, where the winery's own name is not counted.

    >>> vintage("1848 Winery 2013 Merlot (Galilee)", "1848 Winery")
    2013
    """
    bare = title.replace(winery, " ") if winery else title
    years = [int(year) for year in _YEAR.findall(bare)]
    plausible = [year for year in years if FIRST_VINTAGE <= year <= LAST_VINTAGE]
    return plausible[-1] if plausible else None


def surprises(
    rows: Sequence[dict[str, object]], duplicates: int, given: int, empty: int
) -> list[str]:
    """What differs from the published files, as sentences."""
    points = np.asarray([row["points"] for row in rows], dtype=np.float64)
    prices = np.asarray([row["price"] or np.nan for row in rows], dtype=np.float64)
    found = []
    outside = int(np.sum((points < POINTS[0]) | (points > POINTS[1]) | (points % 1 != 0)))
    if outside:
        found.append(f"{outside} of {len(rows)} points are no whole numbers of 80 to 100")
    lacking = float(np.mean(~(prices > 0))) if len(rows) else 1.0
    if lacking == 1.0:
        found.append("no review has a price: there will be no value for money, only points")
    elif lacking > MOST_WITHOUT_PRICE:
        found.append(f"{lacking:.0%} of the reviews have no price, the published files about 7%")
    odd = int(np.sum((prices < PRICES[0]) | (prices > PRICES[1])))
    if odd:
        found.append(f"{odd} prices lie outside of {PRICES[0]:g} to {PRICES[1]:g}")
    words = np.mean([len(_text(row, "description").split()) for row in rows]) if rows else 0
    if not USUAL_WORDS[0] <= words <= USUAL_WORDS[1]:
        found.append(f"descriptions have {words:.0f} words on average, the published ones about 40")
    if duplicates > MOST_DUPLICATES * given:
        found.append(f"{duplicates} of {given} reviews are exact copies")
    if empty:
        found.append(f"{empty} reviews without description or points are left out")
    if not any(row["title"] for row in rows):
        found.append("no titles, so no vintages: wines of several years count as one")
    return found


def _price(group: Sequence[dict[str, object]]) -> float:
    known = [p for row in group if isinstance(p := row["price"], float) and 0 < p < np.inf]
    return float(np.median(known)) if known else float("nan")


def _title(row: dict[str, object]) -> str:
    if title := _text(row, "title"):
        return title
    region = _text(row, "region_1") or _text(row, "province")
    parts = (_text(row, "winery"), _text(row, "designation"), _text(row, "variety"))
    return " ".join(part for part in parts if part) + (f" ({region})" if region else "")


def _place(row: dict[str, object]) -> str:
    """From large to small: 'US, Oregon, Willamette Valley'."""
    parts = [_text(row, name) for name in ("country", "province", "region_1")]
    return ", ".join(part for part in parts if part)


def _text(row: dict[str, object], name: str) -> str:
    value = row[name]
    return " ".join(str(value).split()) if value is not None else ""


def _normal(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _NO_LETTER.sub(" ", plain.encode("ascii", "ignore").decode()).strip()
