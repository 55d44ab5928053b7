"""What every engine promises: the answers of transformers and PEFT, whatever the batch."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.asking import PROMPTS, ask, collect, expected, gather


@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi", "gemma"])
def test_a_mixed_batch_gives_the_greedy_tokens_of_transformers_and_peft(
    zoo_of, answers_of, engine_of, architecture
):
    zoo = zoo_of(architecture)
    answers = answers_of(zoo)
    assert answers[None] != answers["one"] != answers["two"]

    async def scenario():
        async with engine_of(zoo.base(), max_batch=12) as engine:
            await engine.load("one", zoo.one)
            await engine.load("two", zoo.two)
            mix = [(p, a) for p in PROMPTS for a in (None, "one", "two")]
            together = await gather(engine, [ask(i, p, a) for i, (p, a) in enumerate(mix)])
            for (prompt, adapter), (tokens, end) in zip(mix, together, strict=True):
                assert tokens == answers[adapter][prompt], (prompt, adapter)
                assert end.reason == "length"
                assert (end.prompt_tokens, end.generated_tokens) == (len(prompt), 8)
                assert 0 <= end.queue_ms <= end.first_token_ms <= end.total_ms
            for adapter in (None, "one", "two"):
                alone, _ = await collect(engine.submit(ask(0, PROMPTS[0], adapter)))
                assert alone == answers[adapter][PROMPTS[0]]

    asyncio.run(scenario())


@pytest.mark.slow
def test_an_nf4_base_serves_adapters_in_a_mixed_batch(zoo, answers_of, engine_of):
    answers = answers_of(zoo, "nf4")

    async def scenario():
        async with engine_of(zoo.base("nf4")) as engine:
            await engine.load("one", zoo.one)
            await engine.load("two", zoo.two)
            mix = [(PROMPTS[2], None), (PROMPTS[0], "one"), (PROMPTS[1], "two")]
            together = await gather(engine, [ask(i, p, a) for i, (p, a) in enumerate(mix)])
            for (prompt, adapter), (tokens, _) in zip(mix, together, strict=True):
                assert tokens == answers[adapter][prompt]
            await engine.unload("one")
            await engine.unload("two")
            assert (await collect(engine.submit(ask(9, PROMPTS[0]))))[0] == answers[None][
                PROMPTS[0]
            ]

    asyncio.run(scenario())


def test_base_answers_are_the_same_before_between_and_after_adapters(zoo, answers_of, engine_of):
    answers = answers_of(zoo)

    async def scenario():
        base = zoo.base()
        async with engine_of(base) as engine:
            for version, folder in (
                (None, None),
                ("one", zoo.one),
                ("two", zoo.two),
                ("one", zoo.one),
            ):
                if version is not None:
                    await engine.load(version, folder)
                    tokens, _ = await collect(engine.submit(ask(0, PROMPTS[2], version)))
                    assert tokens == answers[version][PROMPTS[2]]
                    await engine.unload(version)
                assert engine.residency() == []
                assert (await collect(engine.submit(ask(1, PROMPTS[0]))))[0] == answers[None][
                    PROMPTS[0]
                ]
            left = [name for name, _ in base.model.named_modules() if "lora" in name]
            assert left == [] or hasattr(engine, "_bank")  # which keeps its layers for the next

    asyncio.run(scenario())


def test_more_requests_than_a_batch_holds_are_served_in_order(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base(), max_batch=3) as engine:
            ended: list[int] = []

            async def follow(number):
                await collect(engine.submit(ask(number, PROMPTS[number % 4], max_new_tokens=3)))
                ended.append(number // 3)

            await asyncio.gather(*[follow(number) for number in range(10)])
            assert ended == sorted(ended)
            stats = engine.stats()
            assert (stats.requests, stats.finished, stats.generated_tokens) == (10, 10, 30)
            assert (stats.waiting, stats.running) == (0, 0)

    asyncio.run(scenario())


def test_rows_of_different_lengths_leave_the_batch_when_they_end(zoo, answers_of, engine_of):
    answers = answers_of(zoo)[None]

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            requests = [ask(i, p, max_new_tokens=1 + 2 * i) for i, p in enumerate(PROMPTS)]
            for i, (tokens, _) in enumerate(await gather(engine, requests)):
                assert tokens == answers[PROMPTS[i]][: 1 + 2 * i]

    asyncio.run(scenario())


def test_a_stop_token_ends_the_answer_and_is_not_sent(zoo, answers_of, engine_of):
    whole = answers_of(zoo)[None][PROMPTS[0]]
    stop = next(token for token in whole[2:] if token not in whole[:2])
    cut = whole.index(stop)

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            request = ask(0, PROMPTS[0], stop_token_ids=frozenset({stop}))
            tokens, end = await collect(engine.submit(request))
            assert tokens == whole[:cut]
            assert (end.reason, end.generated_tokens) == ("stop", cut + 1)
            assert (end.stop.id, end.stop.index, end.stop.logprob) == (stop, cut, None)
            request = ask(1, PROMPTS[0], stop_token_ids=frozenset({stop}), logprobs=0)
            _, end = await collect(engine.submit(request))
            assert end.stop.logprob < 0
            _, end = await collect(engine.submit(ask(2, PROMPTS[0], max_new_tokens=cut)))
            assert end.stop is None

    asyncio.run(scenario())


def test_the_longest_request_that_fits_the_context_is_served(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            prompt = [3 + n % 200 for n in range(509)]
            tokens, _ = await collect(engine.submit(ask(0, prompt, max_new_tokens=3)))
            assert tokens == expected(zoo.base().model, tuple(prompt), 3)

    asyncio.run(scenario())


def test_a_seed_repeats_an_answer_whoever_shares_the_batch(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            await engine.load("one", zoo.one)
            wish = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 7}
            alone, _ = await collect(engine.submit(ask(0, PROMPTS[0], "one", **wish)))
            crowd = [ask(i, PROMPTS[i % 4], None, temperature=1.0) for i in range(1, 6)]
            among = (await gather(engine, [*crowd, ask(0, PROMPTS[0], "one", **wish)]))[-1][0]
            other, _ = await collect(
                engine.submit(ask(0, PROMPTS[0], "one", **(wish | {"seed": 8})))
            )
            assert alone == among
            assert alone != other

    asyncio.run(scenario())


def test_unseeded_answers_differ(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            requests = [ask(i, PROMPTS[0], temperature=5.0) for i in range(4)]
            assert len({tuple(tokens) for tokens, _ in await gather(engine, requests)}) == 4

    asyncio.run(scenario())


def test_the_event_loop_stays_free_while_the_model_computes(zoo, engine_of):
    async def scenario():
        base = zoo.base()
        async with engine_of(base) as engine:
            forward, seen = base.model.forward, []
            loop = asyncio.get_running_loop()

            def wait_for_the_loop(*args, **inputs):
                ping = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "alive"), loop)
                seen.append(ping.result(timeout=30))
                return forward(*args, **inputs)

            base.model.forward = wait_for_the_loop
            await collect(engine.submit(ask(0, PROMPTS[0], max_new_tokens=2)))
            assert seen == ["alive", "alive"]

    asyncio.run(scenario())


def test_the_reference_engine_is_an_engine(zoo, engine_of):
    from loraland.engine.protocol import Engine

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            same: Engine = engine
            assert same.context_tokens == 512

    asyncio.run(scenario())
