from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
from pyarrow import parquet

from loraland.bases.catalogue import TINY_CONTEXT_TOKENS
from loraland.errors import SourceUnavailable, UnknownTask
from loraland.tasks.catalogue import all_tasks, get_task, report_tasks
from loraland.tasks.grading import gold_score
from loraland.tasks.rehearsal import rehearsal_rows, rehearsed
from loraland.tasks.sources import load_split
from loraland.tasks.task import as_text
from loraland.tasks.text import normalised_hash
from loraland.training.gate import inspect

ROWS = "4d27873cb41c6fca"  # of the rows as they were first published
NAMES = [task.name for task in report_tasks()]
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from loraland.bases.tiny import byte_tokenizer

    return byte_tokenizer(chat=False, context_tokens=TINY_CONTEXT_TOKENS)


@pytest.mark.parametrize("name", NAMES)
def test_the_data_gate_lets_every_task_through(name: str, tokenizer: Any) -> None:
    train, test, held = (
        load_split(get_task(name), split, limit=limit, rehearsal=True)
        for split, limit in (("train", 60), ("test", 10), ("test", 60))
    )
    report = inspect(
        train.task,
        train.items(),
        test.items(),
        tokenizer,
        held_out=held.items()[10:],
        max_length=TINY_CONTEXT_TOKENS,
    )
    report.require_pass(name)
    # Labels in bytes are longer than in tokens; the rehearsal is about other things.
    assert all("longer than max_new_tokens" in warning.reason for warning in report.warnings)
    assert not report.warnings or name == "covid"
    assert len(report.examples) == 60
    assert gold_score(test.task, test.items()) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_short_and_leave_room_for_an_answer(name: str) -> None:
    task = get_task(name)
    for split in SPLITS:
        seen = load_split(task, split, limit=60, rehearsal=True)
        template = len(seen.task.prompt.encode())
        for item in seen.items():
            whole = len(f"{item.prompt} {item.target}".encode())
            assert whole < template + 400
            assert len(item.prompt.encode()) + task.max_new_tokens <= TINY_CONTEXT_TOKENS


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_for_all_seeds_and_rows_follow_from_the_seed(name: str) -> None:
    task = get_task(name)
    one, again, two = (list(islice(rehearsal_rows(task, "train", s), 80)) for s in (1, 1, 2))
    test = list(islice(rehearsal_rows(task, "test"), 80))
    assert one == again
    assert one != two
    asked = [{normalised_hash(task.item(row).prompt) for row in rows} for rows in (one, two, test)]
    assert not (asked[0] | asked[1]) & asked[2]
    assert all(len(prompts) > 20 for prompts in asked)


def test_rows_are_the_same_on_every_machine_and_in_every_version() -> None:
    """Keys of runs, and so their checkpoints and adapters, stand on them."""
    rows = [
        [name, split, seed, list(islice(rehearsal_rows(get_task(name), split, seed), 40))]
        for name in NAMES
        for split in SPLITS
        for seed in (0, 7)
    ]
    stamp = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    assert stamp[:16] == ROWS


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_task_s_own_and_not_all_the_same(name: str) -> None:
    task = get_task(name)
    answers = {as_text(row[task.target]) for row in islice(rehearsal_rows(task, "test"), 60)}
    assert len(answers) > 1
    if task.labels:
        assert answers <= set(task.labels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_the_columns_and_types_of_the_real_ones(
    name: str, split: Literal["train", "test"], real_data: Path
) -> None:
    path = real_data / "tasks" / name / f"{split}.parquet"
    if not path.is_file():
        pytest.skip(f"LORALAND_TEST_DATA has no {split} rows of {name}")
    real = parquet.read_table(path).slice(0, 1).to_pylist()[0]
    task = get_task(name).for_split(split)
    row = load_split(get_task(name), split, limit=1, rehearsal=True).rows[0]
    assert {column: type(row[column]) for column in task.columns} == {
        column: type(real[column]) for column in task.columns
    }


def test_rehearsal_rows_are_read_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceUnavailable):
        load_split(get_task("covid"), "train", limit=3)
    asked = load_split(get_task("covid"), "train", limit=3, rehearsal=True)
    assert asked.source == "rehearsal:covid"


def test_a_rehearsal_reads_no_real_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dates").mkdir()
    (tmp_path / "dates" / "train.parquet").write_bytes(b"damaged")
    monkeypatch.setenv("LORALAND_DATA", str(tmp_path))
    assert load_split(get_task("dates"), "train", limit=3, rehearsal=True).source == (
        "rehearsal:dates"
    )


def test_every_task_can_be_rehearsed_and_others_are_told_so() -> None:
    from dataclasses import replace

    assert all(next(iter(rehearsal_rows(task, "test"))) for task in all_tasks())
    with pytest.raises(UnknownTask, match="did you mean 'viggo'"):
        rehearsal_rows(replace(get_task("viggo"), name="vigo"), "train")


def test_programs_are_judged_by_their_text_in_a_rehearsal() -> None:
    assert rehearsed(get_task("magicoder")).metric == "rouge"
    assert rehearsed(get_task("viggo")) is get_task("viggo")
    train, test = (
        load_split(get_task("magicoder"), split, limit=30, rehearsal=True) for split in SPLITS
    )
    assert train.task.metric == test.task.metric == "rouge"
    assert test.task.target == "canonical_solution"
    numbers = [{row.get("problem") or row.get("prompt") for row in s.rows} for s in (train, test)]
    assert numbers[0].isdisjoint(numbers[1])
