from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loraland.adapters import layout
from loraland.adapters.card import Canary, Card, CurvePoint, DataStamp, SecondaryScore
from loraland.adapters.folder import CARD
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.cli import app
from loraland.errors import (
    InvalidConfiguration,
    InvalidName,
    SamplesMissing,
    StorageCorrupt,
    UnknownModel,
)
from loraland.evaluation import promote as promoting
from loraland.evaluation.comparison import compare, pair
from loraland.evaluation.promote import decisions, promote
from loraland.evaluation.promotion import Gate, Guard, guards, reasons_against, task_guard
from loraland.evaluation.samples import Sample, write_samples
from loraland.evaluation.scoring import grade, score
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

OLD, NEW = "a" * 12, "b" * 12
ITEMS = 60
GOLD = "2001-02-03"
NAME = "smollm2-135m/dates"


def answers(right: int, unread: int = 0, items: int = ITEMS, tokens: int = 5) -> list[Sample]:
    """Answers to the dates task, of which the first are right and the last cannot be read."""
    said = [GOLD] * right + ["1999-09-09"] * (items - right - unread) + ["no idea"] * unread
    return grade(
        get_task("dates"),
        [
            Sample(n, f"q {n}", GOLD, "{}", text, None, 0.0, None, "stop", 9, tokens, 1.0)
            for n, text in enumerate(said)
        ],
    )


def reasons(ours: Sequence[Sample], theirs: Sequence[Sample], **gate: Any) -> list[str]:
    found, rules = compare(pair("dates", ours, theirs)), Gate(**gate)
    return reasons_against(rules, found, "base", guards(rules, ours, theirs, {}, over_base=True))


# The rule


def test_a_clear_lift_passes() -> None:
    assert reasons(answers(50), answers(20), margin=0.01) == []


def test_the_lower_bound_must_clear_the_margin() -> None:
    # 30 of 60 items better: lift 0.5, lower bound about 0.36.
    assert reasons(answers(50), answers(20), margin=0.3) == []
    [reason] = reasons(answers(50), answers(20), margin=0.4)
    assert reason.startswith("the lift over base is +0.500") and "must exceed +0.400" in reason
    assert len(reasons(answers(22), answers(20))) == 1  # better, but not surely
    assert len(reasons(answers(20), answers(20))) == 1
    assert reasons(answers(20), answers(20), margin=-0.2) == []  # no worse by so much


def test_a_guard_that_falls_refuses_whatever_the_lift() -> None:
    [reason] = reasons(answers(50, unread=3), answers(10))
    assert reason == "unparsable got worse by 0.050 (from 0.000 to 0.050); tolerated is 0.020"
    assert reasons(answers(50, unread=3), answers(10), tolerances={"unparsable": 0.05}) == []
    assert reasons(answers(50, unread=3), answers(10, unread=5)) == []


def test_failures_and_truncated_answers_are_guarded() -> None:
    good = answers(50)
    failed = [replace(good[0], failure="engine_failed: x", score=0.0), *good[1:]]
    assert "failures got worse by 0.017" in reasons(failed, answers(10))[0]
    cut = [replace(one, finish_reason="length") for one in good[:3]] + good[3:]
    assert "truncated got worse by 0.050" in reasons(cut, answers(10))[0]


def test_length_is_guarded_over_another_version_only() -> None:
    long, short, gate = answers(50, tokens=7), answers(10, tokens=5), Gate()
    assert "tokens" not in {g.name for g in guards(gate, long, short, {}, over_base=True)}
    [guard] = [g for g in guards(gate, long, short, {}, over_base=False) if g.name == "tokens"]
    assert guard.worsening == pytest.approx(0.4) and not guard.holds
    asked = guards(Gate(tolerances={"tokens": 0.5}), long, short, {}, over_base=True)
    assert asked[-1].name == "tokens" and asked[-1].holds


def beside(value: float | None, base: float | None, low: float | None = None) -> SecondaryScore:
    """A secondary score, with a paired interval where its lower bound is given."""
    return SecondaryScore(
        value=value, low=None, high=None, base_value=base, base_low=None, base_high=None,
        lift=None if value is None or base is None else value - base,
        lift_low=low, lift_high=None if low is None else 0.0,
    )  # fmt: skip


def test_secondary_scores_are_guarded() -> None:
    good, poor, gate = answers(50), answers(10), Gate(tolerances={"f1": 0.4})
    others = {"f1": beside(0.5, 0.9, -0.6), "rho": beside(None, 0.3), "new": beside(0.1, None)}
    found = {g.name: g for g in guards(gate, good, poor, others, over_base=True)}
    assert found["f1"].holds and (found["f1"].low, found["f1"].high) == (0.0, 0.6)
    assert not found["rho"].holds and found["rho"].worsening == 0.3  # not defined any more
    assert found["new"].holds
    assert not guards(Gate(), good, poor, others, over_base=True)[3].holds


def test_another_task_is_guarded_with_its_interval() -> None:
    guard = task_guard("topics", answers(30), answers(33), 0.02)
    assert (guard.name, guard.worsening) == ("task topics", pytest.approx(0.05))
    assert not guard.holds
    assert guard.low is not None and guard.high is not None and guard.low < 0.05 < guard.high
    assert task_guard("topics", answers(33), answers(30), 0.0).holds


def test_an_unknown_guard_is_told() -> None:
    with pytest.raises(InvalidConfiguration, match="did you mean 'unparsable'"):
        reasons(answers(50), answers(10), tolerances={"unparseable": 0.1})


def test_a_fall_of_just_the_tolerance_is_tolerated() -> None:
    assert Guard(name="x", ours=0.3, theirs=0.2, worsening=0.3 - 0.2, tolerance=0.1).holds


# In storage


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "storage"))
    return Storage.open(str(tmp_path / "storage"))


def card(version: str) -> Card:
    return Card(
        base="smollm2-135m", base_fingerprint="f" * 64, hub_id="", precision="fp32", task="dates",
        version=version, recipe={}, seed=0, best_step=1, packages={}, git_commit=None,
        git_dirty=None, hardware="2 CPU cores", created="2026-01-31T12:00:00+00:00",
        data=DataStamp(
            fingerprint="d", source="here", train_rows=1, validation_rows=1, dropped_long=0
        ),
        curve=[
            CurvePoint(
                step=1, tokens=1, train_loss=1.0, validation_loss=None, learning_rate=0.1,
                seconds=1.0,
            )
        ],
        canary=Canary(
            prompt_ids=[1], top_ids=[1], logits=[1.0], base_logits=[0.0], max_difference=1.0
        ),
    )  # fmt: skip


def publish(storage: Storage, version: str, ours: list[Sample], base: list[Sample]) -> None:
    """A judged version, as far as the gate looks at it: a card and samples."""
    folder = "samples/smollm2-135m/dates"
    places = (f"{folder}/{version}-{len(ours)}.parquet", f"{folder}/base-{len(ours)}.parquet")
    for place, samples in zip(places, (ours, base), strict=True):
        write_samples(storage, place, samples, {})
    made = card(version).with_score(score(get_task("dates"), ours, base, *places, "here"))
    name = ModelName("smollm2-135m", "dates", version=version)
    storage.write(layout.version_file(name, CARD), made.to_json())


@pytest.fixture
def registry(storage: Storage) -> Registry:
    """Two versions: OLD is better than the base, and NEW than OLD."""
    publish(storage, OLD, answers(30), answers(5))
    publish(storage, NEW, answers(55), answers(5))
    return Registry(storage)


def prod(registry: Registry) -> str | None:
    return registry.aliases("smollm2-135m", "dates").get("prod")


def test_the_first_version_is_held_against_the_base(registry: Registry, storage: Storage) -> None:
    done = promote(f"{NAME}@{OLD}", storage, Gate(margin=0.01))
    assert done.moved and not done.refused and prod(registry) == OLD
    assert done.decision is not None and done.decision.rival is None
    assert done.decision.previous is None
    assert done.decision.lift.mean == pytest.approx(25 / 60)


def test_the_next_version_is_held_against_the_present_one(
    registry: Registry, storage: Storage
) -> None:
    registry.alias(f"{NAME}@{OLD}", "prod")
    done = promote(f"{NAME}@{NEW}", storage, Gate())
    assert done.moved and prod(registry) == NEW
    assert done.decision is not None
    assert (done.decision.previous, done.decision.rival) == (OLD, OLD)
    assert done.decision.lift.mean == pytest.approx(25 / 60)


def test_a_worse_version_is_refused_and_the_alias_stays(
    registry: Registry, storage: Storage
) -> None:
    registry.alias(f"{NAME}@{NEW}", "prod")
    done = promote(f"{NAME}@{OLD}", storage, Gate())
    assert done.refused and not done.moved and prod(registry) == NEW
    [(place, kept)] = decisions(NAME, storage)
    assert place == done.record and kept == done.decision
    assert kept.reasons and not kept.promoted
    # The base it does beat.
    assert promote(f"{NAME}@{OLD}", storage, Gate(over="base")).moved


def test_a_decision_is_kept_with_what_it_stands_on(registry: Registry, storage: Storage) -> None:
    done = promote(f"{NAME}@{NEW}", storage, Gate(margin=0.01))
    [(place, kept)] = decisions(NAME, storage)
    assert place.startswith("promotions/smollm2-135m/dates/2")
    assert place.endswith(f"-{NEW}.json")
    assert kept == done.decision
    assert kept.gate.margin == 0.01 and kept.items == kept.units == ITEMS
    assert {guard.name for guard in kept.guards} == {"unparsable", "failures", "truncated"}
    for evidence in kept.evidence:
        assert hashlib.sha256(storage.read(evidence.path)).hexdigest() == evidence.sha256
    assert [one.path.rsplit("/", 1)[-1] for one in kept.evidence] == [
        f"{NEW}-60.parquet", "base-60.parquet"
    ]  # fmt: skip


class Killed(BaseException):
    """The process is gone at this point."""


def test_killed_before_the_alias_moves_it_is_moved_by_the_same_command(
    registry: Registry, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_point", die)
        with pytest.raises(Killed):
            promote(f"{NAME}@{NEW}", storage, Gate())
    assert prod(registry) is None
    [(first, _)] = decisions(NAME, storage)
    done = promote(f"{NAME}@{NEW}", storage, Gate())
    assert done.moved and prod(registry) == NEW
    assert done.record == first  # the decision was made, once
    assert len(decisions(NAME, storage)) == 1


def test_killed_before_the_decision_is_written_nothing_has_happened(
    registry: Registry, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_json", die)
        with pytest.raises(Killed):
            promote(f"{NAME}@{NEW}", storage, Gate())
    assert prod(registry) is None and decisions(NAME, storage) == []


def test_an_alias_that_moved_meanwhile_is_left_alone(
    registry: Registry, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = promoting._keep

    def overtaken(*arguments: Any) -> str:
        registry.alias(f"{NAME}@{OLD}", "prod")
        return keep(*arguments)

    monkeypatch.setattr(promoting, "_keep", overtaken)
    done = promote(f"{NAME}@{NEW}", storage, Gate())
    assert done.refused and prod(registry) == OLD
    assert done.decision is not None and "while this was decided" in done.decision.reasons[0]
    assert [one.promoted for _, one in decisions(NAME, storage)] == [True, False]


def test_promoting_what_is_there_decides_nothing(registry: Registry, storage: Storage) -> None:
    registry.alias(f"{NAME}@{NEW}", "prod")
    done = promote(f"{NAME}@{NEW}", storage, Gate())
    assert not done.moved and not done.refused and done.decision is None
    assert decisions(NAME, storage) == []


def test_the_same_refusal_is_kept_once(registry: Registry, storage: Storage) -> None:
    gate = Gate(margin=0.99)
    first, again = (promote(f"{NAME}@{NEW}", storage, gate) for _ in range(2))
    assert first.record == again.record
    assert promote(f"{NAME}@{NEW}", storage, Gate(margin=0.98)).record != first.record


def test_versions_that_were_asked_other_items_are_not_compared(
    registry: Registry, storage: Storage
) -> None:
    publish(storage, "c" * 12, answers(40, items=50), answers(5, items=50))
    registry.alias(f"{NAME}@{OLD}", "prod")
    with pytest.raises(SamplesMissing, match=rf"evaluate {NAME}@{OLD} --fresh --max-items 50"):
        promote(f"{NAME}@{'c' * 12}", storage, Gate())
    assert decisions(NAME, storage) == []
    assert promote(f"{NAME}@{'c' * 12}", storage, Gate(over="base")).moved


def test_what_cannot_be_decided_is_told_and_nothing_is_written(
    registry: Registry, storage: Storage
) -> None:
    for name, gate, error, says in [
        (f"{NAME}@{'d' * 12}", Gate(), UnknownModel, "no adapter"),
        (f"{NAME}@{NEW}", Gate(over="alias"), SamplesMissing, "has no alias 'prod'"),
        (f"{NAME}@{NEW}", Gate(tasks={"topics": 0.02}), SamplesMissing, "of task 'topics'"),
        (f"{NAME}@{NEW}", Gate(alias="Prod!"), InvalidName, "Prod!"),
    ]:
        with pytest.raises(error, match=says):
            promote(name, storage, gate)
    assert storage.names("promotions") == []


def test_an_unjudged_version_is_not_promoted(registry: Registry, storage: Storage) -> None:
    name = ModelName("smollm2-135m", "dates", version="c" * 12)
    storage.write(layout.version_file(name, CARD), card("c" * 12).to_json())
    with pytest.raises(SamplesMissing, match="was never judged"):
        promote(str(name), storage, Gate())


def test_other_tasks_are_guards_when_both_answered_them(
    registry: Registry, storage: Storage
) -> None:
    folder = "samples/smollm2-135m/topics"
    labels = get_task("topics").labels

    def said(right: int) -> list[Sample]:
        texts = [labels[0]] * right + [labels[1]] * (40 - right)
        return [
            Sample(n, f"t {n}", labels[0], "{}", text, text, 0.0, None, "stop", 1, 1, 1.0)
            for n, text in enumerate(texts)
        ]

    write_samples(storage, f"{folder}/base-1.parquet", said(20), {})
    write_samples(storage, f"{folder}/{NEW}-1.parquet", said(10), {})
    refused = promote(f"{NAME}@{NEW}", storage, Gate(tasks={"topics": 0.1}))
    assert refused.decision is not None
    [reason] = refused.decision.reasons
    assert reason.startswith("task topics got worse by 0.250 (from 0.500 to 0.250)")
    assert len(refused.decision.evidence) == 4
    assert promote(f"{NAME}@{NEW}", storage, Gate(tasks={"topics": 0.25})).moved


def test_a_damaged_record_is_told(registry: Registry, storage: Storage) -> None:
    storage.write_json("promotions/smollm2-135m/dates/1.json", {"format": 1})
    with pytest.raises(StorageCorrupt, match="is not a decision"):
        promote(f"{NAME}@{NEW}", storage, Gate())
    assert prod(registry) is None


# As a user types it


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_command_promotes_or_ends_with_the_reasons(
    registry: Registry, storage: Storage
) -> None:
    said = " ".join(run("promote", f"{NAME}@{NEW}", "--margin", "0.9", code=1).stdout.split())
    assert "does not become prod" in said and "must exceed +0.900" in said
    assert prod(registry) is None
    said = run("promote", f"{NAME}@{NEW}", "--margin", "0.01").stdout
    assert f"{NAME}@{NEW} is prod now" in " ".join(said.split())
    assert "is prod already" in run("promote", f"{NAME}@{NEW}").stdout
    told = json.loads(run("promotions", NAME, "--json").stdout)
    assert [one["promoted"] for one in told] == [False, True]
    assert "became prod" in run("promotions", NAME).stdout


def test_the_command_tells_everything_as_json(registry: Registry, storage: Storage) -> None:
    told = json.loads(run("promote", f"{NAME}@{NEW}", "--json").stdout)
    assert told["moved"] is True and told["decision"]["lift"]["low"] > 0
    assert storage.exists(told["record"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--guard", "unparsable"), "write NAME=NUMBER"),
        (("--guard", "unparsabel=0.1"), "did you mean 'unparsable'"),
        (("--guard", "unparsable=-1"), "greater than or equal to 0"),
        (("--guard", "unparsable=nan"), "finite"),
        (("--guard-task", "topicz=0.1"), "did you mean 'topics'"),
        (("--margin", "2"), "less than 1"),
    ],
)
def test_a_wrong_gate_is_told(
    registry: Registry, storage: Storage, arguments: tuple[str, ...], says: str
) -> None:
    said = " ".join(run("promote", f"{NAME}@{NEW}", *arguments, code=1).stderr.split())
    assert says in said
    assert decisions(NAME, storage) == []
