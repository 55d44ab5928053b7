"""Cards: what they hold, what they refuse, and their text."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loraland.adapters.card import Card, CurvePoint, utc_now
from loraland.adapters.names import ModelName

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_card_is_read_back_from_its_text(make_card, make_score):
    card = make_card().with_score(make_score())
    assert Card.from_json(card.to_json()) == card
    assert Card.from_json(card.to_json()).to_json() == card.to_json()
    assert card.name == ModelName("tiny-llama", "topics", version="0" * 12)


@given(loss=finite, seconds=st.floats(0, 1e9), step=st.integers(0, 2**53))
def test_any_finite_number_survives_the_text(loss, seconds, step):
    point = CurvePoint(
        step=step,
        tokens=1,
        train_loss=loss,
        validation_loss=None,
        learning_rate=0.1,
        seconds=seconds,
    )
    assert CurvePoint.model_validate_json(point.model_dump_json()) == point


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(make_card, make_score, number):
    for make, changes in (
        (make_score, {"high": number}),
        (make_score, {"lift": number}),
        (make_card, {"recipe": {"rate": number}}),
        (make_card, {"recipe": {"deep": [{"rate": number}]}}),
    ):
        with pytest.raises(ValidationError):
            make(**changes)
    with pytest.raises(ValidationError):
        CurvePoint(
            step=1, tokens=1, train_loss=number, validation_loss=None, learning_rate=0, seconds=0
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"format": 2},
        {"precision": "int4"},
        {"base": "../x"},
        {"task": "A"},
        {"version": "latest"},
        {"created": "2026-01-31T12:00:00"},
        {"created": "2026-01-31T12:00:00+02:00"},
        {"created": "yesterday"},
        {"recipe": {"targets": {"q_proj"}}},
        {"base_fingerprint": ""},
        {"best_step": -1},
    ],
)
def test_wrong_fields_are_refused(make_card, changes):
    with pytest.raises(ValidationError):
        make_card(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"low": 0.99, "high": 0.8}, "low 0.99 is above high 0.8"),
        ({"base_low": 0.9}, "base_low"),
        ({"lift_low": 0.9}, "lift_low"),
        ({"lift": 0.1}, "is not mean"),
        ({"items": 0}, "greater than 0"),
        ({"unparsable": 101}, "more unparsable answers than items"),
        ({"confidence": 95}, "less than 1"),
    ],
)
def test_scores_that_contradict_themselves_are_refused(make_score, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        make_score(**changes)


def test_canary_wants_lists_of_one_length(make_card):
    canary = make_card().canary
    with pytest.raises(ValidationError, match="differ in length"):
        type(canary)(**{**canary.model_dump(), "logits": [1.0]})


def test_card_cannot_be_changed_in_place(make_card):
    with pytest.raises(ValidationError, match="frozen"):
        make_card().seed = 3


def test_recipe_becomes_plain_json(make_card):
    recipe = {"betas": (0.9, 0.999)}
    card = make_card(recipe=recipe)
    recipe["betas"] = (0, 0)
    assert card.recipe == {"betas": [0.9, 0.999]}


def test_new_score_takes_the_place_of_the_one_it_repeats(make_card, make_score):
    first, other, again = make_score(0.8), make_score(0.7, data_source="hub"), make_score(0.9)
    card = make_card().with_score(first).with_score(other)
    assert card.with_score(again).scores == [other, again]
    assert card.scores == [first, other]


def test_all_faults_of_a_file_are_told_at_once(make_card):
    values = json.loads(make_card().to_json())
    del values["seed"]
    values["precision"] = "int4"
    values["data"]["train_rows"] = 0
    with pytest.raises(ValueError) as caught:
        Card.from_json(json.dumps(values).encode())
    for fault in ("precision: Input", "data.train_rows: Input", "seed: Field required"):
        assert fault in str(caught.value)
    assert "pydantic.dev" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_text_that_is_no_card_is_a_value_error(content):
    with pytest.raises(ValueError):
        Card.from_json(content)


def test_present_moment_is_in_the_form_of_cards(make_card):
    assert make_card(created=utc_now()).created.endswith("+00:00")
