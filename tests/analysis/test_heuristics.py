"""Complexity heuristics, worked by hand."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from loraland.analysis.examples import of_file, of_task, tasks_at_hand, token_length
from loraland.analysis.heuristics import (
    NAMES,
    Example,
    compressibility,
    measure,
    similarity,
    spread,
    words,
)
from loraland.analysis.outlook import counted_heuristics
from loraland.errors import DataRefused, InvalidConfiguration, SourceUnavailable
from loraland.tasks.catalogue import get_task

THREE = [
    Example("the cat sat", "yes"),
    Example("a dog", "no no"),
    Example("one two three four", "yes"),
]


def test_lengths_in_words_by_hand() -> None:
    found = measure(THREE)
    assert (found.unit, found.measured, found.train_examples, found.answers) == ("words", 3, 3, 2)
    assert found.input_length.mean == pytest.approx(3)  # 3 2 4
    assert found.input_length.std == pytest.approx((2 / 3) ** 0.5)
    assert found.input_length.p95 == pytest.approx(3.9)  # between 3 and 4, at 0.95 * 2 = 1.9
    assert found.output_length.mean == pytest.approx(4 / 3)  # 1 2 1
    assert found.example_length == pytest.approx(spread([4, 4, 5]))


def test_an_example_has_one_character_more_than_its_parts() -> None:
    found = measure(THREE[:1], "characters", train_examples=70)
    assert (found.input_length.mean, found.output_length.mean) == (11, 3)
    assert found.example_length == (15, 0, 15)
    assert found.train_examples == 70


def test_a_length_of_one_s_own() -> None:
    found = measure(THREE, "tokens", lambda text: 2 * words(text))
    assert found.unit == "tokens"
    assert found.input_length.mean == pytest.approx(6)


def test_similarity_is_rouge_l_by_hand() -> None:
    # Longest common subsequence "the cat sat": 3; recall 3/4, precision 3/3, F = 2 * 3 / (4 + 3).
    assert similarity("The cat sat down", "the cat sat!") == pytest.approx(6 / 7)
    assert similarity("a b c", "c b a") == pytest.approx(1 / 3)
    assert similarity("a b", "c") == 0
    assert similarity("the cat sat", "The cat sat down") == similarity(
        "the cat sat down", "the cat sat"
    )


def test_compressibility_is_compressed_over_raw_bytes() -> None:
    assert compressibility("a" * 1000) == len(zlib.compress(b"a" * 1000, 9)) / 1000
    assert compressibility("a" * 1000) < 0.03 < 1 < compressibility("abc")
    assert compressibility("é" * 1000) == len(zlib.compress("é".encode() * 1000, 9)) / 2000
    with pytest.raises(ValueError, match="empty"):
        compressibility("")


def test_longer_examples_compress_better_as_in_figure_8() -> None:
    text = "the quick brown fox jumps over the lazy dog while seven wizards watch"
    assert compressibility(f"{text}. {text}.") < compressibility(text)


def test_names_are_those_of_figure_8() -> None:
    values = measure(THREE).values()
    assert set(values) == set(NAMES)
    assert values["similarity_mean"] == 0
    assert values["train_examples"] == 3


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(DataRefused):
        measure([])


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_of_a_user_s_own_as_parquet_jsonl_or_folder(tmp_path: Path) -> None:
    rows: list[object] = [{"prompt": f"q {n}", "completion": n % 2, "more": 0} for n in range(6)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    (tmp_path / "other").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "other" / "train.parquet")
    wanted = [Example(f"q {n}", str(n % 2)) for n in range(6)]
    for path in (tmp_path, tmp_path / "train.jsonl", tmp_path / "other"):
        found = of_file(path)
        assert (found.examples, found.total) == (wanted, 6)


def test_a_sample_is_seeded_and_knows_the_whole(tmp_path: Path) -> None:
    rows: list[object] = [{"prompt": str(n), "completion": "x"} for n in range(50)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    first, again = of_file(path, 5), of_file(path, 5)
    assert first == again
    assert (len(set(first.examples)), first.total) == (5, 50)
    assert of_file(path, 5, seed=1).examples != first.examples


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("{", "line 1 is not JSON"),
        ("[1]", "no object"),
        ('{"prompt": "a"}', r"row 1 of .*\['completion'\]"),
        ('{"prompt": "a", "completion": null}', r"\['completion'\]"),
    ],
)
def test_damaged_rows_are_refused_with_what_to_do(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataRefused, match=message):
        of_file(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a")
    (tmp_path / "rows.parquet").write_text("a")
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe")
    for name in (".", "rows.csv", "rows.parquet", "rows.jsonl", "absent.jsonl"):
        with pytest.raises(SourceUnavailable):
            of_file(tmp_path / name)
    parquet.write_table(pa.table({"question": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataRefused, match="rename"):
        of_file(tmp_path / "rows.parquet")
    with pytest.raises(InvalidConfiguration):
        of_file(tmp_path / "rows.parquet", 0)


def test_tokens_of_a_tokenizer_file(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    assert token_length(tmp_path)("a b, c") == 4
    assert token_length(tmp_path / "tokenizer.json")("a") == 1
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(SourceUnavailable, match=r"give a tokenizer\.json"):
        token_length(tmp_path / "broken.json")


def test_a_generated_task_has_as_many_examples_as_training_takes() -> None:
    found = of_task(get_task("topics"), limit=20)
    assert len(found.examples) == 20
    assert found.total == 300
    assert measure(found.examples).answers <= 8


@pytest.mark.slow
def test_shipped_counts_come_out_of_real_rows(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORALAND_DATA", str(real_data / "tasks"))
    shipped = counted_heuristics()
    assert {task.name for task in tasks_at_hand()} == set(shipped)
    for task in tasks_at_hand():
        read = of_task(task)
        found = measure(read.examples, "characters", train_examples=read.total).values()
        assert found == pytest.approx(shipped[task.name], rel=1e-4), task.name
