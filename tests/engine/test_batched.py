"""The batched engine against transformers and PEFT, whatever the batch."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
import threading
import weakref
from contextlib import asynccontextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel

from loraland.bases.products import speed_up
from loraland.engine import seats
from loraland.engine.batched import BatchedEngine
from loraland.engine.protocol import Finished, Request, Sampling
from loraland.engine.settings import EngineLimits
from loraland.engine.tiers import Tier

ARCHITECTURES = [
    "llama",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("mistral", "phi", "gemma")),
]
TIGHT = EngineLimits(
    rows=6, pass_tokens=24, block_tokens=4, kv_tokens=160, slots=4, max_rank=32, waiting=1000,
    seat_tokens=160,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_seats(monkeypatch):
    """Rows grow out of their seats, and some find none."""
    monkeypatch.setattr(seats, "SMALLEST", 8)


@asynccontextmanager
async def running(base, limits=TIGHT):
    engine = BatchedEngine.of(base, limits)
    try:
        yield engine
    finally:
        await engine.close()


def ask(name, prompt, adapter=None, new=8, **sampling):
    return Request(name, tuple(prompt), adapter, Sampling(max_new_tokens=new, **sampling))


async def collect(stream):
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    assert [event.index for event in events[:-1]] == list(range(len(events) - 1))
    return [event.id for event in events[:-1]], events[-1]


class Oracle:
    """Greedy answers by transformers and PEFT, one request at a time."""

    def __init__(self, zoo, folders):
        model = zoo.base().model
        for name, folder in folders.items():
            if not isinstance(model, PeftModel):
                model = PeftModel.from_pretrained(model, folder, adapter_name=name)
            else:
                model.load_adapter(folder, name)
        self.model, self.memory = model.eval(), {}

    def __call__(self, prompt, adapter, new=8):
        key = (tuple(prompt), adapter, new)
        if key not in self.memory:
            self.memory[key] = self._generate(prompt, adapter, new)
        return self.memory[key]

    def _generate(self, prompt, adapter, new):
        ids = torch.tensor([list(prompt)])
        how = {
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": new,
            "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
        }  # fmt: skip
        if adapter is None:
            with self.model.disable_adapter():
                output = self.model.generate(**how)
        else:
            self.model.set_adapter(adapter)
            output = self.model.generate(**how)
        return output[0, len(prompt) :].tolist()


def prompts(count, chance, longest=60):
    """Prompts of random lengths; most of them begin alike."""
    beginning = [chance.randrange(3, 259) for _ in range(24)]
    for _ in range(count):
        tail = [chance.randrange(3, 259) for _ in range(chance.randrange(1, longest - 24))]
        yield (beginning if chance.random() < 0.8 else []) + tail


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_25_adapters_and_the_base_in_one_crowd_answer_as_each_alone(crowd_of, architecture):
    meets_every_hardship(*crowd_of(architecture), random.Random(architecture))


@pytest.mark.slow
def test_a_crowd_on_the_embedded_base_answers_as_each_alone(embedded_crowd):
    meets_every_hardship(*embedded_crowd, random.Random("embedded"), speed_up)


def meets_every_hardship(zoo, folders, chance, prepare=lambda base: None):
    """Chunks, preemption, prefix hits and evictions, and every answer is PEFT's for it alone."""
    oracle = Oracle(zoo, folders)
    names = [*folders, None]
    requests = [
        ask(f"r{i}", prompt, names[i % len(names)], new=chance.randrange(1, 30))
        for i, prompt in enumerate(prompts(52, chance))
    ]
    alike = [chance.randrange(3, 259) for _ in range(24)]
    again = [ask(f"again{i}", [*alike, 5 + i, 7], "a3", new=6) for i in range(2)]

    async def scenario():
        base = zoo.base()
        prepare(base)
        async with running(base) as engine:
            await asyncio.gather(*[engine.load(name, folders[name]) for name in folders])
            got = await asyncio.gather(*[collect(engine.submit(request)) for request in requests])
            for request in again:  # one after the other: the second finds what the first left
                got.append(await collect(engine.submit(request)))
            engine.check()
            return got, engine.stats(), engine.residency()

    got, stats, residents = asyncio.run(scenario())
    for request, (tokens, end) in zip([*requests, *again], got, strict=True):
        new = request.sampling.max_new_tokens
        assert tokens == oracle(request.prompt_ids, request.adapter, new), request.id
        assert (end.reason, end.generated_tokens) == ("length", new)
    assert stats.reused_tokens >= 24 and stats.preemptions > 0
    assert sum(resident.evictions for resident in residents) > 0


@pytest.mark.parametrize("host_bytes", [0, 1 << 30], ids=["disk", "host"])
def test_a_miss_joins_the_pass_after_the_one_in_which_it_came(crowd_of, monkeypatch, host_bytes):
    """It is read and placed beside the pass that runs; a further pass would be a step too many."""
    zoo, folders = crowd_of("llama")
    passes = threading.Semaphore(0)
    limits = dataclasses.replace(TIGHT, slots=1, host_bytes=host_bytes)

    async def scenario():
        async with running(zoo.base(), limits) as engine:
            await engine.load("a1", folders["a1"])
            await engine.load("a2", folders["a2"])
            compute = engine._runner.run

            def gated(*work):
                assert passes.acquire(timeout=60)
                return compute(*work)

            monkeypatch.setattr(engine._runner, "run", gated)
            passes.release()
            await collect(engine.submit(ask("before", [5, 6, 7], "a1", new=1)))
            busy = asyncio.create_task(collect(engine.submit(ask("busy", [9, 8], new=3))))
            while not engine._computing:
                await asyncio.sleep(0.001)
            missed = asyncio.create_task(collect(engine.submit(ask("miss", [5, 6], "a2", new=1))))
            while engine.residency()[1].tier is not Tier.HOST:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            passes.release(2)  # the one under way, and one more
            await asyncio.wait_for(missed, timeout=60)
            assert engine.stats().passes == 3
            passes.release()
            await busy
            engine.check()

    asyncio.run(scenario())


@pytest.mark.parametrize("window", [3, 7])
def test_a_sliding_window_hides_what_it_hides_in_transformers(crowd_of, zoo_of, window, tmp_path):
    zoo, _ = crowd_of("mistral")
    chance = random.Random(window)
    many = list(prompts(8, chance, longest=50))

    def base():
        loaded = zoo.base()
        loaded.model.config.sliding_window = window
        for module in loaded.model.modules():
            if hasattr(module, "sliding_window"):
                module.sliding_window = window
        return loaded

    model = base().model
    expected = []
    for prompt in many:
        ids = torch.tensor([prompt])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=9,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        expected.append(output[0, len(prompt) :].tolist())

    async def scenario():
        async with running(base()) as engine:
            return await asyncio.gather(
                *[collect(engine.submit(ask(f"r{i}", p, new=9))) for i, p in enumerate(many)]
            )

    assert [tokens for tokens, _ in asyncio.run(scenario())] == expected


@pytest.fixture(scope="module")
def small_crowd(crowd_of):
    zoo, folders = crowd_of("llama")
    folders = dict(list(folders.items())[:6])
    return zoo, folders, Oracle(zoo, folders)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_schedule_gives_every_request_the_answer_it_gets_alone(small_crowd, data):
    """Random limits, arrivals and cancellations; the cancelled got a beginning of their answer."""
    zoo, folders, oracle = small_crowd
    draw = data.draw
    limits = EngineLimits(
        rows=draw(st.integers(1, 5), "rows"),
        pass_tokens=draw(st.integers(6, 40), "pass tokens"),
        block_tokens=draw(st.sampled_from([1, 2, 4, 8]), "block"),
        kv_tokens=draw(st.integers(64, 200), "kv"),
        slots=draw(st.integers(1, 4), "slots"),
        host_bytes=draw(st.sampled_from([0, 60_000, 1 << 30]), "host bytes"),
        max_rank=32,
    )
    plans = draw(
        st.lists(
            st.tuples(
                st.integers(0, 11),  # prompt
                st.sampled_from([None, *folders]),
                st.integers(1, 8),  # answer
                st.integers(0, 12),  # tasks' turns before it comes
                st.one_of(st.none(), st.integers(0, 8)),  # tokens after which it is cancelled
            ),
            min_size=1,
            max_size=10,
        ),
        "requests",
    )
    many = list(prompts(12, random.Random(5), longest=40))

    async def one(engine, name, plan):
        which, adapter, new, turns, leave = plan
        for _ in range(turns):
            await asyncio.sleep(0.001)
        tokens = []
        async for event in engine.submit(ask(name, many[which], adapter, new)):
            if isinstance(event, Finished):
                return tokens, event
            if len(tokens) == leave:
                engine.cancel(name)
            tokens.append(event.id)
        raise AssertionError("a stream without an end")

    async def scenario():
        async with running(zoo.base(), limits) as engine:
            await asyncio.gather(*[engine.load(name, folders[name]) for name in folders])
            got = await asyncio.gather(
                *[one(engine, f"r{i}", plan) for i, plan in enumerate(plans)]
            )
            engine.check()
            return got

    for (which, adapter, new, _, leave), (tokens, end) in zip(
        plans, asyncio.run(asyncio.wait_for(scenario(), 60)), strict=True
    ):
        answer = oracle(many[which], adapter, new)
        if end.reason == "cancelled":
            assert leave is not None and tokens == answer[: len(tokens)]
        else:
            assert tokens == answer


def test_the_model_is_itself_again_when_the_engine_is_closed(crowd_of):
    zoo, folders = crowd_of("llama")
    base = zoo.base()
    ids = torch.tensor([[5, 9, 77]])
    before, modules = base.model(input_ids=ids).logits, dict(base.model.named_modules())

    async def scenario():
        async with running(base) as engine:
            await engine.load("a0", folders["a0"])
            await collect(engine.submit(ask("r", [5, 9, 77], "a0")))
            adapter = next(iter(engine._shelf._host["a0"].modules.values())).a
            return [weakref.ref(held) for held in (engine._runner._kv._pools[0], adapter)]

    gc.disable()  # gigabytes must not wait for the collector, whom few objects do not wake
    try:
        tensors = asyncio.run(scenario())
        assert [tensor() for tensor in tensors] == [None] * len(tensors)
    finally:
        gc.enable()
    assert dict(base.model.named_modules()) == modules
    assert torch.equal(base.model(input_ids=ids).logits, before)
