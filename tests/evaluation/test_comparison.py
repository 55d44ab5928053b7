from __future__ import annotations

import json
from dataclasses import replace

import pytest

from loraland.evaluation.comparison import Means, compare, pair
from loraland.evaluation.samples import Sample
from loraland.evaluation.statistics import Interval, mean_interval, paired_interval

SAMPLE = Sample(0, "p", "t", "{}", "o", "o", 1.0, None, "stop", 1, 1, 1.0)


def samples(scores: list[float], contexts: list[str] | None = None) -> list[Sample]:
    """An answer per score, each to a question of its own."""
    rows = [{"passage": text} for text in contexts] if contexts else [{} for _ in scores]
    return [
        replace(SAMPLE, item=n, prompt=f"question {n}", score=score, row=json.dumps(row))
        for n, (score, row) in enumerate(zip(scores, rows, strict=True))
    ]


def test_two_models_are_held_against_each_other_on_the_same_items() -> None:
    ours, theirs = [1.0] * 30 + [0.0] * 10, [1.0] * 10 + [0.0] * 30
    found = compare(pair("dates", samples(ours), samples(theirs)))
    assert (found.items, found.units, found.effective_items) == (40, 40, 40)
    assert found.means == (
        mean_interval(ours), mean_interval(theirs), paired_interval(ours, theirs)
    )  # fmt: skip
    assert (found.test.method, found.test.wins, found.test.losses) == ("mcnemar", 20, 0)
    assert found.discordance == 0.5
    least = found.detectable()
    assert least is not None and 0.2 < least < 0.35


def test_other_items_are_not_compared() -> None:
    theirs = [replace(sample, prompt="another") for sample in samples([1.0, 0.0])]
    with pytest.raises(ValueError, match="different items of task 'dates'"):
        pair("dates", samples([1.0, 0.0]), theirs)


def test_questions_on_one_passage_are_one_piece_of_evidence() -> None:
    passages = [f"passage {n // 5}" for n in range(40)]
    ours, theirs = samples([1.0] * 40, passages), samples([0.0] * 20 + [1.0] * 20, passages)
    known = Means(*[Interval(0.5, 0.5, 0.5)] * 3)
    alone = compare(pair("dates", ours, theirs), known)  # a task without a shared column
    shared = compare(pair("drop", ours, theirs), known)
    assert (alone.units, shared.units) == (40, 8)
    assert alone.means == known  # computed before
    assert shared.means != known  # computed anew, as those knew of no passages
    assert shared.means.lift.low < paired_interval([1.0] * 40, [0.0] * 20 + [1.0] * 20).low
    assert shared.test.p_value == 2 / 16  # of four passages that differ, all to one side
    assert alone.test.p_value < 1e-5
    assert shared.effective_items == pytest.approx(8, rel=0.2)


def test_items_with_the_same_prompt_are_one_piece_of_evidence() -> None:
    ours = [replace(sample, prompt="same") for sample in samples([1.0, 1.0, 1.0])]
    theirs = [replace(sample, prompt="same") for sample in samples([0.0, 0.0, 0.0])]
    assert compare(pair("e2e_nlg", ours, theirs)).units == 1
