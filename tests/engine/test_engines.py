"""What every engine promises: the answers of transformers and PEFT, leases, failures."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from loraland.engine import shelf
from loraland.engine.protocol import Finished, Request, Sampling, Token
from loraland.errors import (
    AdapterRejected,
    ContextTooLong,
    EngineBusy,
    EngineFailed,
    EngineStopped,
    InvalidRequest,
    UnknownModel,
)

PROMPTS = [(5, 9, 77, 130), (60,), (33, 44, 55, 66, 77, 88, 99, 111, 122), (200, 201)]


def ask(number, prompt, adapter=None, **sampling):
    return Request(
        f"r{number}", tuple(prompt), adapter, Sampling(**({"max_new_tokens": 8} | sampling))
    )


async def collect(stream):
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    assert [event.index for event in events[:-1]] == list(range(len(events) - 1))
    return [event.id for event in events[:-1]], events[-1]


async def gather(engine, requests):
    return await asyncio.gather(*[collect(engine.submit(request)) for request in requests])


def expected(model, prompt, tokens=8):
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def of_each_model(zoo, precision="fp32"):
    """{adapter or None: {prompt: greedy tokens}} by transformers and PEFT, one prompt at a time."""
    answers = {None: {p: expected(zoo.base(precision).model, p) for p in PROMPTS}}
    for name, folder in (("one", zoo.one), ("two", zoo.two)):
        model = PeftModel.from_pretrained(zoo.base(precision).model, folder).eval()
        answers[name] = {p: expected(model, p) for p in PROMPTS}
    return answers


@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi", "gemma"])
def test_a_mixed_batch_gives_the_greedy_tokens_of_transformers_and_peft(
    zoo_of, engine_of, architecture
):
    zoo = zoo_of(architecture)
    answers = of_each_model(zoo)
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
def test_an_nf4_base_serves_adapters_in_a_mixed_batch(zoo, engine_of):
    answers = of_each_model(zoo, "nf4")

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


def test_base_answers_are_the_same_before_between_and_after_adapters(zoo, engine_of):
    answers = of_each_model(zoo)

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


def test_rows_of_different_lengths_leave_the_batch_when_they_end(zoo, engine_of):
    answers = of_each_model(zoo)[None]

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            requests = [ask(i, p, max_new_tokens=1 + 2 * i) for i, p in enumerate(PROMPTS)]
            for i, (tokens, _) in enumerate(await gather(engine, requests)):
                assert tokens == answers[PROMPTS[i]][: 1 + 2 * i]

    asyncio.run(scenario())


def test_a_stop_token_ends_the_answer_and_is_not_sent(zoo, engine_of):
    whole = expected(zoo.base().model, PROMPTS[0])
    stop = next(token for token in whole[2:] if token not in whole[:2])
    cut = whole.index(stop)

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            request = ask(0, PROMPTS[0], stop_token_ids=frozenset({stop}))
            tokens, end = await collect(engine.submit(request))
            assert tokens == whole[:cut]
            assert (end.reason, end.generated_tokens) == ("stop", cut + 1)

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


def test_an_adapter_in_use_stays_until_its_last_lease_ends(zoo, engine_of):
    answers = of_each_model(zoo)["one"]

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            await engine.load("one", zoo.one)
            stream = engine.submit(ask(0, PROMPTS[0], "one"))
            first = await anext(stream)
            assert engine.residency()[0].leases == 1
            assert engine.residency()[0].size_bytes > 0
            await engine.unload("one")
            assert [r.version for r in engine.residency()] == ["one"]
            with pytest.raises(UnknownModel, match="one"):
                engine.submit(ask(1, PROMPTS[0], "one"))
            tokens = [first.id, *[e.id async for e in stream if isinstance(e, Token)]]
            assert tokens == answers[PROMPTS[0]]
            assert engine.residency() == []

    asyncio.run(scenario())


def test_loading_again_calls_an_adapter_back_that_was_to_leave(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            await engine.load("one", zoo.one)
            stream = engine.submit(ask(0, PROMPTS[0], "one"))
            await engine.unload("one")
            await engine.load("one", zoo.one)
            second = engine.submit(ask(1, PROMPTS[0], "one"))
            assert await collect(stream) is not None
            assert await collect(second) is not None
            assert [(r.version, r.leases) for r in engine.residency()] == [("one", 0)]

    asyncio.run(scenario())


def test_unloading_during_a_load_waits_for_it_and_then_takes_it_out(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            load = asyncio.create_task(engine.load("one", zoo.one))
            await asyncio.sleep(0)
            await engine.unload("one")
            await load
            assert engine.residency() == []
            with pytest.raises(UnknownModel):
                engine.submit(ask(0, PROMPTS[0], "one"))

    asyncio.run(scenario())


def test_an_adapter_loads_while_a_batch_runs_and_the_batch_is_not_disturbed(zoo, engine_of):
    answers = of_each_model(zoo)

    async def scenario():
        async with engine_of(zoo.base()) as engine:
            await engine.load("one", zoo.one)
            streams = [engine.submit(ask(0, PROMPTS[0], "one")), engine.submit(ask(1, PROMPTS[2]))]
            firsts = [await anext(stream) for stream in streams]
            await engine.load("two", zoo.two)
            assert engine.stats().running == 2, "the load must not have waited for the batch"
            for first, stream, (a, p) in zip(firsts, streams, [("one", 0), (None, 2)], strict=True):
                tokens = [first.id, *[e.id async for e in stream if isinstance(e, Token)]]
                assert tokens == answers[a][PROMPTS[p]]

    asyncio.run(scenario())


def test_one_load_per_version_is_shared(zoo, engine_of, monkeypatch):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            calls = []
            where, name = (
                (engine._model, "add") if hasattr(engine, "_model") else (shelf, "read_adapter")
            )
            read = getattr(where, name)
            monkeypatch.setattr(where, name, lambda *given: (calls.append(given), read(*given))[1])
            impatient = asyncio.create_task(engine.load("one", zoo.one))
            others = [asyncio.create_task(engine.load("one", zoo.one)) for _ in range(4)]
            await asyncio.sleep(0)
            impatient.cancel()
            await asyncio.gather(*others)
            await engine.load("one", zoo.one)
            assert len(calls) == 1
            assert len(engine.residency()) == 1

    asyncio.run(scenario())


def _nan_weights(folder):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, file)


def _lost_weight(folder):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, file)


def _extra_weight(folder):
    file = folder / "adapter_model.safetensors"
    save_file(
        load_file(file) | {"base_model.model.model.layers.9.lora_A.weight": torch.ones(4, 64)}, file
    )


def _edit(**fields):
    def apply(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return apply


def _garbage(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"not a tensor file")


def _only_pickle(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_nan_weights, "NaN or infini"),
        (_lost_weight, "do not match|lora_B alone"),
        (_extra_weight, "do not match|lora_A alone"),
        (_edit(r=8), "does not fit|configuration says 8"),
        (_edit(target_modules=["no_such_layer"]), "does not fit|no linear layer of the base"),
        (
            _edit(target_modules=["q_proj", "v_proj", "embed_tokens"]),
            "do not match|no linear layer of",
        ),
        (_edit(use_dora=True), "use_dora"),
        (_edit(modules_to_save=["lm_head"]), "modules_to_save"),
        (_edit(bias="all"), "bias"),
        (_edit(init_lora_weights="pissa"), "init_lora_weights"),
        (_edit(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
        (_edit(peft_type="IA3"), "IA3|cannot be read"),
        (_garbage, "does not fit|cannot be read"),
        (_only_pickle, r"(no|without) adapter_model\.safetensors"),
    ],
)
@pytest.mark.parametrize("resident", [pytest.param(False, marks=pytest.mark.slow), True])
def test_failed_load_keeps_the_engine_as_it_was(
    zoo, engine_of, broken_copy, damage, reason, resident
):
    broken = broken_copy(zoo.one)
    damage(broken)

    async def scenario():
        base = zoo.base()
        async with engine_of(base) as engine:
            if resident:
                await engine.load("two", zoo.two)
            shape = [(name, type(module)) for name, module in base.model.named_modules()]
            weights = {name: weight.clone() for name, weight in base.model.named_parameters()}
            before = [(await collect(engine.submit(ask(0, PROMPTS[0])))), engine.residency()]
            with pytest.raises(AdapterRejected, match=reason):
                await engine.load("bad", broken)
            assert [(name, type(module)) for name, module in base.model.named_modules()] == shape
            after = dict(base.model.named_parameters())
            assert after.keys() == weights.keys()
            assert all(torch.equal(after[name], weight) for name, weight in weights.items())
            assert engine.residency() == before[1]
            assert (await collect(engine.submit(ask(0, PROMPTS[0]))))[0] == before[0][0]
            with pytest.raises(UnknownModel, match="bad"):
                engine.submit(ask(1, PROMPTS[0], "bad"))
            await engine.load("one", zoo.one)
            assert (await collect(engine.submit(ask(1, PROMPTS[0], "one"))))[0] == of_one(zoo)

    asyncio.run(scenario())


def of_one(zoo):
    return expected(PeftModel.from_pretrained(zoo.base().model, zoo.one).eval(), PROMPTS[0])


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


def test_the_longest_request_that_fits_the_context_is_served(zoo, engine_of):
    async def scenario():
        async with engine_of(zoo.base()) as engine:
            prompt = [3 + n % 200 for n in range(509)]
            tokens, _ = await collect(engine.submit(ask(0, prompt, max_new_tokens=3)))
            assert tokens == expected(zoo.base().model, tuple(prompt), 3)

    asyncio.run(scenario())


def test_a_failing_forward_reaches_the_requests_and_the_engine_goes_on(zoo, engine_of, caplog):
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
            assert tokens == of_one(zoo)

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert re.search("(batch of 2 requests|pass of 2 rows) failed", caplog.text)


def test_an_adapter_whose_numbers_overflow_ends_its_own_rows_and_no_other(
    zoo, engine_of, broken_copy
):
    wild = broken_copy(zoo.one)
    file = wild / "adapter_model.safetensors"
    save_file({name: weight * 1e30 for name, weight in load_file(file).items()}, file)
    answers = of_each_model(zoo)

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


def test_a_closed_engine_leaves_the_base_as_it_found_it(zoo, engine_of):
    base = zoo.base()
    shape = [(name, type(module)) for name, module in base.model.named_modules()]

    async def scenario():
        async with engine_of(base) as engine:
            await engine.load("one", zoo.one)
            await engine.load("two", zoo.two)
            await collect(engine.submit(ask(0, PROMPTS[0], "one")))

    asyncio.run(scenario())
    assert [(name, type(module)) for name, module in base.model.named_modules()] == shape
    assert expected(base.model, PROMPTS[0]) == expected(zoo.base().model, PROMPTS[0])
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
