from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import DataRefused
from loraland.palate.cleaning import catalogue_of, vintage, wine_key
from loraland.palate.reviews import SCHEMA


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([dict.fromkeys(SCHEMA.names) | row for row in rows], schema=SCHEMA)


def review(number: int, **changes: Any) -> dict[str, Any]:
    words = " ".join(f"word{chr(97 + (number + i) % 26)}" for i in range(30))
    row = {
        "description": words,
        "points": 88.0,
        "price": 20.0,
        "variety": "Red",
        "winery": f"Winery {number}",
        "title": f"Winery {number} 2013 Red",
        "taster_name": "A",
    }
    return row | changes


def many(*extra: dict[str, Any]) -> pa.Table:
    return table_of(*(review(i) for i in range(12)), *extra)


@pytest.mark.parametrize(
    ("title", "winery", "year"),
    [
        ("Nicosia 2013 Vulka (Etna)", "Nicosia", 2013),
        ("1848 Winery 2013 Merlot", "1848 Winery", 2013),
        ("Chateau 1999 Cuvee 2005 Blend", "Chateau", 2005),
        ("Bin 20134 NV", "Bin", None),
        ("No year at all", "", None),
        ("Quinta 2090 Red", "Quinta", None),
        ("2010", "2010", None),
    ],
)
def test_the_vintage_is_the_last_plausible_year(title: str, winery: str, year: int | None) -> None:
    assert vintage(title, winery) == year


@given(st.text(max_size=60), st.text(max_size=20))
def test_a_vintage_of_any_text_is_a_year_or_none(title: str, winery: str) -> None:
    year = vintage(title, winery)
    assert year is None or (1900 <= year <= 2035 and str(year) in title)


def test_reviews_of_one_wine_are_merged() -> None:
    one = review(99, points=90.0, price=10.0, description="cherry " * 25)
    other = one | {"points": 94.0, "price": 30.0, "description": "plum " * 25}
    cleaned = catalogue_of(many(one, other, other | {"price": None, "points": 92.0}))
    place = cleaned.catalogue.index[wine_key(dict.fromkeys(SCHEMA.names) | one)]
    assert cleaned.catalogue.quality[place] == pytest.approx(92.0)
    assert cleaned.catalogue.price[place] == 20.0
    assert cleaned.catalogue.reviews[place] == 3
    assert cleaned.catalogue.texts[place].startswith("cherry cherry")
    assert "plum" in cleaned.catalogue.texts[place]


def test_vintages_of_one_wine_stay_apart_and_spelling_does_not() -> None:
    first = review(1, title="Côté 2012 Red", winery="Côté")
    rows = [
        dict.fromkeys(SCHEMA.names) | row
        for row in (
            first,
            first | {"title": "Côté 2013 Red"},
            first | {"winery": "COTE ", "title": "Cote 2012"},
        )
    ]
    keys = [wine_key(row) for row in rows]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_copies_and_empty_reviews_are_dropped_and_counted() -> None:
    cleaned = catalogue_of(
        many(review(1), review(1), review(50, description="  "), review(51, points=None))
    )
    assert (cleaned.rows, cleaned.duplicates, cleaned.empty) == (16, 2, 2)
    assert len(cleaned.catalogue) == 12
    assert "2 reviews without description or points are left out" in cleaned.warnings


def test_a_price_of_nothing_is_none() -> None:
    cleaned = catalogue_of(many(review(60, price=0.0), review(61, price=-3.0)))
    assert np.isnan(cleaned.catalogue.price[-2:]).all()


def test_surprises_are_told_and_do_not_stop() -> None:
    strange = [
        review(i, points=4.5, price=None, title=None, description="short text") for i in range(12)
    ]
    told = " | ".join(catalogue_of(table_of(*strange)).warnings)
    assert "12 of 12 points are no whole numbers of 80 to 100" in told
    assert "no review has a price" in told
    assert "no titles, so no vintages" in told
    assert "2 words on average" in told


def test_one_review_is_refused_with_what_is_needed() -> None:
    with pytest.raises(DataRefused, match=r"1 reviews hold 1 wines .* at least 10 are needed"):
        catalogue_of(table_of(review(1)))


def test_no_review_is_refused() -> None:
    with pytest.raises(DataRefused, match="0 reviews hold 0 wines"):
        catalogue_of(table_of())
