"""One prompt for several models, over a service that plays scripts: batches, errors, leaving."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest
from starlette.testclient import TestClient

from loraland.adapters.names import ModelName
from loraland.errors import EngineBusy, EngineFailed, UnknownModel
from loraland.serving.access.gate import Access
from loraland.serving.bodies import BadParameter, read_body
from loraland.serving.compare import compared
from loraland.serving.compare_api import ANSWER_TOKENS, ColumnEnd, ColumnPiece, CompareRequest
from loraland.serving.config import Limits
from loraland.serving.orders import Order
from loraland.serving.routes import create_app

VERSION = "tiny/dates@0123456789ab"
KNOWN = {"tiny": "tiny", "tiny/dates": VERSION, "other": "other"}


class Names:
    bases = ("tiny", "other")

    async def resolve(self, name):
        if name not in KNOWN:
            raise UnknownModel(f"no model is called '{name}'")
        return ModelName.parse(KNOWN[name])


def end(tokens=2):
    return {
        "choice": 0, "finish_reason": "stop", "prompt_tokens": 3, "generated_tokens": tokens,
        "stop_string": False, "queue_ms": 0.0, "total_ms": 0.0,
    }  # fmt: skip


def text(words):
    return {"choice": 0, "text": words}


class Scripts:
    """A service whose answers, by model, are given; each waits until all have been asked."""

    def __init__(self, scripts, columns=2, limits=None):
        self.directory, self.limits = Names(), limits or Limits()
        self.scripts, self.columns = scripts, columns
        self.orders, self.closed = [], []

    async def complete(self, order):
        self.orders.append(order)
        try:
            while len(self.orders) < self.columns:
                await asyncio.sleep(0)
            for part in self.scripts[str(order.model)]:
                await asyncio.sleep(0)
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.closed.append(str(order.model))


GOOD = {"tiny": [text("a"), text("b"), end()], VERSION: [text("A"), end(1)]}


def post(service, **body):
    body = {"models": ["tiny", "tiny/dates"], "prompt": "hi"} | body
    client = TestClient(create_app(service, Access(service.limits)), raise_server_exceptions=False)
    return client.post("/v1/compare", json=body)


def events_of(answer):
    *events, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def test_all_models_are_asked_the_same_before_any_has_answered():
    service = Scripts(GOOD)
    answer = post(service, temperature=0, seed=3, stop=["x"], max_tokens=7)
    assert answer.status_code == 200
    assert [str(order.model) for order in service.orders] == ["tiny", VERSION]
    for order in service.orders:
        assert order.prompts == ("hi",)
        assert (order.temperature, order.seed, order.stop) == (0, 3, ("x",))
        assert (order.n, order.max_new_tokens) == (1, 7)
    assert len({order.id for order in service.orders}) == 2


def test_the_answer_has_a_column_for_each_model_in_order():
    body = post(Scripts(GOOD)).json()
    assert body["object"] == "comparison"
    for column in body["answers"]:
        assert column.pop("ttft_ms") >= 0
        assert column.pop("tokens_per_s") > 0
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert body["answers"] == [
        {"index": 0, "model": "tiny", "text": "ab", "finish_reason": "stop", "usage": usage},
        {
            "index": 1, "model": VERSION, "text": "A", "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        },
    ]  # fmt: skip


def test_a_stream_tells_every_column_and_its_end():
    answer = post(Scripts(GOOD), stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    for index, model, words in ((0, "tiny", "ab"), (1, VERSION, "A")):
        *pieces, ended = [event for event in events if event["index"] == index]
        assert {event["model"] for event in pieces} == {model}
        assert "".join(event["text"] for event in pieces) == words
        assert (ended["model"], ended["finish_reason"]) == (model, "stop")
        assert {"usage", "ttft_ms", "tokens_per_s"} <= ended.keys()
        assert "text" not in ended


@pytest.mark.parametrize("stream", [False, True])
def test_a_column_that_fails_ends_alone(stream):
    scripts = GOOD | {"tiny": [text("a"), EngineFailed("broken")]}
    answer = post(Scripts(scripts), stream=stream)
    assert answer.status_code == 200
    told = events_of(answer) if stream else answer.json()["answers"]
    (failed,) = [column for column in told if "error" in column]
    assert failed == {
        "index": 0,
        "model": "tiny",
        "error": {
            "message": "broken", "type": "server_error", "param": None, "code": "engine_failed",
        },
    }  # fmt: skip
    assert [c["finish_reason"] for c in told if "finish_reason" in c] == ["stop"]


def test_all_columns_may_fail_each_with_its_own_error():
    scripts = {"tiny": [EngineBusy("busy")], VERSION: [RuntimeError("secret path")]}
    answer = post(Scripts(scripts))
    codes = [column["error"]["code"] for column in answer.json()["answers"]]
    assert codes == ["engine_busy", "internal_error"]
    assert "secret" not in answer.text


def test_an_unknown_name_is_an_error_before_anything_is_asked():
    service = Scripts(GOOD)
    answer = post(service, models=["tiny", "nobody"], stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert service.orders == []


def test_a_chat_is_asked_of_all():
    service = Scripts(GOOD)
    post(service, prompt=None, messages=[{"role": "user", "content": "hi"}])
    assert [order.prompts for order in service.orders] == [
        (({"role": "user", "content": "hi"},),)
    ] * 2


def test_an_answer_without_a_limit_has_one_all_the_same():
    for limits, most in ((Limits(), ANSWER_TOKENS), (Limits(new_tokens=10), 10)):
        service = Scripts(GOOD, limits=limits)
        post(service)
        assert {order.max_new_tokens for order in service.orders} == {most}
    assert "at most 10" in post(service, max_tokens=11).json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"models": ["tiny"]}, "models"),
        ({"models": ["tiny"] * 9}, "models"),
        ({"models": "tiny"}, "models"),
        ({"models": ["tiny", ""]}, "models.1"),
        ({"prompt": None}, "either a prompt or messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, "either a prompt or messages"),
        ({"prompt": ["a"]}, "prompt"),
        ({"model": "tiny"}, "model: is no parameter of this endpoint; did you mean 'models'?"),
        ({"n": 2}, "n: is not served in a comparison"),
        ({"tools": [{}]}, "tools: is not served in a comparison"),
        ({"logprobs": 1}, "logprobs: is not served in a comparison"),
        ({"temperature": 9, "seed": 0.5}, "temperature"),
    ],
)
def test_a_mistake_is_told_by_name(fields, words):
    body = {"models": ["tiny", "tiny/dates"], "prompt": "hi"} | fields
    with pytest.raises(BadParameter) as caught:
        read_body(CompareRequest, json.dumps(body).encode())
    assert words in caught.value.message


def test_whoever_closes_it_ends_every_column():
    endless = {name: [text("a")] * 100_000 for name in ("tiny", VERSION)}

    async def run():
        service = Scripts(endless)
        orders = [order_for(name) for name in endless]
        async with aclosing(compared(service, orders)) as events:
            async for event in events:
                assert isinstance(event, ColumnPiece)
                if {str(order.model) for order in service.orders} == set(endless):
                    break
        assert sorted(service.closed) == sorted(endless)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_slow_column_holds_up_no_other():
    async def first_end():
        service = Scripts(GOOD | {"tiny": [text("a")] * 100_000})
        async with aclosing(compared(service, [order_for("tiny"), order_for(VERSION)])) as events:
            async for event in events:
                if isinstance(event, ColumnEnd):
                    return event.index, service.closed
        return None

    index, closed = asyncio.run(asyncio.wait_for(first_end(), 30))
    assert index == 1
    assert sorted(closed) == ["tiny", VERSION]


def order_for(name):
    return Order(
        id=name, model=ModelName.parse(name), prompts=("hi",), n=1, max_new_tokens=9,
        most_new_tokens=9, temperature=0.0, top_p=1.0, top_k=0, seed=None, stop=(),
    )  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_every_order(stream):
    endless = {name: [text("a")] * 1_000_000 for name in ("tiny", VERSION)}

    async def run():
        service = Scripts(endless)
        body = {"models": ["tiny", "tiny/dates"], "prompt": "hi", "stream": stream}
        incoming = [{"type": "http.request", "body": json.dumps(body).encode()}]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST",
            "path": "/v1/compare", "raw_path": b"/v1/compare", "query_string": b"",
            "headers": [], "scheme": "http", "http_version": "1.1", "server": ("test", 80),
        }  # fmt: skip

        async def receive():
            if incoming:
                return incoming.pop()
            while len(service.orders) < 2:
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message):
            await asyncio.sleep(0)

        await asyncio.wait_for(
            create_app(service, Access(service.limits))(scope, receive, send), 30
        )
        assert sorted(service.closed) == sorted(endless)

    asyncio.run(run())
