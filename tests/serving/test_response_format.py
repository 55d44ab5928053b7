"""Fields that constrain an answer become one grammar, or are refused by name."""

from __future__ import annotations

import json

import pytest

from loraland.engine.constraints import Grammar
from loraland.serving.bodies import BadParameter, read_body
from loraland.serving.openai_api import ChatRequest, CompletionRequest
from loraland.serving.response_format import MOST_NESTED

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}


@pytest.fixture(params=["completion", "chat"])
def read(request):
    """Both endpoints take the same fields."""

    def completion(**fields):
        body = {"model": "m", "prompt": "hi"} | fields
        return read_body(CompletionRequest, json.dumps(body).encode())

    def chat(**fields):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
        return read_body(ChatRequest, json.dumps(body).encode())

    return completion if request.param == "completion" else chat


def wrapped(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema} | more}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "guided_json": None}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_object")),
        ({"response_format": wrapped(SCHEMA)}, Grammar("json_schema", json.dumps(SCHEMA))),
        (
            {"response_format": wrapped(SCHEMA, strict=True, description="d")},
            Grammar("json_schema", json.dumps(SCHEMA)),
        ),
        ({"guided_json": SCHEMA}, Grammar("json_schema", json.dumps(SCHEMA))),
        ({"guided_json": "{}"}, Grammar("json_schema", "{}")),
        ({"guided_regex": "a+"}, Grammar("regex", "a+")),
        ({"guided_choice": ["a", "é"]}, Grammar("choice", json.dumps(["a", "é"]))),
        (
            {"response_format": {"type": "text"}, "guided_regex": "a"},
            Grammar("regex", "a"),
        ),
    ],
)
def test_every_way_to_ask_for_a_form_becomes_one_grammar(read, fields, grammar):
    assert read(**fields).grammar == grammar


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": wrapped([])}, "response_format"),
        ({"response_format": wrapped(SCHEMA, other=1)}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "response_format"),
        ({"guided_json": []}, "guided_json"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": ["a"]}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_choice": ["a", 5]}, "guided_choice"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice"),
        ({"response_format": {"type": "json_object"}, "guided_json": SCHEMA}, "guided_json"),
    ],
)
def test_any_other_is_refused_by_name(read, fields, param):
    with pytest.raises(BadParameter) as caught:
        read(**fields)
    assert str(caught.value.param).split(".")[0] == param
    assert caught.value.status == 400


def test_two_constraints_are_refused_naming_both(read):
    with pytest.raises(BadParameter, match="guided_choice: guided_regex constrains the answer"):
        read(guided_choice=["a"], guided_regex="a")


@pytest.mark.parametrize("levels", [MOST_NESTED + 1, 400])
def test_a_schema_that_is_nested_too_deeply_is_refused_before_it_is_copied(read, levels):
    deep = {}
    for _ in range(levels):
        deep = {"not": [deep]}
    for fields in ({"guided_json": deep}, {"response_format": wrapped(deep)}):
        with pytest.raises(BadParameter, match="levels deep"):
            read(**fields)
