"""One request over HTTP, measured; whatever the server does, an outcome comes of it."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from loraland.errors import EndpointGarbled, EndpointRefused, EndpointUnavailable
from loraland.loadtest import outcome
from loraland.loadtest.client import Client, is_model
from loraland.loadtest.schedule import Planned
from tests.loadtest.stub import Stub, event, pieces


def ask(server, planned=None, key=None, timeout_s=30.0, late_s=0.0):
    """The outcome of one request."""
    planned = planned or Planned(4, None, "tiny/a", (5, 6, 7), 3)

    async def asking():
        async with server.serving() as url, Client(url, key, timeout_s) as client:
            return await client.ask(planned, time.perf_counter() - late_s)

    return asyncio.run(asking())


def test_a_request_asks_for_exactly_what_was_planned_greedy_and_with_usage():
    server = Stub()
    found = ask(server, key="sesame")
    assert server.bodies == [
        {
            "model": "tiny/a", "prompt": [5, 6, 7], "max_tokens": 3, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True},
        }
    ]  # fmt: skip
    assert server.headers[0]["authorization"] == "Bearer sesame"
    assert found.error is None
    assert (found.number, found.prompt_tokens, found.generated_tokens) == (4, 3, 3)
    assert found.asked_tokens == 3


def test_times_are_in_order_and_lateness_counts():
    found = ask(Stub(), late_s=2.0)
    assert found.due_s + 2 <= found.sent_s <= found.first_s <= found.end_s
    assert len(found.pauses_ms) == 2
    assert min(found.pauses_ms) >= 0


def test_the_first_event_is_seen_when_it_comes_not_when_the_answer_ends():
    gate = asyncio.Event()
    first, *rest = pieces("tiny/a", 3)
    server = Stub(lambda body: [first, gate, *rest])

    async def asking():
        async with server.serving() as url, Client(url) as client:
            request = asyncio.create_task(
                client.ask(Planned(0, None, "tiny/a", (1,), 3), time.perf_counter())
            )
            while not server.under_way:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            opened_s = time.perf_counter()
            gate.set()
            return opened_s, await request

    opened_s, found = asyncio.run(asking())
    assert found.first_s < opened_s < found.end_s
    assert max(found.pauses_ms) >= (opened_s - found.first_s) * 1000


def test_the_tier_of_an_adapter_is_taken_from_the_header():
    tier = {"x-loraland-adapter-tier": "device"}
    assert ask(Stub(lambda body: [tier, *pieces("tiny/a", 3)])).hit is True
    tier = {"x-loraland-adapter-tier": "disk"}
    assert ask(Stub(lambda body: [tier, *pieces("tiny/a", 3)])).hit is False
    assert ask(Stub()).hit is None


def test_an_empty_answer_has_its_first_event_at_its_end():
    found = ask(Stub(lambda body: pieces("tiny/a", 0)))
    assert found.error is None
    assert found.first_s is not None
    assert found.pauses_ms == ()


ERROR = {"error": {"message": "m", "type": "t", "code": "engine_stopped"}}


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ((429, json.dumps({"error": {"code": "engine_busy"}}).encode()), "429 engine_busy"),
        ((500, b"<html>"), "500 error"),
        ((302, b""), "302 error"),
        ([*pieces("tiny/a", 2)[:1], event(**ERROR)], "stream engine_stopped"),
        ([*pieces("tiny/a", 2)[:1], "hang up"], outcome.DISCONNECTED),
        (["hang up"], outcome.DISCONNECTED),
        (pieces("tiny/a", 2)[:-1], outcome.DISCONNECTED),
        ([b"data: nonsense\n\n"], outcome.GARBLED),
        ([b"x" * (1 << 20)] * 3, outcome.GARBLED),
        ([b"data: [DONE]\n\n"], outcome.GARBLED),
        (pieces("tiny", 2), outcome.WRONG_MODEL),
        (pieces("tiny/b@0123456789ab", 2), outcome.WRONG_MODEL),
    ],
)
def test_every_way_to_fail_has_its_name(script, error):
    assert ask(Stub(lambda body: script)).error == error


def test_an_answer_that_does_not_come_is_a_timeout():
    found = ask(Stub(lambda body: [pieces("tiny/a", 1)[0], asyncio.Event()]), timeout_s=0.2)
    assert found.error == outcome.TIMEOUT


def test_a_server_that_is_not_there_is_unreachable():
    async def asking():
        async with Client("http://127.0.0.1:9") as client:
            found = await client.ask(Planned(0, None, "tiny", (1,), 1), time.perf_counter())
            with pytest.raises(EndpointUnavailable, match="loraland serve"):
                await client.look("/v1/models")
        return found

    assert asyncio.run(asking()).error == outcome.UNREACHABLE


def test_a_look_tells_absence_from_refusal_and_from_garbage():
    async def looking(server, path):
        async with server.serving() as url, Client(f"{url}/v1") as client:
            return await client.look(path)

    assert asyncio.run(looking(Stub(listing={"data": []}), "/v1/models")) == {"data": []}
    assert asyncio.run(looking(Stub(), "/v1/fleet")) is None
    with pytest.raises(EndpointRefused, match=r"405"):
        asyncio.run(looking(Stub(), "/v1/completions"))
    with pytest.raises(EndpointGarbled):
        asyncio.run(looking(Stub(listing=None), "/v1/models"))


@pytest.mark.parametrize(
    ("asked", "served", "same"),
    [
        ("tiny", "tiny", True),
        ("tiny/a", "tiny/a@0123456789ab", True),
        ("tiny/a:prod", "tiny/a@0123456789ab", True),
        ("tiny/a@0123456789ab", "tiny/a@0123456789ab", True),
        ("tiny/a@0123456789ab", "tiny/a@ffffffffffff", False),
        ("tiny/a", "tiny", False),
        ("tiny/a", "tiny/ab@0123456789ab", False),
    ],
)
def test_an_answer_is_of_the_model_asked_or_of_a_version_of_it(asked, served, same):
    assert is_model(asked, served) is same
