from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.errors import EngineFailed, SamplesMissing
from loraland.evaluation.judge import Exam, judge
from loraland.evaluation.samples import Sample, read_samples, write_samples
from loraland.evaluation.scoring import grade, regrade, score
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import Split, load_split
from loraland.training.examples import Example, encode
from loraland.training.loop import train
from loraland.training.recipe import get_recipe

pytestmark = pytest.mark.slow

TASK = get_task("dates")


@pytest.fixture(scope="module")
def base(tiny_folders: dict[str, Path]) -> LoadedBase:
    return load_tiny("llama", tiny_folders["llama"])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "storage"))


@pytest.fixture(scope="module")
def split() -> Split:
    return load_split(TASK, "test", limit=6)


@pytest.fixture(scope="module")
def adapter(base: LoadedBase, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that has learned the very items it is asked: small, and sure to beat its base."""
    items = [TASK.item(row) for row in split.rows]
    examples = [e for item in items if isinstance(e := encode(item, base.tokenizer), Example)]
    recipe = get_recipe(
        "quick",
        precision="fp32",
        rank=16,
        learning_rate=0.01,
        max_epochs=60,
        examples_per_update=6,
        evaluate_every=20,
    )
    return train(base, examples, examples, recipe, tmp_path_factory.mktemp("adapter")).folder


def exam_of(base: LoadedBase, split: Split) -> Exam:
    return Exam.of(TASK, split, base.entry.name, base.fingerprint, base.precision)


def a_sample(**changes: object) -> Sample:
    sample = Sample(0, "p", "t", "{}", "o", None, 0.0, None, "stop", 1, 1, 1.0)
    return replace(sample, **changes)  # type: ignore[arg-type]


def test_an_adapter_that_learned_its_items_beats_its_base(
    base: LoadedBase, adapter: Path, split: Split, storage: Storage
) -> None:
    told: list[tuple[int, int]] = []
    exam = exam_of(base, split)
    found = judge(base, adapter, "a" * 12, exam, storage, on_answer=lambda *n: told.append(n))
    assert (found.items, found.mean, found.base_mean) == (6, 1.0, 0.0)
    assert found.lift_low > 0
    assert found.base_unparsable > 0
    assert found.unparsable == found.failures == 0
    assert told[-1] == (12, 12)
    samples, stamp = read_samples(storage, found.samples)
    assert [s.output for s in samples] == [TASK.item(row).target for row in split.rows]
    assert all(s.prompt_tokens > 0 and s.tokens > 0 and s.ms > 0 for s in samples)
    assert stamp["version"] == "a" * 12
    assert stamp["base_fingerprint"] == base.fingerprint


def test_a_score_comes_again_from_samples_and_from_new_answers(
    base: LoadedBase, adapter: Path, split: Split, storage: Storage
) -> None:
    exam = exam_of(base, split)
    first = judge(base, adapter, "a" * 12, exam, storage).model_dump(exclude={"created"})
    again = regrade(TASK, first["samples"], first["base_samples"], split.source, storage)
    assert again.model_dump(exclude={"created"}) == first
    fresh = judge(base, adapter, "a" * 12, exam, storage, fresh=True)
    places = {"samples", "base_samples"}
    numbers = {name: value for name, value in first.items() if name not in places}
    assert fresh.model_dump(exclude={"created", *places}) == numbers


def test_stored_answers_are_not_asked_for_again(
    base: LoadedBase, adapter: Path, split: Split, storage: Storage
) -> None:
    exam = exam_of(base, split)
    judge(base, adapter, "a" * 12, exam, storage)
    told: list[tuple[int, int]] = []
    judge(base, adapter, "b" * 12, exam, storage, on_answer=lambda *n: told.append(n))
    assert told[-1] == (6, 6)  # the base's six were there


def test_new_answers_leave_the_stored_ones_alone(
    base: LoadedBase, adapter: Path, split: Split, storage: Storage
) -> None:
    exam = exam_of(base, split)
    stored = judge(base, adapter, "a" * 12, exam, storage)
    before = storage.read(stored.base_samples)
    fresh = judge(base, adapter, "a" * 12, exam, storage, fresh=True)
    assert storage.read(stored.base_samples) == before
    assert fresh.base_samples != stored.base_samples
    assert storage.exists(fresh.base_samples)


def test_an_engine_that_fails_leaves_no_samples_behind(
    base: LoadedBase,
    adapter: Path,
    split: Split,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from loraland.engine.runner import Runner

    def break_down(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Runner, "_forward", break_down)
    with pytest.raises(EngineFailed, match="out of memory"):
        judge(base, adapter, "a" * 12, exam_of(base, split), storage)
    assert storage.names("samples") == []


def test_samples_of_other_data_lie_elsewhere(base: LoadedBase, split: Split) -> None:
    other = load_split(TASK, "test", limit=5)
    assert exam_of(base, split).path(None) != exam_of(base, other).path(None)
    half = replace(exam_of(base, split), precision="nf4")
    assert half.path(None) != exam_of(base, split).path(None)


def test_a_failure_counts_as_a_wrong_answer() -> None:
    right = a_sample(output="2001-02-03", target="2001-02-03")
    failed = a_sample(failure="engine_failed: x", target="2001-02-03")
    graded = grade(TASK, [right, failed])
    assert [s.score for s in graded] == [1.0, 0.0]
    found = score(TASK, graded, graded, "a", "b", "here")
    assert (found.mean, found.failures, found.unparsable) == (0.5, 2, 1)


def test_models_that_answered_different_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different items"):
        score(TASK, [a_sample(prompt="x")], [a_sample(prompt="y")], "a", "b", "here")


def test_an_item_over_the_context_is_a_failure_and_harms_no_other(
    base: LoadedBase, adapter: Path, split: Split, storage: Storage
) -> None:
    [column] = TASK.inputs
    long = {**split.rows[0], column: "why " * 400}
    longer = replace(split, rows=[*split.rows, long], fingerprint="other")
    found = judge(base, adapter, "a" * 12, exam_of(base, longer), storage)
    assert found.items == 7
    assert found.failures == 2
    samples, _ = read_samples(storage, found.samples)
    assert samples[-1].failure is not None
    assert samples[-1].failure.startswith("context_length_exceeded")
    assert [s.score for s in samples] == [1.0] * 6 + [0.0]


def test_samples_keep_every_field(storage: Storage) -> None:
    rows = [a_sample(), a_sample(item=1, parsed="x", failure="why", output="é\n🙂", score=0.25)]
    write_samples(storage, "samples/a.parquet", rows, {"task": "dates"})
    assert read_samples(storage, "samples/a.parquet") == (rows, {"task": "dates"})


def test_missing_samples_say_how_to_get_them(storage: Storage) -> None:
    with pytest.raises(SamplesMissing, match="--fresh"):
        read_samples(storage, "samples/none.parquet")
