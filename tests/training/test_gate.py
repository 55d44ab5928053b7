from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerBase

from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.errors import DataRefused
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from loraland.tasks.task import Item, Task
from loraland.training.gate import GateReport, inspect

LABELS = Task(
    name="colours",
    category="Test",
    description="",
    prompt="{thing} is",
    inputs=("thing",),
    target="colour",
    metric="accuracy",
    labels=("red", "green"),
)


@pytest.fixture(scope="module")
def tokenizer(tiny_folders: dict[str, Path]) -> PreTrainedTokenizerBase:
    base: LoadedBase = load_tiny("llama", tiny_folders["llama"])
    return base.tokenizer


def items(*pairs: tuple[str, str], task: Task = LABELS) -> list[Item]:
    return [task.item({"thing": thing, "colour": colour}) for thing, colour in pairs]


def look(
    tokenizer: PreTrainedTokenizerBase,
    train: list[Item],
    test: list[Item] | None = None,
    task: Task = LABELS,
    **options: object,
) -> GateReport:
    given = {"max_length": 100} | options
    return inspect(task, train, test or [], tokenizer, **given)  # type: ignore[arg-type]


GOOD = items(("fire", "red"), ("grass", "green"))


def test_good_data_passes_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    report = look(tokenizer, GOOD)
    report.require_pass("colours")
    assert (len(report.examples), report.dropped_long, report.dropped_overlap) == (2, 0, 0)
    assert report.refusals == report.warnings == []


def test_an_empty_answer_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    report = look(tokenizer, [*GOOD, *items(("air", " "))])
    with pytest.raises(DataRefused, match=r"the answer is empty \(1 rows\)\n.*air is"):
        report.require_pass("colours")


def test_an_answer_that_would_be_truncated_is_refused_or_dropped_with_a_count(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    data = [*GOOD, *items(*[(f"sky {n}", "red") for n in range(5)], ("x" * 200, "red"))]
    report = look(tokenizer, data)
    with pytest.raises(DataRefused, match=r"truncated at max_length 100.*too_long: drop"):
        report.require_pass("colours")
    report = look(tokenizer, data, drop_long=True)
    report.require_pass("colours")
    assert (len(report.examples), report.dropped_long) == (7, 1)
    assert "left out (1 rows)" in str(report.warnings[0])


def test_dropping_most_of_the_data_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    data = [*GOOD, *items(*[("x" * 200 + str(n), "red") for n in range(3)])]
    with pytest.raises(DataRefused, match="3 of 5 train rows would be dropped, over 25%"):
        look(tokenizer, data, drop_long=True).require_pass("colours")


def test_an_answer_that_does_not_come_back_from_the_tokenizer_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    open_task = replace(LABELS, labels=(), metric="exact")
    data = items(("a", "soft </s> hyphen"), task=open_task)
    kept = look(tokenizer, data, task=open_task)
    assert kept.refusals == []  # special tokens written as text survive the byte tokenizer

    class Lossy:
        eos_token_id = 2

        def __call__(self, text: str) -> object:
            return tokenizer(text.lower())

        def decode(self, ids: object, **options: object) -> str:
            return str(tokenizer.decode(ids, **options))

    report = look(Lossy(), items(("a", "Red")))  # type: ignore[arg-type]
    with pytest.raises(DataRefused, match="comes back from the tokenizer as 'red'"):
        report.require_pass("colours")


def test_a_boundary_that_the_tokenizer_moves_is_refused() -> None:
    class InPairs:
        """Two characters to a token: the answer changes the last token of an odd prompt."""

        eos_token_id = 0

        def __call__(self, text: str) -> object:
            pairs = [text[at : at + 2] for at in range(0, len(text), 2)]
            return SimpleNamespace(input_ids=[int.from_bytes(p.encode(), "big") for p in pairs])

        def decode(self, ids: Sequence[int], **options: object) -> str:
            return b"".join(i.to_bytes(2, "big").lstrip(b"\0") for i in ids).decode()

    even, odd = items(("tree", "red")), items(("bush!", "red"))
    assert [len(found.prompt) % 2 for found in (*even, *odd)] == [1, 0]
    look(InPairs(), odd).require_pass("colours")  # type: ignore[arg-type]
    with pytest.raises(DataRefused, match="do not begin with the tokens of the prompt"):
        look(InPairs(), even).require_pass("colours")  # type: ignore[arg-type]


def test_gold_answers_that_the_grader_does_not_accept_are_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(DataRefused, match=r"does not score 1 under 'accuracy'.*\n.*'blue'"):
        look(tokenizer, [*GOOD, *items(("sea", "blue"))]).require_pass("colours")


def test_a_gold_answer_of_the_test_split_is_checked_too(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(DataRefused, match="does not score 1"):
        look(tokenizer, GOOD, items(("sea", "blue"))).require_pass("colours")


def test_a_gold_answer_that_holds_a_stop_string_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    stopping = replace(LABELS, stop=("e",))
    with pytest.raises(DataRefused, match="holds a stop string"):
        look(tokenizer, GOOD, task=stopping).require_pass("colours")


def test_train_rows_of_the_test_split_are_refused_or_dropped_whatever_their_spelling(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    test = items(("FIRE  ", "red"))
    with pytest.raises(DataRefused, match=r"in the test split.*\(1 rows\)"):
        look(tokenizer, GOOD, test).require_pass("colours")
    data = [*GOOD, *items(*[(f"leaf {n}", "green") for n in range(4)], ("rose", "red"))]
    report = look(tokenizer, data, test, drop_overlap=True)
    report.require_pass("colours")
    assert (len(report.examples), report.dropped_overlap, report.dropped_long) == (6, 1, 0)
    assert "in the test split, left out (1 rows)" in str(report.warnings[0])


def test_train_rows_of_the_rest_of_the_test_split_are_refused_too(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rest = items(("Fire", "red"))
    with pytest.raises(DataRefused, match=r"in the test split.*\(1 rows\)"):
        look(tokenizer, GOOD, held_out=rest).require_pass("colours")


def test_one_class_is_a_warning(tokenizer: PreTrainedTokenizerBase) -> None:
    report = look(tokenizer, items(("fire", "red"), ("blood", "red")))
    report.require_pass("colours")
    assert "every answer is 'red'" in str(report.warnings[0])


def test_no_data_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataRefused, match="nothing to train on"):
        look(tokenizer, []).require_pass("colours")


def test_all_that_is_wrong_is_told_at_once(tokenizer: PreTrainedTokenizerBase) -> None:
    data = [*GOOD, *items(("air", ""), ("sea", "blue"))]
    with pytest.raises(DataRefused) as caught:
        look(tokenizer, data, items(("fire", "red"))).require_pass("colours")
    message = str(caught.value)
    assert all(part in message for part in ("is empty", "does not score 1", "test split"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["viggo", "wikisql", "bc5cdr", "dbpedia", "gsm8k", "boolq"])
def test_real_data_passes_with_the_real_tokenizer(
    name: str, real_data: Path, embedded_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loraland.bases.catalogue import get_base
    from loraland.bases.loading import load_tokenizer

    monkeypatch.setenv("LORALAND_CACHE", str(embedded_cache))
    monkeypatch.setenv("LORALAND_DATA", str(real_data / "tasks"))
    task = get_task(name)
    train, test = (load_split(task, split, limit=200) for split in ("train", "test"))
    report = inspect(
        task,
        train.items(),
        test.items(),
        load_tokenizer(get_base("smollm2-135m")),
        max_length=1024,
        drop_long=True,
    )
    report.require_pass(name)
    assert len(report.examples) >= 150
