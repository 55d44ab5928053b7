from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import EndpointGarbled, LoraLandError
from loraland.evaluation.endpoint_budget import Usage
from loraland.evaluation.endpoint_replies import (
    LONGEST_PAUSE_S,
    LONGEST_WAIT_S,
    cleaner,
    pause_s,
    read_reply,
    retry_after_s,
    trouble_of,
)
from tests.evaluation.crooked import KEY, reply

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
CLEAN = cleaner(KEY)
Api = Literal["chat", "completions"]


def read(value: Any, api: Api = "chat") -> Any:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_reply(api, content, CLEAN)


def test_an_answer_is_read_with_who_gave_it() -> None:
    found = read(reply(" yes\n", system_fingerprint="fp_1"))
    assert found.text == " yes\n"
    assert (found.model, found.system_fingerprint) == ("gpt-x-2026-01-31", "fp_1")
    assert (found.created, found.usage) == (1_760_000_000, Usage(7, 2))
    assert read(reply("yes", "completions"), "completions").text == "yes"


def test_an_answer_without_usage_or_text_is_one() -> None:
    assert read(reply("yes", tokens=None)).usage is None
    assert read(reply(None, finish="length")).text == ""
    assert read(reply("yes", usage={"prompt_tokens": 3, "completion_tokens": None})).usage is None


def test_refusals_are_told_apart_from_answers() -> None:
    assert "content filter" in read(reply("par", finish="content_filter")).refusal
    refused = {"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"}
    assert read(reply("x") | {"choices": [refused]}).refusal == "I will not."


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>Bad gateway</html>",
        b"\xff\xfe\x00",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"choices": []}',
        b"{}",
        b'{"choices": null}',
        b'{"choices": [null]}',
        b'{"choices": {"0": {}}}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": ["a"]}}]}',
        b'{"choices": [{"message": {"content": "a"}, "finish_reason": 1}]}',
        b'{"choices": [{"message": {"content": "a"}}], "model": 4}',
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": -1}}',
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "1"}}',
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1e99}}',
        b'{"choices": [{"message": {"content": "a"}}], "x": NaN}',
        json.dumps(reply("yes", "completions")).encode(),  # of the other API
    ],
)
def test_garbage_is_no_answer(garbage: bytes) -> None:
    with pytest.raises(EndpointGarbled):
        read(garbage)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_garbage(content: bytes) -> None:
    with pytest.raises(EndpointGarbled):
        read(content)
    assert isinstance(trouble_of(500, {}, content, CLEAN, NOW).error, LoraLandError)


def test_what_is_kept_of_an_answer_can_be_written_and_holds_no_key() -> None:
    found = read(reply(f"a\ud800b {KEY}", model=f"m {KEY}\x1b[31m", system_fingerprint=KEY))
    assert found.text == "a\ufffdb ***"
    assert found.model == "m *** [31m"
    assert KEY not in repr(found)
    assert read(reply("\U0001f600")).text == "\U0001f600"


@pytest.mark.parametrize(
    ("status", "code", "message", "verdict"),
    [
        (429, None, "slow down", "again"),
        (429, "insufficient_quota", "pay first", "stop"),
        (500, None, "", "again"),
        (503, None, "", "again"),
        (529, None, "", "again"),
        (408, None, "", "again"),
        (400, "context_length_exceeded", "", "item"),
        (400, None, "This model's maximum context length is 4096 tokens", "item"),
        (413, None, "", "item"),
        (400, "content_filter", "", "item"),
        (400, None, "triggering Azure OpenAI's content management policy", "item"),
        (400, "unsupported_parameter", "use max_completion_tokens", "doubt"),
        (422, None, "", "doubt"),
        (401, "invalid_api_key", "", "stop"),
        (403, None, "", "stop"),
        (404, "model_not_found", "", "stop"),
        (302, None, "", "stop"),
    ],
)
def test_a_status_says_whose_trouble_it_is(
    status: int, code: str | None, message: str, verdict: str
) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    found = trouble_of(status, {}, body, CLEAN, NOW)
    assert found.verdict == verdict
    assert not found.may_be_charged
    assert str(status) in found.error.message and message in found.error.message


def test_an_error_s_words_hold_no_key_and_nothing_for_a_terminal() -> None:
    body = json.dumps({"error": {"message": f"wrong key {KEY}\x1b[2J\n" + "x" * 9999}}).encode()
    told = trouble_of(401, {}, body, CLEAN, NOW).error.message
    assert KEY not in told and told.isprintable() and len(told) < 400
    assert trouble_of(500, {}, json.dumps({"error": [KEY]}).encode(), CLEAN, NOW).error.message


def test_a_wait_is_read_in_all_its_forms() -> None:
    assert retry_after_s({"retry-after": "7"}, NOW) == 7
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "7"}, NOW) == 0.25
    date = format_datetime(NOW + timedelta(seconds=30), usegmt=True)
    assert retry_after_s({"retry-after": date}, NOW) == 30
    past = format_datetime(NOW - timedelta(days=1), usegmt=True)
    assert retry_after_s({"retry-after": past}, NOW) == 0
    for unread in ("", "soon", "nan", "inf", "-inf"):
        assert retry_after_s({"retry-after": unread}, NOW) is None
    assert retry_after_s({}, NOW) is None


jitters = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 20), jitters)
def test_pauses_grow_and_are_bounded(failed: int, jitter: float) -> None:
    pause, first = pause_s(failed, None, jitter), pause_s(1, None, jitter)
    assert pause is not None and first is not None
    assert 0.5 <= first <= pause <= LONGEST_PAUSE_S


@given(st.integers(1, 20), st.floats(0, 10_000), jitters)
def test_nobody_is_asked_again_before_they_want_it(
    failed: int, asked_s: float, jitter: float
) -> None:
    pause = pause_s(failed, asked_s, jitter)
    assert pause is None if asked_s > LONGEST_WAIT_S else pause is not None and pause >= asked_s
