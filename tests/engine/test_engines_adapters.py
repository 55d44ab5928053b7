"""What every engine promises of adapters: leases, shared loads, refusals that change nothing."""

from __future__ import annotations

import asyncio
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from loraland.engine import shelf
from loraland.engine.protocol import Token
from loraland.errors import AdapterRejected, UnknownModel
from tests.engine.asking import PROMPTS, ask, collect


def test_an_adapter_in_use_stays_until_its_last_lease_ends(zoo, answers_of, engine_of):
    answers = answers_of(zoo)["one"]

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


def test_an_adapter_loads_while_a_batch_runs_and_the_batch_is_not_disturbed(
    zoo, answers_of, engine_of
):
    answers = answers_of(zoo)

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
    zoo, answers_of, engine_of, broken_copy, damage, reason, resident
):
    answer = answers_of(zoo)["one"][PROMPTS[0]]
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
            assert (await collect(engine.submit(ask(1, PROMPTS[0], "one"))))[0] == answer

    asyncio.run(scenario())
