"""Tools of a chat: what may be asked, the schema of a call, and answers taken apart again."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.serving.bodies import BadParameter, read_body
from loraland.serving.openai_api import ChatRequest
from loraland.serving.tools import CallReader

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}, "default": {"enum": [{"$ref": "#"}]}},
            "required": ["city"],
            "$defs": {"City": {"type": "string"}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
OF_A_LIST = {"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}
ASKED = {"role": "user", "content": "Rain?"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Bonn"}'},
}


def chat(*messages, **fields):
    body = {"model": "m", "messages": messages or [ASKED], "tools": [WEATHER, CLOCK]} | fields
    return read_body(ChatRequest, json.dumps(body).encode())


def refusal(*messages, **fields):
    with pytest.raises(BadParameter) as caught:
        chat(*messages, **fields)
    return caught.value.message


@pytest.mark.parametrize(
    ("choice", "kind", "names"),
    [
        (None, "text_or_call", ["weather", "clock"]),
        ("auto", "text_or_call", ["weather", "clock"]),
        ("required", "call", ["weather", "clock"]),
        ({"type": "function", "function": {"name": "clock"}}, "call", ["clock"]),
    ],
)
def test_the_choice_says_which_tools_an_answer_may_call(choice, kind, names):
    asked = chat(tool_choice=choice)
    assert asked.grammar is not None
    assert asked.grammar.kind == kind
    calls = json.loads(asked.grammar.text)["anyOf"]
    assert [call["properties"]["name"]["const"] for call in calls] == names
    assert asked.may_call
    assert [tool["function"]["name"] for tool in asked.shown_tools] == ["weather", "clock"]


def test_no_tools_are_shown_or_called_where_none_is_the_choice():
    for asked in (chat(tool_choice="none"), chat(tools=[]), chat(tools=None)):
        assert (asked.grammar, asked.may_call, asked.shown_tools) == (None, False, ())


def test_references_in_a_schema_hold_where_it_has_moved_and_data_stays():
    assert chat().grammar is not None
    document = json.loads(chat().grammar.text)
    assert document["anyOf"][0]["properties"]["arguments"] == {"$ref": "#/$defs/tool0"}
    moved = document["$defs"]["tool0"]
    assert moved["properties"]["city"] == {"$ref": "#/$defs/tool0/$defs/City"}
    assert moved["properties"]["default"] == {"enum": [{"$ref": "#"}]}
    assert "$schema" not in moved
    assert document["$defs"]["tool1"] == {
        "type": "object", "properties": {}, "additionalProperties": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [CLOCK, CLOCK]}, "tools: are named twice: clock"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice: asks for a call"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "moon"}}},
            "tool_choice: is none of the tools; possible: weather, clock",
        ),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [OF_A_LIST]}, "must be the schema of an object"),
        ({"tools": [CLOCK] * 129}, "tools"),
        ({"response_format": {"type": "json_object"}}, "constrains the answer already"),
        ({"guided_regex": "a"}, "constrains the answer already"),
        ({"functions": [{}]}, "functions: is not served yet"),
    ],
)  # fmt: skip
def test_tools_that_make_no_sense_are_refused(fields, words):
    assert words in refusal(**fields)


def test_tools_and_a_format_go_together_where_no_tool_may_be_called():
    asked = chat(tool_choice="none", response_format={"type": "json_object"})
    assert asked.grammar is not None
    assert asked.grammar.kind == "json_object"


def test_earlier_calls_and_their_results_reach_the_prompt():
    made = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    (prompt,) = chat(ASKED, made, result).prompts
    assert prompt == (
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Bonn"}},
                }
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    )


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "assistant", "content": None}, "messages.1: has no content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "only an assistant"),
        ({"role": "tool", "content": "x"}, "needs a tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "call_1"}, "needs a tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": "call_9"}, "answers a call that no"),
        ({"role": "user", "content": "x", "name": "Ann"}, "messages.1.name"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "messages.1.refusal"),
        (
            {
                "role": "assistant",
                "tool_calls": [CALL | {"function": {"name": "a", "arguments": "[]"}}],
            },
            "must be a JSON object, as text",
        ),
    ],
)
def test_messages_that_make_no_sense_are_refused(message, words):
    assert words in refusal(ASKED, message)


def heard(text, cuts=()):
    """What a reader tells of a text that comes in pieces: content, name, arguments."""
    reader = CallReader()
    places = [0, *sorted(cuts), len(text)]
    pieces = [reader.push(text[a:b]) for a, b in pairwise(places)]
    content = "".join(piece.content for piece in pieces) + reader.flush()
    names = [piece.call for piece in pieces if piece.call is not None]
    return content, names, "".join(piece.arguments for piece in pieces), reader.complete


WHOLE = [
    ("just text", ("just text", [], "", False)),
    ("", ("", [], "", False)),
    ("  ", ("  ", [], "", False)),
    ("a <tool", ("a <tool", [], "", False)),
    ("a < b <tool_callx", ("a < b <tool_callx", [], "", False)),
    ('<tool_call>{"name": "f", "arguments": {}}', ("", ["f"], "{}", True)),
    ('\n<tool_call>{"name": "f", "arguments": {}}', ("", ["f"], "{}", True)),
    (
        'See: <tool_call>\n{ "name" :"f","arguments": { "a": {"b": "}\\"{"}, "c": [1]} }',
        ("See: ", ["f"], '{ "a": {"b": "}\\"{"}, "c": [1]}', True),
    ),
    ('<tool_call>{"name": "f", "arguments": {"a": "\\\\"}}', ("", ["f"], '{"a": "\\\\"}', True)),
    ('<tool_call>{"name": "f", "arguments": {"a": "}', ("", ["f"], '{"a": "}', False)),
    ('<tool_call>{"name": "f"', ("", [], "", False)),
]


@pytest.mark.parametrize(("text", "expected"), WHOLE)
def test_an_answer_is_taken_apart(text, expected):
    assert heard(text) == expected


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 80), max_size=12))
def test_pieces_of_an_answer_tell_what_the_whole_tells(sample, cuts):
    text, expected = sample
    content, names, arguments, complete = heard(text, [min(cut, len(text)) for cut in cuts])
    assert (content, names, arguments.strip(), complete) == expected
