"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.serving.logprobs import chat_logprobs, completion_logprobs, shown


def score(token, logprob, offset, *top):
    return {"token": token, "logprob": logprob, "offset": offset, "top": list(top)}


SCORES = [
    score(b"a", -0.5, 0, (b"b", -0.25), (b"a", -0.5)),
    score(b"\xc3", -1.0, 1, (b"\xa9", -0.75)),
]


def test_a_completion_tells_lists_of_one_length():
    assert completion_logprobs(SCORES).model_dump() == {
        "tokens": ["a", "bytes:\\xc3"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [
            {"b": -0.25, "a": -0.5},
            {"bytes:\\xa9": -0.75, "bytes:\\xc3": -1.0},
        ],
        "text_offset": [0, 1],
    }


def test_a_chat_tells_one_record_per_token():
    content = chat_logprobs(SCORES).model_dump()["content"]
    assert content[1] == {
        "token": "bytes:\\xc3",
        "logprob": -1.0,
        "bytes": [0xC3],
        "top_logprobs": [{"token": "bytes:\\xa9", "logprob": -0.75, "bytes": [0xA9]}],
    }
    assert [record["token"] for record in content] == ["a", "bytes:\\xc3"]


@pytest.mark.parametrize("shape", [completion_logprobs, chat_logprobs])
def test_none_were_asked_for_and_none_came_are_told_apart(shape):
    assert shape(None) is None
    assert all(not value for value in shape([]).model_dump().values())


def test_of_two_tokens_that_read_the_same_the_likelier_is_told():
    scores = [score(b"</s>", -3.0, 0, (b"</s>", -1.0))]
    assert completion_logprobs(scores).top_logprobs == [{"</s>": -1.0}]


@given(st.text())
def test_whole_characters_are_shown_as_they_are(text):
    assert shown(text.encode("utf-8", "ignore")) == text.encode("utf-8", "ignore").decode()
