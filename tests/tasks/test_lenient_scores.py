"""Hand-worked answers through the lenient rules, and the scores over all answers."""

from __future__ import annotations

import pytest

from loraland.tasks.catalogue import get_task
from loraland.tasks.grading import Grade, Judged, grader_for, over_all
from loraland.tasks.task import Item


def grade(task: str, output: str, target: str) -> Grade:
    return grader_for(get_task(task)).grade(output, Item("prompt:", target, {}))


@pytest.mark.parametrize(
    ("task", "output", "target", "lenient"),
    [
        ("boolq", "Yes, it is.", "True", 1.0),
        ("boolq", "It is not.", "True", 0.0),  # 'no' stands in 'not'
        ("boolq", "nothing false about it", "False", 1.0),
        ("boolq", "hm", "True", 0.0),
        # theirs looks for words in a fixed order, wherever they stand
        ("glue_sst2", "0, or maybe 1", "1", 1.0),
        ("glue_sst2", "positive", "1", 1.0),
        ("jigsaw", "true", "yes", 1.0),
        ("glue_mnli", "answer 1 or 2", "2", 1.0),
        ("glue_mnli", "neutral", "1", 0.0),
        ("glue_mrpc", "label: 0", "0", 1.0),
        ("hellaswag", "ending 3 of 4", "3", 1.0),
        ("customer_support", "They want to Pay Bill now", "pay bill", 1.0),
        ("customer_support", "pay the bill", "pay bill", 0.0),
        ("mmlu", "Option 2, not 3", "2", 1.0),
        ("mmlu", "Option 3, not 2", "2", 0.0),
        ("mmlu", "two", "2", 0.0),
        ("dbpedia", "I think a Film or an Album", "Film", 1.0),
        ("dbpedia", "Filmography", "Film", 0.0),
        ("covid", "Extremely positive!", "Extremely Positive", 1.0),
        ("covid", "Extremely positive!", "Positive", 0.0),
        ("arc_combined", "(B) because", "B", 1.0),
        ("winogrande", "2. bowl", "2", 1.0),
        ("winogrande", "12", "2", 0.0),
    ],
)
def test_a_rambling_answer_is_strictly_nothing_and_leniently_something(
    task: str, output: str, target: str, lenient: float
) -> None:
    assert grade(task, output, target).secondary["lenient"] == lenient


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [("3.8", 1.0, 1.0), ("about 2.8 of 5", 0.0, 0.8), ("9", 0.0, 0.0), ("none", 0.0, 0.0)],
)
def test_a_number_inside_words_is_read_leniently(
    output: str, strict: float, lenient: float
) -> None:
    found = grade("glue_stsb", output, "3.8")
    assert found.score == pytest.approx(strict)
    assert found.secondary["lenient"] == pytest.approx(lenient)


@pytest.mark.parametrize(
    ("output", "marked", "readable"),
    [
        ("so 4\n#### 4", 1.0, 1.0),
        ("so 4\n####4", 1.0, 1.0),
        ("so 4\n#### $4.00.", 1.0, 1.0),
        ("so 4\n#### 5", 0.0, 1.0),
        ("#### 4\nor so", 0.0, 0.0),
        ("it is 4", 0.0, 0.0),
        ("#### four", 0.0, 0.0),
        ("#### 4 apples", 0.0, 0.0),
    ],
)
def test_the_asked_form_of_a_result_is_scored_beside_the_last_number(
    output: str, marked: float, readable: float
) -> None:
    found = grade("gsm8k", output, "2 + 2\n#### 4").secondary
    assert (found["marked_number"], found["marked_readable"]) == (marked, readable)


@pytest.mark.parametrize(
    ("output", "target", "score"),
    [
        ("the blue  Whale", "Blue whale", 1.0),
        ("blue", "blue whale", 2 / 3),
        ("red", "blue whale", 0.0),
        ("1,200 men", "1200", 2 / 3),
        ("1300 men", "1200 men", 0.0),  # the number is not met
        ("99.98", "99.98", 1.0),
        ("99", "99.98", 0.0),
        ("U.S. army", "US army", 0.4),  # "u", "s", "army" and "us", "army"
    ],
)
def test_words_overlap_and_numbers_must_be_met(output: str, target: str, score: float) -> None:
    assert grade("drop", output, target).secondary["word_f1"] == pytest.approx(score)


def test_a_short_answer_is_compared_up_to_case_and_spaces() -> None:
    assert grade("legal", " Governing  LAWS", "governing laws").secondary["exact_match"] == 1.0
    assert grade("legal", "governing law", "governing laws").secondary["exact_match"] == 0.0


@pytest.mark.parametrize(
    ("output", "score"),
    [("tin, tea", 1.0), ("tea", 2 / 3), ("tea, tin, tin, zinc", 0.8), ("zinc", 0.0), (",", 0.0)],
)
def test_topics_are_a_set(output: str, score: float) -> None:
    assert grade("reuters", output, "tea, tin").secondary["topic_f1"] == pytest.approx(score)


def judged(task: str, pairs: list[tuple[str | None, str]]) -> list[Judged]:
    grader = grader_for(get_task(task))
    found = []
    for output, target in pairs:
        item = Item("prompt:", target, {})
        grade = Grade(None, 0.0) if output is None else grader.grade(output, item)
        found.append(Judged(item, output, grade))
    return found


def test_classes_count_alike_in_macro_f1_and_an_unreadable_answer_is_wrong() -> None:
    answers = judged("glue_cola", [("1", "1"), ("1", "1"), ("1", "0"), ("hm", "0"), (None, "1")])
    # class 1: precision 2/3, recall 2/3; class 0: never said
    assert over_all(get_task("glue_cola"), answers)["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_matthews_is_one_for_gold_nought_for_a_constant_and_minus_one_for_the_reverse() -> None:
    task, gold = get_task("glue_cola"), ["1", "1", "0", "0"]
    for said, value in (("1100", 1.0), ("1111", 0.0), ("0011", -1.0)):
        pairs: list[tuple[str | None, str]] = list(zip(said, gold, strict=True))
        assert over_all(task, judged("glue_cola", pairs))["matthews"] == pytest.approx(value)


def test_correlations_need_two_different_numbers_on_both_sides() -> None:
    task = get_task("glue_stsb")
    pairs: list[tuple[str | None, str]] = [("1", "1"), ("2", "3"), ("x", "4"), ("4", "5")]
    found = over_all(task, judged("glue_stsb", pairs))
    # of 1, 2, 4 with 1, 3, 5: 6 / sqrt(14/3 * 8)
    assert found["pearson"] == pytest.approx(6 / (14 / 3 * 8) ** 0.5)
    assert found["spearman"] == pytest.approx(1.0)
    assert over_all(task, judged("glue_stsb", [("1", "1"), ("1", "3")])) == {}
    assert over_all(task, []) == {}
