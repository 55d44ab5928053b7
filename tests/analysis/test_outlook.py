"""What a new task can expect, from the report's cells."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loraland.analysis.heuristics import Example, measure
from loraland.analysis.outlook import (
    Learned,
    assess,
    counted_heuristics,
    design_of,
    foretell,
    learn,
    nearest,
)
from loraland.analysis.study import Study, load_study
from loraland.analysis.traits import FEATURES, Traits, published_traits, traits_of
from loraland.errors import InvalidConfiguration, UnknownBase
from loraland.tasks.catalogue import get_task


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study()


@pytest.fixture(scope="module")
def blind(study: Study) -> Learned:
    return learn(study)


def test_every_task_of_the_report_has_all_traits(study: Study) -> None:
    found = published_traits(study)
    assert len(found) == 31
    assert found["mmlu"] == Traits(578, 99842, 4, 8)
    assert found["mmlu"].features() == pytest.approx((2.762, 4.999, 0.25, 0.903), abs=1e-3)
    assert found["gsm8k"].features()[FEATURES.index("chance")] == 0


def test_traits_of_measured_examples() -> None:
    closed = [Example("x" * 99, answer) for answer in ("yes", "no") * 10]
    found = traits_of(measure(closed, "characters", train_examples=5000))
    assert found.labels == 2
    assert found.train_examples == 5000
    assert found.p95_tokens == pytest.approx(103 / 4)
    assert found.answer_tokens == 8  # the least
    open_ = [Example("x", "word " * 40 + str(n)) for n in range(20)]
    found = traits_of(measure(open_, "tokens", lambda text: len(text.split())))
    assert (found.labels, found.answer_tokens) == (0, 3 * 41)
    with pytest.raises(InvalidConfiguration, match="words"):
        traits_of(measure(closed, "words"))


def test_the_catalogue_knows_labels_better_than_a_sample() -> None:
    few = [Example("x", "billing-error")] * 10
    assert traits_of(measure(few, "characters"), get_task("topics")).labels == 8


def test_counted_lengths_agree_with_the_report_s_tokens(study: Study) -> None:
    """Characters / 4 against tiktoken; of wikisql and mmlu other rows were counted."""
    for task, row in counted_heuristics().items():
        if task not in ("wikisql", "mmlu"):
            ratio = row["example_length_p95"] / 4 / study.tasks[task].p95_tokens
            assert 0.85 < ratio < 1.25, task


def test_a_design_has_a_row_per_cell_and_the_base_s_score_last(study: Study) -> None:
    features = {task: traits.features() for task, traits in published_traits(study).items()}
    design = design_of(study, FEATURES, features, True)
    assert design.features.shape == (310, 5)
    assert design.features[0, -1] == study.cells[0].untuned
    assert tuple(design.targets[0]) == (study.cells[0].tuned, study.cells[0].lift)
    assert design_of(study, FEATURES, features, False).features.shape == (310, 4)


def test_a_task_of_the_report_is_foretold_without_its_own_scores(study: Study) -> None:
    traits = published_traits(study)["glue_qqp"]
    found = foretell(study, learn(study, without="glue_qqp"), traits, base="phi-2")
    assert found.tasks == 30
    assert "glue_qqp" not in [one.task for one in found.nearest]
    moved = tuple(
        cell._replace(tuned=0.0, lift=-0.1) if cell.task == "glue_qqp" else cell
        for cell in study.cells
    )
    other = replace(study, cells=moved)
    again = foretell(other, learn(other, without="glue_qqp"), traits, base="phi-2")
    assert again.expected == found.expected


def test_with_a_good_base_less_lift_is_expected(study: Study) -> None:
    learned, traits = learn(study, with_base_score=True), Traits(150, 5000, 2, 8)
    lifts = []
    for base_score in (0.1, 0.6):
        [one] = foretell(study, learned, traits, "mistral-7b", base_score).expected
        assert 0 <= one.score_low <= one.score <= one.score_high <= 1
        assert -1 <= one.lift_low <= one.lift <= one.lift_high <= 1
        assert one.lift == pytest.approx(one.score - base_score)
        assert one.lift_low == pytest.approx(one.score_low - base_score)
        lifts.append(one.lift)
    assert lifts[0] > lifts[1] + 0.2


def test_all_bases_are_foretold_where_none_is_named(study: Study, blind: Learned) -> None:
    found = foretell(study, blind, Traits(150, 5000, 2, 8)).expected
    assert {one.base for one in found} == study.bases.keys()
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_bases_outside_the_report_are_refused(study: Study, blind: Learned) -> None:
    traits = Traits(150, 5000, 2, 8)
    with pytest.raises(UnknownBase, match="none of the report's bases"):
        foretell(study, blind, traits, base="smollm2-135m")
    with pytest.raises(InvalidConfiguration, match="--base"):
        foretell(study, blind, traits, base_score=0.5)
    with pytest.raises(InvalidConfiguration, match="0 to 1"):
        foretell(study, blind, traits, base="phi-2", base_score=50)
    with pytest.raises(ValueError, match="none was learned from"):
        foretell(study, blind, traits, base="phi-2", base_score=0.5)


def test_what_no_task_of_the_report_covers_is_said(study: Study, blind: Learned) -> None:
    assert foretell(study, blind, Traits(150, 5000, 2, 8), "phi-2").beyond == []
    few = foretell(study, blind, Traits(150, 40, 2, 8), "phi-2")
    assert few.beyond == ["log train examples"]


def test_the_nearest_task_to_a_copy_is_the_original(study: Study) -> None:
    known = published_traits(study)
    found = nearest(study, known["drop"], known)
    assert (found[0].task, found[0].distance) == ("drop", 0)
    assert found[0].distance <= found[1].distance <= found[2].distance
    assert found[0].best == 0.741


def test_the_prediction_table_of_the_report_s_tasks(study: Study) -> None:
    found = {(one.known, one.with_base_score): one for one in assess(study)}
    assert len(found) == 5
    traits = [one for one in found.values() if one.known.startswith("4 traits")]
    for one in traits:
        assert (one.score.tasks, one.score.cells) == (31, 310)
        assert one.score.mean_rmse == pytest.approx(traits[0].score.mean_rmse)
        assert one.score.r2_low < one.score.r2 < one.score.r2_high
        assert one.score.rmse == pytest.approx(one.lift.rmse, rel=0.2)
    alone = found["the base's score alone", True]
    assert alone.score.r2 > 0.1
    for one in found.values():
        if one.with_base_score:  # the lift then is the score less what is known
            assert one.lift.rmse == pytest.approx(one.score.rmse)
    fifteen = [one for one in found.values() if one.score.tasks == 15]
    assert len(fifteen) == 2
