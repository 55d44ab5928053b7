from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.adapters.card import CurvePoint, Score
from loraland.evaluation.samples import Sample
from loraland.evaluation.scoring import score as score_of
from loraland.matrix.collapse import Collapse, find_collapse, gentler
from loraland.tasks.catalogue import get_task
from loraland.training.recipe import get_recipe

COLA, VIGGO, JIGSAW = get_task("glue_cola"), get_task("viggo"), get_task("jigsaw")
FALLING = [2.0 - 0.1 * step for step in range(15)]


def answers(pairs: list[tuple[str | None, str]], failure: str | None = None) -> list[Sample]:
    """Samples of (said, gold); None said: an answer that no grader reads."""
    return [
        Sample(
            item=number,
            prompt=f"question {number}",
            target=gold,
            row="{}",
            output=said or "",
            parsed=said,
            score=float(said == gold),
            failure=failure,
            finish_reason="stop",
            prompt_tokens=3,
            tokens=1,
            ms=1.0,
        )
        for number, (said, gold) in enumerate(pairs)
    ]


def curve(losses: list[float]) -> list[CurvePoint]:
    return [
        CurvePoint(
            step=step,
            tokens=step,
            train_loss=loss,
            validation_loss=None,
            learning_rate=1e-4,
            seconds=step,
        )
        for step, loss in enumerate(losses, 1)
    ]


def scored(ours: list[Sample], base_right: bool = False) -> Score:
    theirs = answers([(s.target if base_right else "nothing", s.target) for s in ours])
    return score_of(COLA, ours, theirs, "ours", "theirs", "here")


def find(
    pairs: list[tuple[str | None, str]], losses: list[float] = FALLING, task: object = COLA
) -> Collapse | None:
    ours = answers(pairs)
    return find_collapse(task, ours, scored(ours), curve(losses))  # type: ignore[arg-type]


def kind(found: Collapse | None) -> str | None:
    return found and found.kind


def test_one_answer_for_everything_is_a_collapse_although_it_scores_and_lifts() -> None:
    gold = ["1"] * 69 + ["0"] * 31  # CoLA's majority, as two Gemma runs of the report answered
    found = find([("1", label) for label in gold])
    assert found is not None
    assert found.kind == "constant"
    assert "100 of 100 answers are '1'" in found.detail
    assert "stands there 69 times" in found.detail


def test_one_answer_is_right_where_the_gold_answers_are_one() -> None:
    assert find([("1", "1")] * 100) is None
    assert find([("1", "1")] * 97 + [("1", "0")] * 3) is not None  # chance, not variety
    assert kind(find([("1", "1")] * 97 + [("1", "0")] * 3)) == "chance"


def test_answers_that_nobody_can_read_are_one_answer() -> None:
    assert kind(find([(None, label) for label in "01" * 30])) == "constant"


def test_one_text_for_all_is_a_collapse_of_an_open_task() -> None:
    assert kind(find([("a game", f"line {n}") for n in range(50)], task=VIGGO)) == "constant"
    assert find([(f"talk {n}", f"line {n}") for n in range(50)], task=VIGGO) is None


def test_random_labels_are_chance_and_good_ones_are_not() -> None:
    rng = random.Random(0)
    gold = [rng.choice("01") for _ in range(400)]
    assert kind(find([(rng.choice("01"), label) for label in gold])) == "chance"
    mostly = [(label if rng.random() < 0.8 else rng.choice("01"), label) for label in gold]
    assert find(mostly) is None


def test_rare_labels_that_are_found_are_no_chance_although_the_majority_is_large() -> None:
    gold = ["no"] * 180 + ["yes"] * 20
    said = ["no"] * 175 + ["yes"] * 5 + ["yes"] * 15 + ["no"] * 5
    pairs: list[tuple[str | None, str]] = list(zip(said, gold, strict=True))
    assert find(pairs, task=JIGSAW) is None
    blind: list[tuple[str | None, str]] = list(zip(said[::-1], gold, strict=True))
    assert kind(find(blind, task=JIGSAW)) == "chance"


def test_swapped_labels_are_chance() -> None:
    swapped: list[tuple[str | None, str]] = [("0", "1"), ("1", "0")] * 40
    assert kind(find(swapped)) == "chance"


def test_few_answers_say_nothing() -> None:
    assert find([("1", label) for label in "01" * 9]) is None


def test_failed_answers_are_left_out() -> None:
    ours = answers([("1", label) for label in "01" * 30], failure="engine_failed: no")
    assert find_collapse(COLA, ours, scored(ours), curve(FALLING)) is None


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (FALLING, None),
        (FALLING[::-1], "loss"),
        ([1.0] * 15, "loss"),
        ([2.0, 1.0, 2.0], None),  # too short to tell
        ([3.0, 3.0, 9.0, 9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], None),  # a hill on the way
    ],
)
def test_a_loss_that_never_fell_is_a_collapse_unless_the_base_is_beaten(
    losses: list[float], expected: str | None
) -> None:
    pairs: list[tuple[str | None, str]] = [(label, label) for label in "01" * 30]
    ours = answers(pairs)
    assert kind(find_collapse(COLA, ours, scored(ours, base_right=True), curve(losses))) == expected
    assert find_collapse(COLA, ours, scored(ours), curve(losses)) is None


@given(st.lists(st.tuples(st.sampled_from("012"), st.sampled_from("012")), min_size=1))
def test_every_list_of_answers_is_judged_without_an_error(pairs: list[tuple[str, str]]) -> None:
    found = find(list(pairs))
    right = all(said == gold for said, gold in pairs)
    assert not (right and kind(found) == "constant")


def test_the_retry_is_slower_to_start_and_otherwise_the_same() -> None:
    report = get_recipe("report")
    again = gentler(report)
    assert again.learning_rate == pytest.approx(4e-5)
    assert again.warmup_share == 0.1
    same = {"learning_rate": report.learning_rate, "warmup_share": report.warmup_share}
    assert again.model_copy(update=same) == report
    assert gentler(get_recipe("quick", warmup_share=0.3)).warmup_share == 0.3
