"""What every engine promises of requests: cancelled, refused, queued; failures harm no other."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from safetensors.torch import load_file, save_file

from loraland.errors import (
    ContextTooLong,
    EngineBusy,
    EngineFailed,
    EngineStopped,
    InvalidRequest,
    UnknownModel,
)
from tests.engine.asking import PROMPTS, ask, collect, expected


def test_cancelling_ends_waiting_and_running_requests_and_frees_their_leases(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base(), max_batch=2) as engine:
            await engine.load("one", zoo.one)
            long = {"max_new_tokens": 400}
            running = [engine.submit(ask(i, PROMPTS[0], "one", **long)) for i in range(2)]
            waiting = engine.submit(ask(2, PROMPTS[0], "one", **long))
            await anext(running[0])
            engine.cancel("r2")
            assert (await collect(waiting))[1].reason == "cancelled"
            engine.cancel("r0")
            events = [event async for event in running[0]]
            assert events[-1].reason == "cancelled"
            assert len(events) < 300
            await running[1].aclose()
            engine.cancel("nobody")
            await engine.unload("one")
            follow_up, _ = await collect(engine.submit(ask(5, PROMPTS[0])))
            assert len(follow_up) == 8
            assert engine.residency() == []
            assert engine.stats().running == 0

    asyncio.run(scenario())


def test_letting_go_of_a_stream_cancels_its_request(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base(), max_batch=1) as engine:
            stream = engine.submit(ask(0, PROMPTS[0], max_new_tokens=500))
            await anext(stream)
            del stream
            await collect(engine.submit(ask(1, PROMPTS[0], max_new_tokens=1)))
            assert engine.stats().generated_tokens < 400

    asyncio.run(scenario())


def test_a_full_queue_is_busy_and_says_when_to_retry(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base(), max_batch=1, max_waiting=2) as engine:
            streams = [engine.submit(ask(0, PROMPTS[0], max_new_tokens=200))]
            await anext(streams[0])
            streams += [engine.submit(ask(i, PROMPTS[0])) for i in (1, 2)]
            with pytest.raises(EngineBusy, match="retry after"):
                engine.submit(ask(3, PROMPTS[0]))
            assert engine.stats().waiting == 2
            await streams[0].aclose()
            for stream in streams[1:]:
                await collect(stream)
            await collect(engine.submit(ask(3, PROMPTS[0])))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_", "error", "reason"),
    [
        (ask(0, range(1, 101), max_new_tokens=413), ContextTooLong, "100 tokens.*413.*512"),
        (ask(0, ()), InvalidRequest, "no tokens"),
        (ask(0, (5, 259)), InvalidRequest, "from 0 to 258"),
        (ask(0, (-1,)), InvalidRequest, "from 0 to 258"),
        (ask(0, (5,), "ghost"), UnknownModel, "ghost"),
        (ask(0, (5,), max_new_tokens=0), InvalidRequest, "max_new_tokens"),
        (ask(0, (5,), temperature=-1.0, top_p=0.0), InvalidRequest, "temperature.*top_p"),
        (ask(0, (5,), temperature=float("nan")), InvalidRequest, "temperature"),
        (ask(0, (5,), top_k=-1), InvalidRequest, "top_k"),
        (ask(0, (5,), seed=2**64), InvalidRequest, "seed"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_queued(
    zoo, engine_of, request_, error, reason
):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            with pytest.raises(error, match=reason):
                engine.submit(request_)
            assert engine.stats().requests == engine.stats().waiting == 0

    asyncio.run(scenario())


def test_an_id_under_way_is_refused_and_free_again_afterwards(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            stream = engine.submit(ask(0, PROMPTS[0]))
            with pytest.raises(InvalidRequest, match="unique"):
                engine.submit(ask(0, PROMPTS[1]))
            await collect(stream)
            await collect(engine.submit(ask(0, PROMPTS[1])))

    asyncio.run(scenario())


def test_a_failing_forward_reaches_the_requests_and_the_engine_goes_on(
    zoo, answers_of, engine_of, caplog
):
    async def scenario():
        base = zoo.base()
        async with engine_of(base) as engine:
            await engine.load("one", zoo.one)
            forward, calls = base.model.forward, []

            def fail_at_the_third(*args, **inputs):
                calls.append(1)
                if len(calls) == 3:
                    raise RuntimeError("out of luck")
                return forward(*args, **inputs)

            base.model.forward = fail_at_the_third
            streams = [engine.submit(ask(i, PROMPTS[i], "one")) for i in range(2)]
            for stream in streams:
                with pytest.raises(EngineFailed, match="RuntimeError: out of luck"):
                    await collect(stream)
            assert engine.residency()[0].leases == 0
            tokens, _ = await collect(engine.submit(ask(0, PROMPTS[0], "one")))
            assert tokens == answers_of(zoo)["one"][PROMPTS[0]]

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert re.search("(batch of 2 requests|pass of 2 rows) failed", caplog.text)


def test_an_adapter_whose_numbers_overflow_ends_its_own_rows_and_no_other(
    zoo, answers_of, engine_of, broken_copy
):
    wild = broken_copy(zoo.one)
    file = wild / "adapter_model.safetensors"
    save_file({name: weight * 1e30 for name, weight in load_file(file).items()}, file)
    answers = answers_of(zoo)

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            await engine.load("one", zoo.one)
            await engine.load("wild", wild)
            for turn in range(2):  # the second finds the blocks that the wild rows had
                mix = [(p, a) for p in PROMPTS for a in (None, "one", "wild")]
                streams = [engine.submit(ask(i, p, a)) for i, (p, a) in enumerate(mix)]
                got = await asyncio.gather(*map(collect, streams), return_exceptions=True)
                for (prompt, adapter), answer in zip(mix, got, strict=True):
                    if adapter == "wild":
                        assert isinstance(answer, EngineFailed), turn
                        assert "not finite" in str(answer)
                    else:
                        assert answer[0] == answers[adapter][prompt], turn

    asyncio.run(scenario())


def test_closing_ends_all_requests_and_refuses_new_ones(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base(), max_batch=1) as engine:
            await engine.load("one", zoo.one)
            streams = [
                engine.submit(ask(i, PROMPTS[0], "one", max_new_tokens=400)) for i in range(3)
            ]
            await anext(streams[0])
            await engine.close()
            for stream in streams:
                with pytest.raises(EngineStopped):
                    while True:
                        await anext(stream)
            with pytest.raises(EngineStopped):
                engine.submit(ask(9, PROMPTS[0]))
            with pytest.raises(EngineStopped):
                await engine.load("two", zoo.two)

    asyncio.run(scenario())


def test_a_closed_engine_leaves_the_base_as_it_found_it(zoo, answers_of, engine_of):
    base = zoo.base()
    shape = [(name, type(module)) for name, module in base.model.named_modules()]

    async def scenario():
        async with engine_of(base) as engine:
            await engine.load("one", zoo.one)
            await engine.load("two", zoo.two)
            await collect(engine.submit(ask(0, PROMPTS[0], "one")))

    asyncio.run(scenario())
    assert [(name, type(module)) for name, module in base.model.named_modules()] == shape
    assert expected(base.model, PROMPTS[0]) == answers_of(zoo)[None][PROMPTS[0]]
    asyncio.run(scenario())
