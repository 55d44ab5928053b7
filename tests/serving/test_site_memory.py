"""What is remembered of files, and when it is made anew."""

from __future__ import annotations

from loraland.serving.site_memory import Kept, listed, states
from loraland.storage import Storage


def test_a_listing_tells_files_apart_and_changes_with_them(storage_uri: str) -> None:
    storage = Storage.open(storage_uri)
    assert listed(storage, "cells") == ()
    storage.write("cells/a/result.json", b"one")
    storage.write("cells/b/result.json", b"four")
    first = listed(storage, "cells")
    files = [(file.folder, file.size_bytes) for file in first if file.name == "result.json"]
    assert files == [("a", 3), ("b", 4)]
    assert listed(storage, "cells") == first
    storage.write("cells/a/result.json", b"other")
    assert listed(storage, "cells") != first


def test_a_file_that_is_gone_has_another_state(storage_uri: str) -> None:
    storage = Storage.open(storage_uri)
    storage.write("samples/x.parquet", b"content")
    there = states(storage, ["samples/x.parquet"])
    storage.delete("samples/x.parquet")
    assert states(storage, ["samples/x.parquet"]) != there


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    kept, made = Kept[str](2), []

    def get(name: str, state: int = 0) -> str:
        return kept.get(name, state, lambda: made.append(name) or f"{name}{state}")

    assert [get("a"), get("b"), get("a"), get("c")] == ["a0", "b0", "a0", "c0"]
    assert made == ["a", "b", "c"]
    assert (get("a"), get("b")) == ("a0", "b0")  # b made room for c
    assert made == ["a", "b", "c", "b"]
    assert get("b", 1) == "b1"


def test_a_failure_is_not_remembered() -> None:
    kept = Kept[int](2)
    for _ in range(2):
        try:
            kept.get("a", 0, lambda: 1 // 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("it did not fail")
    assert kept.get("a", 0, lambda: 7) == 7
