"""Which engine a base gets."""

from __future__ import annotations

import asyncio

import pytest

from loraland.engine import making
from loraland.engine.batched import BatchedEngine
from loraland.engine.making import make_engine
from loraland.engine.reference import ReferenceEngine
from loraland.engine.settings import EngineLimits
from loraland.errors import BaseUnavailable, EngineBusy
from tests.engine.asking import PROMPTS, ask

LIMITS = EngineLimits(rows=2, waiting=1, kv_tokens=2048)


def class_of(base, kind):
    async def run():
        engine = make_engine(base, LIMITS, kind=kind)
        await engine.close()
        return type(engine)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("batched", BatchedEngine), ("any", BatchedEngine), ("reference", ReferenceEngine)],
)
def test_a_base_gets_the_engine_that_is_asked_for(zoo, kind, expected):
    assert class_of(zoo.base(), kind) is expected


def test_a_base_that_cannot_attend_over_blocks_gets_the_plain_engine_only_where_any_will_do(
    zoo, monkeypatch
):
    class Unable:
        @classmethod
        def of(cls, *_):
            raise BaseUnavailable("no attention over blocks")

    monkeypatch.setattr(making, "BatchedEngine", Unable)
    assert class_of(zoo.base(), "any") is ReferenceEngine
    with pytest.raises(BaseUnavailable, match="over blocks"):
        class_of(zoo.base(), "batched")


@pytest.mark.parametrize("kind", ["batched", "reference"])
def test_both_engines_heed_the_bound_of_the_queue(zoo, kind):
    async def run():
        engine = make_engine(zoo.base(), LIMITS, kind=kind)
        try:
            streams = [engine.submit(ask(0, PROMPTS[0]))]  # nothing has run yet: it waits
            with pytest.raises(EngineBusy, match="1 requests are waiting"):
                engine.submit(ask(1, PROMPTS[0]))
            for stream in streams:
                await stream.aclose()
        finally:
            await engine.close()

    asyncio.run(run())
