"""Many requests for many adapters in few slots: right, whole, and of constant size."""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from loraland.engine.batched import BatchedEngine
from loraland.engine.protocol import Finished, Request, Sampling
from loraland.engine.settings import EngineLimits
from loraland.errors import EngineBusy, LoraLandError

ADAPTERS, REQUESTS, AT_ONCE, NEW = 200, 2000, 48, 6
GROWTH_BYTES = 96 << 20  # between a quarter of the run and its end; one adapter has 7 kB
LIMITS = EngineLimits(
    rows=12, pass_tokens=64, block_tokens=4, kv_tokens=800, slots=16, max_rank=8, waiting=2000,
    host_bytes=500_000,
)  # fmt: skip


@pytest.fixture(scope="module")
def herd(zoo_of, tmp_path_factory):
    zoo, root = zoo_of("llama"), tmp_path_factory.mktemp("herd")
    folders = {}
    for number in range(ADAPTERS):
        folder = Path(shutil.copytree(zoo.one, root / f"h{number}"))
        generator = torch.Generator().manual_seed(number)
        file = folder / "adapter_model.safetensors"
        weights = {
            name: torch.randn(weight.shape, generator=generator) * 0.3
            for name, weight in load_file(file).items()
        }
        save_file(weights, file)
        folders[folder.name] = folder
    return zoo, folders


def solo_answers(zoo, folders, asked):
    """What transformers and PEFT answer to each (prompt, adapter) by itself."""
    model, answers = None, {}
    for adapter in sorted({adapter for _, adapter in asked}):
        if model is None:
            model = PeftModel.from_pretrained(zoo.base().model, folders[adapter], adapter).eval()
        else:
            model.load_adapter(folders[adapter], adapter)
            model.set_adapter(adapter)
        for prompt in {prompt for prompt, of in asked if of == adapter}:
            ids = torch.tensor([prompt])
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW,
                do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            answers[prompt, adapter] = output[0, len(prompt) :].tolist()
    return answers


def draw(chance, count, zipf):
    """Which adapters are asked for: a few hot ones, or all alike."""
    ranks = range(1, ADAPTERS + 1)
    weights = [1 / rank for rank in ranks] if zipf else [1] * ADAPTERS
    return chance.choices([f"h{rank - 1}" for rank in ranks], weights, k=count)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("zipf", [True, False], ids=["zipf", "uniform"])
def test_2000_requests_for_200_adapters_in_16_slots(herd, zipf):
    zoo, folders = herd
    chance = random.Random(zipf)
    beginning = tuple(chance.randrange(3, 259) for _ in range(16))
    prompts = [
        (*beginning[: chance.choice([0, 8, 16])], *(chance.randrange(3, 259) for _ in range(9)))
        for _ in range(3)
    ]
    asked = [(chance.choice(prompts), adapter) for adapter in draw(chance, REQUESTS, zipf)]
    leave = [chance.randrange(NEW) if chance.random() < 0.15 else None for _ in asked]
    answers = solo_answers(zoo, folders, asked)
    sizes = []

    async def one(engine, gate, number):
        (prompt, adapter), tokens = asked[number], []
        async with gate:
            request = Request(f"r{number}", prompt, adapter, Sampling(max_new_tokens=NEW))
            async for event in engine.submit(request):
                if isinstance(event, Finished):
                    break
                tokens.append(event.id)
                if len(tokens) - 1 == leave[number]:
                    engine.cancel(request.id)
            if number % 500 == 499:
                gc.collect()
                sizes.append(psutil.Process().memory_info().rss)
        assert tokens == answers[prompt, adapter][: len(tokens)], number
        assert event.reason == "cancelled" or len(tokens) == NEW, number
        return event.reason

    async def scenario():
        engine = BatchedEngine.of(zoo.base(), LIMITS)
        try:
            await asyncio.gather(*[engine.load(name, folders[name]) for name in folders])
            gate = asyncio.Semaphore(AT_ONCE)
            reasons = await asyncio.gather(*[one(engine, gate, i) for i in range(REQUESTS)])
            engine.check()
            return reasons, engine.stats(), engine.residency()
        finally:
            await engine.close()

    reasons, stats, residents = asyncio.run(scenario())
    assert stats.finished == REQUESTS
    assert 0.02 * REQUESTS < reasons.count("cancelled") < 0.2 * REQUESTS
    assert sum(resident.evictions for resident in residents) > 100
    assert sum(resident.reads for resident in residents) > 0  # host memory was too small for all
    assert stats.free_blocks == stats.blocks
    assert sizes[-1] - sizes[0] < GROWTH_BYTES, sizes


def test_a_thousand_requests_at_once_are_answered_or_told_to_come_back(herd):
    zoo, folders = herd

    async def scenario():
        engine = BatchedEngine.of(zoo.base(), EngineLimits(waiting=300, kv_tokens=4096, slots=4))
        try:
            for name in ("h0", "h1"):
                await engine.load(name, folders[name])
            streams, busy = [], 0
            for number in range(1000):
                adapter = (None, "h0", "h1")[number % 3]
                request = Request(
                    f"r{number}", (5, 9, number % 256 + 3), adapter, Sampling(max_new_tokens=2)
                )
                try:
                    streams.append(engine.submit(request))
                except EngineBusy as error:
                    assert "retry" in error.message
                    busy += 1

            async def drain(stream):
                return [event async for event in stream]

            got = await asyncio.gather(*map(drain, streams))
            engine.check()
            return got, busy
        finally:
            await engine.close()

    got, busy = asyncio.run(scenario())
    assert (len(got), busy) == (300, 700)
    assert all(len(events) == 3 and events[-1].reason == "length" for events in got)


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        ((), Sampling()),
        ((5,), Sampling(max_new_tokens=0)),
        ((5,) * 600, Sampling()),
        ((5, 999), Sampling()),
        ((5,), Sampling(top_p=0)),
    ],
)
def test_a_bad_request_among_good_ones_harms_none_of_them(herd, prompt, sampling):
    zoo, folders = herd

    async def scenario():
        engine = BatchedEngine.of(zoo.base())
        try:
            await engine.load("h0", folders["h0"])
            good = engine.submit(Request("good", (5, 9), "h0", Sampling(max_new_tokens=4)))
            with pytest.raises(LoraLandError):
                engine.submit(Request("bad", prompt, "h0", sampling))
            events = [event async for event in good]
            assert events[-1].reason == "length"
            engine.check()
            return [event.id for event in events[:-1]]
        finally:
            await engine.close()

    got = asyncio.run(scenario())
    assert got == solo_answers(zoo, folders, [((5, 9), "h0")])[(5, 9), "h0"][:4]
