"""The HTTP side over a service that plays a script.

Shapes, statuses, streams, clients that leave.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.testclient import TestClient

from loraland.adapters.names import ModelName
from loraland.engine.constraints import Grammar
from loraland.errors import (
    ConstraintFailed,
    ContextTooLong,
    EngineBusy,
    EngineFailed,
    EngineStopped,
    UnknownModel,
)
from loraland.serving.access.gate import Access
from loraland.serving.config import Limits
from loraland.serving.routes import MODEL_HEADER, create_app

VERSION = "tiny/dates@0123456789ab"


class Names:
    """A directory that knows one base and one adapter."""

    bases = ("tiny",)

    async def resolve(self, name):
        known = {"tiny": "tiny", "tiny/dates": VERSION, VERSION: VERSION}
        if name not in known:
            raise UnknownModel(f"no model is called '{name}'; did you mean 'tiny'?")
        return ModelName.parse(known[name])

    async def entries(self):
        return []


class Script:
    """A service whose answers are given."""

    def __init__(self, parts=(), error=None, limits=None):
        self.directory, self.limits = Names(), limits or Limits()
        self.parts, self.error = parts, error
        self.orders, self.closed = [], asyncio.Event()

    async def complete(self, order):
        self.orders.append(order)
        try:
            for part in self.parts:
                await asyncio.sleep(0)
                yield part
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


def end(choice, reason="stop", prompt=3, generated=2):
    return {
        "choice": choice,
        "finish_reason": reason,
        "prompt_tokens": prompt,
        "generated_tokens": generated,
    }


def text(choice, words):
    return {"choice": choice, "text": words}


def app_of(service):
    """The application without keys."""
    return create_app(service, Access(service.limits))


ONE = [text(0, "a"), text(0, "b"), end(0)]


def post(service, path="/v1/completions", **body):
    if path == "/v1/completions":
        body = {"model": "tiny/dates", "prompt": "hi"} | body
    else:
        body = {"model": "tiny/dates", "messages": [{"role": "user", "content": "hi"}]} | body
    client = TestClient(app_of(service), raise_server_exceptions=False)
    return client.post(path, json=body)


def test_a_completion_names_the_version_that_produced_it():
    answer = post(Script(ONE))
    assert answer.status_code == 200
    assert answer.headers[MODEL_HEADER] == VERSION
    body = answer.json()
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "object": "text_completion",
        "model": VERSION,
        "choices": [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_a_chat_answer_has_a_message():
    body = post(Script(ONE), "/v1/chat/completions").json()
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "ab"}
    assert choice["finish_reason"] == "stop"


def test_choices_that_arrive_mixed_are_sorted_and_each_prompt_is_counted_once():
    parts = [text(2, "c"), text(0, "a"), end(2, "length"), text(1, "b"), end(1), end(0), end(3)]
    body = post(Script(parts), prompt=["x", "y"], n=2).json()
    assert [choice["text"] for choice in body["choices"]] == ["a", "b", "c", ""]
    assert [choice["finish_reason"] for choice in body["choices"]] == [
        "stop", "stop", "length", "stop",
    ]  # fmt: skip
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}


def test_a_stream_is_one_event_per_part_then_done(read_events):
    answer = post(Script(ONE), stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers[MODEL_HEADER] == VERSION
    *events, last = read_events(answer.text)
    assert last == "[DONE]"
    assert [event["choices"][0]["text"] for event in events] == ["a", "b", ""]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "stop"]
    assert {event["model"] for event in events} == {VERSION}
    assert len({event["id"] for event in events}) == 1


def test_a_streamed_chat_names_the_role_once_per_choice_and_ends_with_the_usage(read_events):
    parts = [text(0, "a"), text(1, "b"), text(0, "c"), end(0), end(1)]
    answer = post(
        Script(parts),
        "/v1/chat/completions",
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    *events, usage, last = read_events(answer.text)
    assert last == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in events]
    assert [delta["role"] for delta in deltas] == ["assistant", "assistant", None, None, None]
    assert [delta["content"] for delta in deltas] == ["a", "b", "c", None, None]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_defaults_and_wishes_reach_the_order():
    service = Script(ONE)
    post(service)
    post(service, "/v1/chat/completions")
    wishes = {"temperature": 0, "top_p": 0.5, "top_k": 3, "seed": 7, "stop": "x", "max_tokens": 9}
    post(service, **wishes)
    plain, chat, wished = service.orders
    assert (plain.temperature, plain.top_p, plain.top_k, plain.n) == (1.0, 1.0, 0, 1)
    assert (plain.max_new_tokens, chat.max_new_tokens) == (16, None)
    assert chat.prompts == (({"role": "user", "content": "hi"},),)
    assert (wished.temperature, wished.top_p, wished.top_k, wished.seed) == (0, 0.5, 3, 7)
    assert (wished.stop, wished.max_new_tokens) == (("x",), 9)
    assert len({plain.id, chat.id, wished.id}) == 3


def test_neutral_wishes_ask_for_nothing_and_others_reach_the_order():
    service = Script(ONE)
    penalties = {"repetition_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": -0.5}
    post(service)
    post(service, min_p=0, repetition_penalty=1, presence_penalty=0, frequency_penalty=0)
    post(service, min_p=0.1, **penalties, logprobs=3, guided_regex="a+")
    post(service, "/v1/chat/completions", logprobs=True, response_format={"type": "json_object"})
    plain, neutral, wished, chat = (dataclasses.replace(order, id="") for order in service.orders)
    assert plain == neutral
    assert (plain.logprobs, plain.grammar) == (None, None)
    assert wished.min_p == 0.1
    assert {name: getattr(wished, name) for name in penalties} == penalties
    assert (wished.logprobs, wished.grammar) == (3, Grammar("regex", "a+"))
    assert (chat.logprobs, chat.grammar) == (0, Grammar("json_object"))


def scored(choice, words, *tokens):
    scores = [
        {"token": token, "logprob": -0.5, "offset": offset, "top": [(b"x", -0.25)]}
        for token, offset in tokens
    ]
    return {"choice": choice, "text": words, "tokens": scores}


SCORED = [
    scored(0, "a", (b"a", 0)),
    text(0, "b"),
    scored(0, "é", (b"\xc3", 2), (b"\xa9", 2)),
    end(0),
]


def test_a_completion_tells_the_logprobs_of_all_its_tokens():
    (choice,) = post(Script(SCORED), logprobs=1).json()["choices"]
    assert choice["text"] == "abé"
    assert choice["logprobs"] == {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [
            {"x": -0.25, token: -0.5} for token in ("a", "bytes:\\xc3", "bytes:\\xa9")
        ],
        "text_offset": [0, 2, 2],
    }


def test_a_chat_tells_the_logprobs_of_all_its_tokens():
    answer = post(Script(SCORED), "/v1/chat/completions", logprobs=True, top_logprobs=1).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert [record["bytes"] for record in content] == [[97], [0xC3], [0xA9]]
    assert content[0]["top_logprobs"] == [{"token": "x", "logprob": -0.25, "bytes": [120]}]


def test_answers_with_logprobs_are_what_the_official_client_expects(read_events):
    Completion.model_validate(post(Script(SCORED), logprobs=1).json(), strict=True)
    path, wish = "/v1/chat/completions", {"logprobs": True, "top_logprobs": 1}
    ChatCompletion.model_validate(post(Script(SCORED), path, **wish).json(), strict=True)
    *events, _ = read_events(post(Script(SCORED), path, stream=True, **wish).text)
    for event in events:
        ChatCompletionChunk.model_validate(event, strict=True)


def test_an_empty_answer_has_empty_logprobs_where_they_were_asked_for():
    (choice,) = post(Script([end(0)]), logprobs=1).json()["choices"]
    assert choice["logprobs"]["tokens"] == []
    (choice,) = post(Script([end(0)])).json()["choices"]
    assert choice["logprobs"] is None


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_tells_logprobs_with_the_text_they_belong_to(read_events, path):
    wish = {"logprobs": 1} if path == "/v1/completions" else {"logprobs": True, "top_logprobs": 1}
    *events, _ = read_events(post(Script(SCORED), path, stream=True, **wish).text)
    told = [event["choices"][0]["logprobs"] for event in events]
    key = "tokens" if path == "/v1/completions" else "content"
    assert [len(logprobs[key]) if logprobs else None for logprobs in told] == [1, None, 2, None]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (ContextTooLong("too long"), 400, None),
        (EngineBusy("busy: retry after a second"), 429, "1"),
        (EngineStopped("stopped"), 503, "1"),
        (EngineFailed("failed"), 500, None),
        (ConstraintFailed("no way on"), 422, None),
    ],
)
def test_an_order_that_is_refused_has_the_status_of_its_error(error, status, retry, stream):
    answer = post(Script(error=error), stream=stream)
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == retry
    assert answer.json()["error"]["message"] == error.message
    assert answer.json()["error"]["code"] == error.code


def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(read_events):
    answer = post(Script([text(0, "a")], EngineFailed("broken")), stream=True)
    assert answer.status_code == 200
    first, last = read_events(answer.text)
    assert first["choices"][0]["text"] == "a"
    assert last["error"]["message"] == "broken"


def test_a_failure_in_the_middle_of_a_whole_answer_is_an_error():
    answer = post(Script([text(0, "a")], EngineFailed("broken")))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")


def test_an_unknown_model_is_404_and_a_bad_parameter_400_before_any_order():
    service = Script(ONE)
    unknown = post(service, model="tony")
    assert unknown.status_code == 404
    assert "did you mean 'tiny'" in unknown.json()["error"]["message"]
    bad = post(service, temperature=9)
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "temperature")
    assert post(service, n=9).status_code == 400
    assert service.orders == []


def test_a_body_beyond_the_limit_is_refused():
    answer = post(Script(ONE, limits=Limits(body_bytes=100)), prompt="x" * 200)
    assert answer.status_code == 400
    assert "larger than 100 bytes" in answer.json()["error"]["message"]


def test_a_surprise_tells_the_client_nothing_of_the_inside(caplog):
    with caplog.at_level(logging.ERROR):
        answer = post(Script(error=RuntimeError("secret path")))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    assert "unexpectedly" in caplog.text


def test_prompts_and_answers_are_not_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        post(Script([text(0, "answer-words"), end(0)]), prompt="prompt-words", temperature=0)
        post(Script(), prompt="prompt-words", temperature=9)
        post(Script(error=EngineFailed("broken")), prompt="prompt-words")
    assert "-words" not in caplog.text


def test_other_addresses_have_errors_of_the_same_shape():
    client = TestClient(app_of(Script()))
    assert client.get("/v2/nothing").json()["error"]["code"] == "not_found"
    wrong = client.get("/v1/completions")
    assert wrong.status_code == 405
    assert "GET /v1/completions" in wrong.json()["error"]["message"]
    assert client.get("/health").json()["status"] == "ok"


def test_bases_are_listed_and_found_by_name():
    client = TestClient(app_of(Script()))
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.get("/v1/models/tiny").json()["object"] == "model"
    assert client.get("/v1/models/tiny/dates").status_code == 404
    assert client.get("/v1/models/nobody").status_code == 404


def test_the_documentation_shows_every_parameter():
    schema = TestClient(app_of(Script())).get("/openapi.json").json()
    body = schema["paths"]["/v1/completions"]["post"]["requestBody"]
    place = body["content"]["application/json"]["schema"]["$ref"]
    assert place == "#/components/schemas/CompletionRequest"
    told = schema["components"]["schemas"]["CompletionRequest"]["properties"]
    assert "top_k" in told
    assert told["suffix"]["enum"] == [None, ""]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_order(stream):
    async def run():
        service = Script(text(0, "a") for _ in iter(int, 1))  # an answer without an end
        body = {"model": "tiny", "prompt": "hi", "stream": stream}
        incoming = [{"type": "http.request", "body": json.dumps(body).encode()}]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST",
            "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"",
            "headers": [], "scheme": "http", "http_version": "1.1", "server": ("test", 80),
        }  # fmt: skip

        async def receive():
            if incoming:
                return incoming.pop()
            while not service.orders:
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message):
            await asyncio.sleep(0)

        await asyncio.wait_for(app_of(service)(scope, receive, send), 30)
        await asyncio.wait_for(service.closed.wait(), 30)

    asyncio.run(run())
