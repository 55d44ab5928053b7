"""An answer tells where its adapter was when it was asked: the difference of a hit and a miss."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from starlette.testclient import TestClient

from loraland.adapters.admission import Limits
from loraland.adapters.names import ModelName
from loraland.engine.batched import BatchedEngine
from loraland.engine.settings import EngineLimits
from loraland.serving.access.gate import Access
from loraland.serving.config import Limits as ServingLimits
from loraland.serving.host import BaseHost
from loraland.serving.orders import Order
from loraland.serving.routes import TIER_HEADER, create_app

WISHES = {
    "id": "o1", "prompts": ("Hello",), "n": 2, "max_new_tokens": 4, "most_new_tokens": 100,
    "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": None, "stop": (),
}  # fmt: skip


class Names:
    bases = ("tiny",)

    async def resolve(self, name):
        return ModelName.parse(name)


class Script:
    def __init__(self, parts):
        self.directory, self.limits, self.parts = Names(), ServingLimits(), parts

    async def complete(self, order):
        for part in self.parts:
            yield part


def app_of(service):
    """The application without keys."""
    return create_app(service, Access(service.limits))


def test_only_the_first_part_tells_the_tier_and_a_second_order_finds_the_adapter(
    new_shop, tmp_path
):
    shop = new_shop()
    names = [shop.publish("dates", 1), shop.publish("topics", 2)]
    base = shop.base()

    async def tiers():
        engine = BatchedEngine.of(base, EngineLimits(slots=1))
        host = BaseHost(base, engine, shop.registry, tmp_path, Limits())

        async def ready(name):
            await engine.load(str(name), await host.prepare(name))

        found = []
        try:
            for number, model in enumerate([names[0], names[0], names[1], ModelName("tiny-llama")]):
                order = Order(**(WISHES | {"id": f"o{number}", "model": model}))
                async with aclosing(host.complete(order, ready)) as parts:
                    found.append([part.get("tier") async for part in parts])
        finally:
            await engine.close()
        return found

    cold, warm, other, of_base = asyncio.run(tiers())
    assert cold[0] == other[0] == "host"
    assert warm[0] == "device"
    assert {*cold[1:], *warm[1:], *other[1:], *of_base} == {None}


@pytest.mark.parametrize("stream", [False, True])
def test_the_tier_is_a_header_of_whole_answers_and_of_streams(stream):
    end = {"choice": 0, "finish_reason": "stop", "prompt_tokens": 1, "generated_tokens": 1}
    client = TestClient(app_of(Script([{"choice": 0, "text": "a", "tier": "host"}, end])))
    body = {"model": "tiny", "prompt": "hi", "stream": stream}
    answer = client.post("/v1/completions", json=body)
    assert answer.headers[TIER_HEADER] == "host"
    assert "a" in answer.text


def test_an_answer_of_the_base_tells_no_tier():
    end = {"choice": 0, "finish_reason": "stop", "prompt_tokens": 1, "generated_tokens": 1}
    answer = TestClient(app_of(Script([end]))).post(
        "/v1/completions", json={"model": "tiny", "prompt": "hi"}
    )
    assert answer.status_code == 200
    assert TIER_HEADER not in answer.headers
