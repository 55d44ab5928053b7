"""Answers that may or must call a tool: whatever is chosen, a call matches its schema."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraland.engine.constraints import CALL_MARK, ConstraintCompiler, Grammar
from loraland.engine.vocabulary import Vocabulary
from loraland.errors import InvalidRequest
from tests.engine.test_constraints import STOP, fits, merged_tokenizer, walk

SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"name": {"const": "say"}, "arguments": {"$ref": "#/$defs/tool0"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
    ],
    "$defs": {
        "tool0": {
            "type": "object",
            "properties": {"word": {"$ref": "#/$defs/tool0/$defs/Word"}},
            "required": ["word"],
            "additionalProperties": False,
            "$defs": {"Word": {"enum": ["yes", "no"]}},
        }
    },
}
MUST, MAY = (Grammar(kind, json.dumps(SCHEMA)) for kind in ("call", "text_or_call"))
SAY = '{"name": "say", "arguments": {"word": "no"}}'


@pytest.fixture(scope="module")
def tokenizer():
    return merged_tokenizer()


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary(tokenizer, {STOP})


@pytest.fixture(scope="module")
def compiler(vocabulary):
    return ConstraintCompiler(vocabulary)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_an_answer_that_must_call_is_a_call_of_its_schema(compiler, vocabulary, seed):
    text, ended = walk(compiler.compile(MUST), vocabulary, seed)
    assert ended
    called = json.loads(text.removeprefix(CALL_MARK))
    assert called["name"] == "say"
    assert called["arguments"]["word"] in ("yes", "no")
    assert len(text) < 80  # no room for blanks without end


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Just text, {even} <tool> like this.",
        f"{CALL_MARK}{SAY}",
        f"Let me see.\n{CALL_MARK}\n{SAY}",
        f"{CALL_MARK[:-1]} is no mark",
    ],
)
def test_an_answer_that_may_call_is_text_or_a_call_or_text_and_a_call(compiler, tokenizer, text):
    assert fits(compiler.compile(MAY), tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        f"{CALL_MARK}nothing",
        f"{CALL_MARK}{SAY} and more",
        f"text {CALL_MARK}{SAY.replace('no', 'perhaps')}",
        f"{CALL_MARK}{SAY.replace('say', 'shout')}",
    ],
)
def test_after_the_mark_nothing_but_a_call_is_allowed(compiler, tokenizer, text):
    assert not fits(compiler.compile(MAY), tokenizer, text)


def test_text_alone_is_no_answer_where_a_call_must_come(compiler, tokenizer):
    assert not fits(compiler.compile(MUST), tokenizer, "text")
    assert not fits(compiler.compile(MUST), tokenizer, "")


@pytest.mark.parametrize("kind", ["call", "text_or_call"])
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(compiler, kind):
    schema = {"anyOf": [{"$ref": "#/$defs/missing"}]}
    with pytest.raises(InvalidRequest, match="JSON schema cannot be used"):
        compiler.compile(Grammar(kind, json.dumps(schema)))
