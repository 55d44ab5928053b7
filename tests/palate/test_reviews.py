from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from loraland.errors import DataRefused, SourceUnavailable
from loraland.palate import reviews
from loraland.palate.generator import World
from loraland.palate.reviews import SCHEMA, read_reviews

V2 = (
    ",country,description,designation,points,price,province,region_1,region_2,taster_name,"
    "taster_twitter_handle,title,variety,winery\n"
)
FIRST = ",country,description,designation,points,price,province,region_1,region_2,variety,winery\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_both_published_layouts_give_the_same_columns(tmp_path: Path) -> None:
    v2 = (
        V2
        + '0,Italy,"Cherry, ""dark""\nand long",Vulka,87,,Sicily,Etna,,K. O,@k,A 2013 B,White,A\n'
    )
    first = FIRST + '0,US,"Plum, oak",Reserve,96,235.0,California,Napa,Napa,Cabernet,Heitz\n'
    newer = read_reviews(written(tmp_path / "v2.csv", v2))
    older = read_reviews(written(tmp_path / "first150k.csv", first))
    assert newer.schema == older.schema == SCHEMA
    [wine] = newer.to_pylist()
    assert wine["description"] == 'Cherry, "dark"\nand long'
    assert wine["points"] == 87.0
    assert wine["price"] is None
    [old] = older.to_pylist()
    assert (old["title"], old["taster_name"], old["price"]) == (None, None, 235.0)


def test_csv_and_parquet_of_one_table_are_equal(tmp_path: Path, world: World) -> None:
    pacsv.write_csv(world.reviews, tmp_path / "all.csv")
    pq.write_table(world.reviews, tmp_path / "all.parquet")
    read = [read_reviews(tmp_path / f"all.{kind}") for kind in ("csv", "parquet")]
    assert read[0].to_pylist() == read[1].to_pylist() == world.reviews.to_pylist()


def test_missing_columns_are_listed_with_what_is_there(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "description,score\ncherry,90\n")
    with pytest.raises(DataRefused, match=r"lack the columns points, price, variety, winery; .*"):
        read_reviews(path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    head = "description,points,price,variety,winery,points\n"
    with pytest.raises(DataRefused, match="points are there more than once"):
        read_reviews(written(tmp_path / "a.csv", head + "cherry,90,10,Red,A,91\n"))


def test_numbers_that_are_none_become_unknown(tmp_path: Path) -> None:
    rows = "".join(
        f"cherry,{points},{price},Red,A\n"
        for points, price in (
            ("90", "12.5"),
            ("ninety", "$12"),
            ("1e3", "inf"),
            (" 88 ", "-4"),
        )
    )
    path = written(tmp_path / "a.csv", "description,points,price,variety,winery\n" + rows)
    table = read_reviews(path)
    assert table.column("points").to_pylist() == [90.0, None, None, 88.0]
    assert table.column("price").to_pylist() == [12.5, None, None, -4.0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b'description,points\n"open', "cannot be read|lack the columns"),
        ("a.csv", b"a,b\n1,2,3\n", "cannot be read|lack the columns"),
        ("a.parquet", b"PAR1 nothing PAR1", "cannot be read"),
        ("a.xlsx", b"PK", "neither"),
    ],
)
def test_files_that_are_none_are_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataRefused, match=says):
        read_reviews(tmp_path / name)


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"nowhere\.csv"):
        read_reviews(tmp_path / "nowhere.csv")


def test_a_field_that_is_too_long_is_named_by_its_row(tmp_path: Path) -> None:
    long = "cherry " * 3_000
    text = f"description,points,price,variety,winery\nplum,90,10,Red,A\n{long},90,10,Red,A\n"
    with pytest.raises(DataRefused, match=r"row 2 has 21000 characters in description"):
        read_reviews(written(tmp_path / "a.csv", text))


def test_too_many_rows_are_refused_before_they_are_read(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "MAX_ROWS", 100)
    pq.write_table(world.reviews, tmp_path / "all.parquet")
    with pytest.raises(DataRefused, match="1500 reviews, at most 100"):
        read_reviews(tmp_path / "all.parquet")


def test_columns_of_other_types_are_refused() -> None:
    table = pa.table(
        {"description": [1], "points": [90], "price": [1.0], "variety": ["a"], "winery": ["b"]}
    )
    with pytest.raises(DataRefused, match="description holds int64, not text"):
        reviews.checked(table)


def test_the_real_reviews_are_read_without_a_warning(real_data: Path) -> None:
    from loraland.palate.cleaning import catalogue_of

    path = real_data / "wine" / "reviews.parquet"
    if not path.exists():
        pytest.skip("the folder of real data has no wine/reviews.parquet")
    cleaned = catalogue_of(read_reviews(path))
    assert cleaned.rows == 9_961
    assert 9_900 < len(cleaned.catalogue) <= 9_961
    assert cleaned.warnings == ()
