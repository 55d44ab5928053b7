from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loraland import settings
from loraland.errors import InvalidConfiguration, SourceUnavailable
from loraland.tasks.catalogue import generated_tasks, get_task, report_tasks
from loraland.tasks.grading import Judged, grader_for, over_all
from loraland.tasks.sources import GENERATED_ROWS, fingerprint, load_split
from loraland.tasks.task import HubSource, Task

QNLI = [{"question": f"q{n}", "sentence": f"s{n}", "label": n % 2, "idx": n} for n in range(20)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, with rows of glue_qnli."""
    root = tmp_path / "data"
    write(root / "glue_qnli" / "train.parquet", QNLI)
    write(root / "glue_qnli" / "test.parquet", QNLI)
    monkeypatch.setenv(settings.DATA, str(root))
    return root


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` writes stays in the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")


def on_hub(name: str, **fields: Any) -> Task:
    """A task of the catalogue whose hub source has some fields replaced."""
    task = get_task(name)
    assert task.hub is not None
    return replace(task, hub=replace(task.hub, **fields))


def test_a_folder_comes_first_and_keeps_only_the_columns_of_the_task(folder: Path) -> None:
    split = load_split(get_task("glue_qnli"), "test", limit=3)
    assert split.rows == [
        {k: row[k] for k in ("question", "sentence", "label")} for row in QNLI[:3]
    ]
    assert split.source == f"parquet:{folder / 'glue_qnli' / 'test.parquet'}"
    assert split.dropped == 0
    assert [item.target for item in split.items()] == ["0", "1", "0"]


def test_test_rows_are_the_first_ones_for_every_seed(folder: Path) -> None:
    task = get_task("glue_qnli")
    assert load_split(task, "test", limit=5, seed=1) == load_split(task, "test", limit=5, seed=2)


def test_train_rows_are_shuffled_by_the_seed_then_cut(folder: Path) -> None:
    task = get_task("glue_qnli")
    one, again, two = (load_split(task, "train", limit=10, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.rows != two.rows
    everything = load_split(task, "train", limit=None, seed=1)
    assert everything.rows[:10] == one.rows
    assert sorted(row["question"] for row in everything.rows) == sorted(
        str(r["question"]) for r in QNLI
    )


def test_the_fingerprint_sees_content_and_order_but_not_types(folder: Path) -> None:
    task = get_task("glue_qnli")
    rows = load_split(task, "test", limit=None).rows
    as_strings = [{**row, "label": str(row["label"])} for row in rows]
    as_floats = [{**row, "label": float(row["label"])} for row in rows]
    assert fingerprint(task, rows) == fingerprint(task, as_strings) == fingerprint(task, as_floats)
    assert fingerprint(task, rows) != fingerprint(task, rows[::-1])
    assert fingerprint(task, rows) != fingerprint(task, rows[:-1])
    assert fingerprint(task, rows) != fingerprint(task, [{**rows[0], "label": 1}, *rows[1:]])


def test_a_damaged_file_is_an_error_and_no_other_source_is_read(folder: Path) -> None:
    path = folder / "dates" / "train.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(SourceUnavailable, match=r"train\.parquet cannot be read as Parquet"):
        load_split(get_task("dates"), "train", limit=3)


def test_a_file_without_a_needed_column_is_an_error_that_names_both_sides(folder: Path) -> None:
    write(folder / "dates" / "test.parquet", [{"text": "1 May 2020", "day": "2020-05-01"}])
    with pytest.raises(SourceUnavailable) as caught:
        load_split(get_task("dates"), "test", limit=3)
    assert "lacks columns ['iso']" in caught.value.message
    assert "it has ['text', 'day']" in caught.value.message


def test_a_row_without_target_is_an_error_that_names_the_row(folder: Path) -> None:
    write(
        folder / "dates" / "test.parquet", [{"text": "a", "iso": "b"}, {"text": "c", "iso": None}]
    )
    with pytest.raises(SourceUnavailable, match=r"row 1 of .* no value in target column 'iso'"):
        load_split(get_task("dates"), "test", limit=None)


def test_an_empty_input_is_empty_text(folder: Path) -> None:
    row = {"OriginalTweet": "hm", "TweetAt": "2-5-2020", "Location": None, "Sentiment": "Neutral"}
    other = {**row, "Location": "Oslo"}
    write(folder / "covid" / "test.parquet", [row, other])
    first, _ = load_split(get_task("covid"), "test", limit=None).items()
    assert "Location: \nAnswer:" in first.prompt


def test_a_data_folder_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.DATA, "/no/such/folder")
    with pytest.raises(SourceUnavailable, match="/no/such/folder, which is not a folder"):
        load_split(get_task("dates"), "test", limit=3)


def test_a_folder_of_rows_comes_before_the_generator(folder: Path) -> None:
    write(folder / "dates" / "test.parquet", [{"text": "1 May 2020", "iso": "2020-05-01"}])
    write(folder / "dates" / "train.parquet", [{"text": "2 May 2020", "iso": "2020-05-02"}])
    assert load_split(get_task("dates"), "test", limit=9).rows[0]["text"] == "1 May 2020"
    assert load_split(get_task("dates"), "train", limit=9).rows[0]["text"] == "2 May 2020"
    assert load_split(get_task("topics"), "train", limit=9).source == "generator:topics"


@pytest.mark.parametrize(("there", "asked"), [("test", "train"), ("train", "test")])
@pytest.mark.parametrize("task", ["dates", "magicoder"])
def test_a_folder_with_one_split_of_a_task_does_not_send_the_other_elsewhere(
    folder: Path, task: str, there: str, asked: Any
) -> None:
    write(folder / task / f"{there}.parquet", QNLI)
    write(folder / task / "more.parquet", QNLI)
    with pytest.raises(SourceUnavailable) as caught:
        load_split(get_task(task), asked, limit=3)
    message = caught.value.message
    assert f"{folder / task} has {there}.parquet but no {asked}.parquet" in message
    assert f"put {task}/{asked}.parquet with columns" in message
    assert f"remove {there}.parquet to use another source" in message


def test_a_folder_of_a_task_with_neither_split_is_passed_over(folder: Path) -> None:
    write(folder / "dates" / "more.parquet", QNLI)
    assert load_split(get_task("dates"), "train", limit=3).source == "generator:dates"


def test_a_generated_task_needs_no_folder_and_no_hub() -> None:
    split = load_split(get_task("sql"), "train", limit=12, seed=5)
    assert split.source == "generator:sql"
    assert len(split.rows) == 12
    assert set(split.rows[0]) == {"schema", "question", "sql"}
    assert split.rows != load_split(get_task("sql"), "train", limit=12, seed=6).rows


def test_generated_test_rows_are_the_same_for_every_seed() -> None:
    task = get_task("topics")
    assert load_split(task, "test", limit=9, seed=1) == load_split(task, "test", limit=9, seed=2)


@pytest.mark.parametrize("name", [task.name for task in generated_tasks()])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_generated_task_without_a_limit_has_its_default_number_of_rows(
    name: str, split: Any
) -> None:
    task = get_task(name)
    unlimited = load_split(task, split, limit=None, seed=3)
    assert len(unlimited.rows) == GENERATED_ROWS
    assert unlimited == load_split(task, split, limit=GENERATED_ROWS, seed=3)
    assert load_split(task, split, limit=GENERATED_ROWS + 9).rows[-1] not in unlimited.rows


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="limit is 0"):
        load_split(get_task("dates"), "train", limit=0)


def test_without_any_source_the_error_names_each_one_tried_and_what_to_do() -> None:
    with pytest.raises(SourceUnavailable) as caught:
        load_split(get_task("covid"), "train", limit=3)
    message = caught.value.message
    assert "no source has the train rows of task 'covid'" in message
    assert "LORALAND_DATA is not set; set LORALAND_DATA=FOLDER" in message
    assert "covid/train.parquet with columns OriginalTweet, TweetAt, Location, Sentiment" in message
    assert "kaggle.com/datasets/datatattle/covid-19-nlp-text-classification" in message
    assert "hub: the catalogue names no data set" in message
    assert "generator: there is none" in message


def test_a_hub_that_cannot_be_reached_is_named_with_its_reason(
    folder: Path, tmp_path: Path
) -> None:
    nowhere = on_hub("boolq", path=str(tmp_path / "nowhere"))
    with pytest.raises(SourceUnavailable) as caught:
        load_split(nowhere, "test", limit=3)
    message = caught.value.message
    assert f"folder: {folder} has no boolq/test.parquet" in message
    assert "nowhere@main, split validation, failed with" in message
    assert "Check the network" in message


@pytest.mark.usefixtures("hub_cache")
class TestHub:
    """Through `datasets.load_dataset` for real, on local folders laid out as on the hub."""

    def test_rows_are_read_from_the_evaluation_split_and_converted(self, tmp_path: Path) -> None:
        rows = [{"question": f"q{n}", "passage": "p", "answer": n > 0} for n in range(3)]
        write(tmp_path / "boolq" / "data" / "train-00000-of-00001.parquet", rows[:1])
        write(tmp_path / "boolq" / "data" / "validation-00000-of-00001.parquet", rows)
        split = load_split(on_hub("boolq", path=str(tmp_path / "boolq")), "test", limit=2)
        assert [row["answer"] for row in split.rows] == ["False", "True"]
        assert split.source == f"hub:{tmp_path / 'boolq'}@main"

    def test_train_rows_are_shuffled_by_the_seed(self, tmp_path: Path) -> None:
        rows = [{"question": f"q{n}", "passage": "p", "answer": True} for n in range(40)]
        write(tmp_path / "boolq" / "data" / "train-00000-of-00001.parquet", rows)
        task = on_hub("boolq", path=str(tmp_path / "boolq"))
        one, again, two = (load_split(task, "train", limit=8, seed=s).rows for s in (1, 1, 2))
        assert one == again
        assert one != two

    def test_configurations_follow_one_another(self, tmp_path: Path) -> None:
        root = tmp_path / "arc"
        for number, name in enumerate(("ARC-Challenge", "ARC-Easy")):
            choices = {"text": ["x", "y"], "label": ["A", "B"]}
            row = {"question": name, "choices": choices, "answerKey": "AB"[number]}
            write(root / name / "test-00000-of-00001.parquet", [row])
        (root / "README.md").write_text(
            "---\nconfigs:\n"
            "- config_name: ARC-Challenge\n  data_files:\n"
            "  - split: test\n    path: ARC-Challenge/test-*\n"
            "- config_name: ARC-Easy\n  data_files:\n"
            "  - split: test\n    path: ARC-Easy/test-*\n---\n"
        )
        split = load_split(on_hub("arc_combined", path=str(root)), "test", limit=None)
        assert [row["answerKey"] for row in split.rows] == ["A", "B"]

    def test_the_parquet_export_is_read_by_the_folder_of_its_configuration(
        self, tmp_path: Path
    ) -> None:
        root = tmp_path / "reuters"
        rows = [{"title": "t", "text": "x", "topics": topics} for topics in ([], ["tea", "tin"])]
        write(root / "ModLewis" / "test" / "0000.parquet", rows)
        write(root / "ModHayes" / "test" / "0000.parquet", rows * 3)
        split = load_split(on_hub("reuters", path=str(root)), "test", limit=None)
        assert [row["topics"] for row in split.rows] == ["tea, tin"]
        assert split.dropped == 1
        assert split.source.endswith("@refs/convert/parquet")

    def test_the_parquet_export_of_a_single_configuration_needs_no_name(
        self, tmp_path: Path
    ) -> None:
        row = {"tokens": ["a", "b"], "tags": [1, 0]}
        write(tmp_path / "bc5cdr" / "bc5cdr" / "validation" / "0000.parquet", [row])
        write(tmp_path / "bc5cdr" / "bc5cdr" / "train" / "0000.parquet", [row] * 2)
        split = load_split(on_hub("bc5cdr", path=str(tmp_path / "bc5cdr")), "test", limit=None)
        assert [row["tokens_concatenated"] for row in split.rows] == ["a b"]

    def test_two_splits_can_make_one(self, tmp_path: Path) -> None:
        root = tmp_path / "glue"
        for part in ("matched", "mismatched"):
            row = {"premise": part, "hypothesis": "h", "label": 1}
            write(root / "mnli" / f"validation_{part}-00000-of-00001.parquet", [row])
        (root / "README.md").write_text(
            "---\nconfigs:\n- config_name: mnli\n  data_files:\n"
            "  - split: validation_matched\n    path: mnli/validation_matched-*\n"
            "  - split: validation_mismatched\n    path: mnli/validation_mismatched-*\n---\n"
        )
        split = load_split(on_hub("glue_mnli", path=str(root)), "test", limit=None)
        assert [row["premise"] for row in split.rows] == ["matched", "mismatched"]

    def test_a_task_tested_on_other_data_reads_that_data(self, tmp_path: Path) -> None:
        task = get_task("magicoder")
        assert task.evaluation is not None
        write(
            tmp_path / "humaneval" / "test.parquet",
            [{"prompt": "def f():\n", "canonical_solution": "    return 1\n", "test": "t"}],
        )
        there = HubSource(str(tmp_path / "humaneval"), train=None, test="test")
        task = replace(task, evaluation=replace(task.evaluation, hub=there))
        split = load_split(task, "test", limit=None)
        assert split.task.target == "canonical_solution"
        assert split.rows[0]["test"] == "t"  # a hidden column is kept where it is
        assert "entry_point" not in split.rows[0]
        assert split.items()[0].target == "return 1"
        assert "def f():" in split.items()[0].prompt

    def test_rows_of_another_shape_are_an_error_that_names_the_row(self, tmp_path: Path) -> None:
        write(tmp_path / "dbpedia" / "test.parquet", [{"label": 99, "title": "t", "content": "c"}])
        task = on_hub("dbpedia", path=str(tmp_path / "dbpedia"))
        with pytest.raises(SourceUnavailable, match=r"row 0 of hub:.* is not of the shape"):
            load_split(task, "test", limit=None)


REAL = sorted(task.name for task in report_tasks())


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("split_name", ["train", "test"])
def test_every_real_gold_answer_scores_one_and_is_not_cut(
    name: str, split_name: Any, real_tasks: Path
) -> None:
    task = get_task(name)
    if not (real_tasks / name / f"{split_name}.parquet").exists():
        pytest.skip(f"LORALAND_TEST_DATA has no {split_name} rows of {name}")
    split = load_split(task, split_name, limit=None)
    items = split.items()
    assert items
    assert not any(end in item.target for item in items for end in task.stop)
    assert not any(item.prompt != item.prompt.rstrip() for item in items)
    if task.metric == "humaneval":
        return  # tests/evaluation/test_sandbox.py runs these
    grader = grader_for(task)
    answers = [Judged(item, item.target, grader.grade(item.target, item)) for item in items]
    assert [a.grade.score for a in answers] == [1.0] * len(items)
    assert not [a for a in answers if any(value < 1.0 for value in a.grade.secondary.values())]
    assert over_all(task, answers) == pytest.approx(dict.fromkeys(over_all(task, answers), 1.0))
