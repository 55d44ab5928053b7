"""Secondary scores on their way from grades to samples to a card's score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loraland.adapters.card import Score
from loraland.evaluation import sandbox, scoring
from loraland.evaluation.published import Evaluation
from loraland.evaluation.samples import Sample, read_samples, write_samples
from loraland.evaluation.scoring import grade, regrade, score
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.grading import Verdict

COLA = get_task("glue_cola")


def sample(output: str, target: str, **changes: object) -> Sample:
    made = Sample(0, "p", target, '{"sentence": "s"}', output, None, 0.0, None, "stop", 1, 1, 1.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def scored(ours: list[Sample], theirs: list[Sample]) -> Score:
    return score(COLA, grade(COLA, ours), grade(COLA, theirs), "a", "b", "here")


GOLD = ["1", "1", "0", "0"]
RIGHT = [sample(label, label) for label in GOLD]
RAMBLING = [sample(f"I say {label}", label) for label in GOLD]


def test_grades_carry_their_secondary_scores_into_samples() -> None:
    graded = grade(COLA, [RAMBLING[0], replace(RIGHT[0], failure="engine_failed: x")])
    assert [(s.score, s.parsed, s.secondary) for s in graded] == [
        (0.0, None, {"lenient": 1.0}),
        (0.0, None, {}),
    ]


def test_a_score_has_means_with_intervals_and_scores_over_all() -> None:
    found = scored(RIGHT, RAMBLING)
    assert (found.mean, found.base_mean, found.base_unparsable) == (1.0, 0.0, 4)
    lenient = found.secondary["lenient"]
    assert (lenient.value, lenient.base_value, lenient.lift) == (1.0, 1.0, 0.0)
    assert lenient.low is not None and lenient.lift_low is not None
    assert lenient.low < 1.0 and lenient.lift_low < 0.0
    matthews = found.secondary["matthews"]
    assert (matthews.value, matthews.base_value, matthews.low) == (1.0, 0.0, None)
    assert set(found.secondary) == {"lenient", "matthews", "macro_f1"}


def test_a_failure_counts_as_nothing_in_every_secondary_score() -> None:
    failed = [replace(RIGHT[0], failure="engine_failed: x"), *RIGHT[1:]]
    found = scored(failed, RIGHT)
    assert found.secondary["lenient"].value == 0.75
    macro = found.secondary["macro_f1"].value
    assert macro == pytest.approx((2 / 3 + 1) / 2)


def test_a_score_over_all_that_is_not_defined_has_no_lift() -> None:
    same = [sample("1", "1"), sample("1", "1")]
    found = scored(same, same)
    assert "matthews" not in found.secondary
    assert found.secondary["macro_f1"].lift == 0.0


def test_samples_keep_secondary_scores_and_old_ones_have_none(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    graded = grade(COLA, RAMBLING)
    write_samples(storage, "samples/new.parquet", graded, {})
    assert read_samples(storage, "samples/new.parquet")[0] == graded
    again = regrade(COLA, "samples/new.parquet", "samples/new.parquet", "here", storage)
    assert again.secondary["lenient"].value == 1.0

    import io

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(storage.read("samples/new.parquet"))).drop(["secondary"])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write("samples/old.parquet", buffer.getvalue())
    old, _ = read_samples(storage, "samples/old.parquet")
    assert [s.secondary for s in old] == [{}] * 4
    assert old == [replace(s, secondary={}) for s in graded]


def test_a_card_of_before_there_were_secondary_scores_is_reproduced_by_its_headline() -> None:
    new = scored(RIGHT, RAMBLING)
    old = new.model_copy(update={"secondary": {}})
    assert Score.model_validate(old.model_dump(exclude={"secondary"})) == old
    assert Evaluation("m", new, old).reproduced
    other = new.model_copy(update={"mean": 0.5, "lift": 0.5})
    assert not Evaluation("m", other, old).reproduced
    fewer = new.model_copy(update={"secondary": {"lenient": new.secondary["lenient"]}})
    assert not Evaluation("m", new, fewer).reproduced


def test_programs_are_run_by_the_sandbox_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def judge(program: str) -> Verdict:
        seen.append(program)
        return Verdict(True, True)

    monkeypatch.setenv("LORALAND_RUN_CODE", "1")
    monkeypatch.setattr(sandbox, "require_sandbox", lambda: None)
    monkeypatch.setattr(sandbox, "judge_program", judge)
    row = '{"prompt": "def f():\\n", "test": "def check(c): pass", "entry_point": "f"}'
    task = get_task("magicoder")
    assert [s.score for s in grade(task, [sample("return 1", "x", row=row)])] == [1.0]
    assert len(seen) == 1
    scoring.require_gradable(task)
