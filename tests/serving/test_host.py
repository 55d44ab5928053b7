"""One base with its adapters, without Ray: admission, samplings, many choices, cancellation."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
from contextlib import aclosing, asynccontextmanager

import pytest
from safetensors.torch import load_file, save_file

from loraland.adapters.admission import Limits
from loraland.adapters.names import ModelName
from loraland.bases.tiny import load_tiny
from loraland.engine.constraints import Grammar
from loraland.engine.reference import ReferenceEngine
from loraland.errors import (
    AdapterRejected,
    ContextTooLong,
    EngineBusy,
    InvalidRequest,
    StorageCorrupt,
    UnknownModel,
)
from loraland.serving.host import BaseHost
from loraland.serving.orders import Order

TINY = ModelName("tiny-llama")


@pytest.fixture(scope="module")
def shop(new_shop):
    shop = new_shop()
    shop.dates = shop.publish("dates", 1)
    return shop


@asynccontextmanager
async def hosting(shop, cache, base=None, max_rank=8, **options):
    base = base or shop.base()
    engine = ReferenceEngine.of(base, **options)
    try:
        yield BaseHost(base, engine, shop.registry, cache, Limits(max_rank=max_rank))
    finally:
        await engine.close()


def order(model=TINY, *prompts, **changes):
    wishes = {
        "id": "o1", "n": 1, "max_new_tokens": 8, "most_new_tokens": 100, "temperature": 0.0,
        "top_p": 1.0, "top_k": 0, "seed": None, "stop": (),
    }  # fmt: skip
    return Order(model=model, prompts=prompts or ("Hello",), **(wishes | changes))


async def parts_of(host, asked):
    async with aclosing(host.complete(asked, None)) as parts:
        return [part async for part in parts]


async def answer(host, asked):
    async def ready(name):
        await host.engine.load(str(name), await host.prepare(name))

    texts, ends = {}, {}
    async with aclosing(host.complete(asked, ready)) as parts:
        async for part in parts:
            if "text" in part:
                texts[part["choice"]] = texts.get(part["choice"], "") + part["text"]
            else:
                assert part["choice"] not in ends
                ends[part["choice"]] = part
    return [texts.get(choice, "") for choice in sorted(ends)], ends


def test_every_prompt_is_answered_n_times_in_one_mixed_batch(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            texts, ends = await answer(host, order(shop.dates, "One", "Two", n=2))
            one, two = (shop.greedy(prompt, shop.dates, 8) for prompt in ("One", "Two"))
            assert texts == [one, one, two, two]
            assert [ends[c]["prompt_tokens"] for c in range(4)] == [3, 3, 3, 3]
            assert host.engine.stats().requests == 4

    asyncio.run(run())


def test_choices_of_a_seeded_order_differ_and_repeat(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            asked = order(TINY, "Hello", n=3, seed=2**63 - 1, temperature=1.5)
            first, _ = await answer(host, asked)
            assert len(set(first)) == 3
            assert (await answer(host, asked))[0] == first

    asyncio.run(run())


def test_an_order_with_a_grammar_is_answered_in_its_form(shop, tmp_path):
    grammar = Grammar("choice", json.dumps(["left", "right", "é"]))

    async def run():
        async with hosting(shop, tmp_path) as host:
            wish = {"grammar": grammar, "n": 4, "seed": 1, "temperature": 5.0}
            texts, ends = await answer(host, order(shop.dates, **wish))
            assert set(texts) <= {"left", "right", "é"}
            assert len(set(texts)) > 1
            assert {end["finish_reason"] for end in ends.values()} == {"stop"}

    asyncio.run(run())


def test_a_json_answer_parses_and_has_the_fields_of_its_schema(shop, tmp_path):
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "maximum": 99}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }

    async def run():
        async with hosting(shop, tmp_path) as host:
            grammar = Grammar("json_schema", json.dumps(schema))
            (text,), _ = await answer(host, order(TINY, grammar=grammar, max_new_tokens=200))
            assert set(json.loads(text)) == {"ok", "n"}

    asyncio.run(run())


def test_a_wrong_grammar_is_refused_before_anything_is_loaded_or_queued(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            with pytest.raises(InvalidRequest, match="unclosed group"):
                await answer(host, order(shop.dates, grammar=Grammar("regex", "(")))
            assert host.engine.stats().requests == 0
            assert host.engine.residency() == []

    asyncio.run(run())


def test_logprobs_come_with_the_bytes_of_their_tokens(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            asked = order(TINY, logprobs=2, grammar=Grammar("choice", '["aé"]'))
            *deltas, end = await parts_of(host, asked)
            assert [delta["text"] for delta in deltas] == ["a", "é"]
            scores = [score for delta in deltas for score in delta["tokens"]]
            assert [score["token"] for score in scores] == [b"a", b"\xc3", b"\xa9"]
            assert [score["offset"] for score in scores] == [0, 1, 1]
            for score in scores:
                assert [len(score["top"]), score["top"][0][1] <= 0] == [2, True]
                assert score["logprob"] <= score["top"][0][1]
            assert end["generated_tokens"] == 4

    asyncio.run(run())


def test_penalties_and_min_p_reach_the_engine(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            (plain,), _ = await answer(host, order(TINY, max_new_tokens=30))
            for wish in (
                {"repetition_penalty": 3.0},
                {"presence_penalty": 2.0, "frequency_penalty": 2.0},
            ):
                assert (await answer(host, order(TINY, max_new_tokens=30, **wish)))[0] != [plain]
            sure = order(TINY, max_new_tokens=30, temperature=3.0, min_p=1.0)
            assert (await answer(host, sure))[0] == [plain]

    asyncio.run(run())


def test_an_order_with_a_grammar_travels_between_processes():
    asked = order(TINY, grammar=Grammar("regex", "a+"), logprobs=0, min_p=0.1)
    assert pickle.loads(pickle.dumps(asked)) == asked


def test_token_ids_are_taken_as_they_are(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            texts, ends = await answer(host, order(TINY, (40, 50, 60)))
            assert texts == [shop.greedy([40, 50, 60], None, 8)]
            assert ends[0]["prompt_tokens"] == 3

    asyncio.run(run())


def test_a_chat_goes_through_the_template_of_the_base(shop, tmp_path):
    chat = ({"role": "user", "content": "Hi"},)
    ids = shop.base().tokenizer.apply_chat_template(
        list(chat), add_generation_prompt=True, return_dict=False
    )

    async def run():
        async with hosting(shop, tmp_path) as host:
            texts, ends = await answer(host, order(TINY, chat))
            assert texts == [shop.greedy(ids, None, 8)]
            assert ends[0]["prompt_tokens"] == len(ids)

    asyncio.run(run())


def test_a_base_without_a_template_refuses_chats_and_says_what_to_do(shop, tmp_path):
    base = load_tiny("llama", shop.base_folder)
    base.tokenizer.chat_template = None

    async def run():
        async with hosting(shop, tmp_path, base) as host:
            with pytest.raises(InvalidRequest, match="no chat template; use /v1/completions"):
                await answer(host, order(TINY, ({"role": "user", "content": "Hi"},)))

    asyncio.run(run())


def test_a_template_that_refuses_the_messages_is_the_clients_mistake(shop, tmp_path):
    base = load_tiny("llama", shop.base_folder)
    base.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

    async def run():
        async with hosting(shop, tmp_path, base) as host:
            with pytest.raises(InvalidRequest, match="roles must alternate"):
                await answer(host, order(TINY, ({"role": "user", "content": "Hi"},)))

    asyncio.run(run())


def test_an_answer_without_a_limit_takes_the_room_there_is(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            _, ends = await answer(host, order(TINY, "x" * 505, max_new_tokens=None))
            assert ends[0]["generated_tokens"] <= 7
            with pytest.raises(ContextTooLong, match="512 tokens, this base takes 512"):
                await answer(host, order(TINY, "x" * 512, max_new_tokens=None))
            with pytest.raises(ContextTooLong):
                await answer(host, order(TINY, "x" * 505, max_new_tokens=8))

    asyncio.run(run())


def test_an_order_that_does_not_fit_the_queue_leaves_nothing_behind(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path, max_waiting=3) as host:
            with pytest.raises(EngineBusy):
                await answer(host, order(shop.dates, n=4))
            assert host.engine.stats().waiting == host.engine.stats().running == 0
            assert [r.leases for r in host.engine.residency()] == [0]
            assert len((await answer(host, order(shop.dates, n=3)))[0]) == 3

    asyncio.run(run())


def test_closing_an_order_cancels_all_its_choices(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path, max_batch=2) as host:
            parts = host.complete(order(TINY, n=5, max_new_tokens=400), None)
            await anext(parts)
            await parts.aclose()
            await answer(host, order(TINY, max_new_tokens=1, id="o2"))
            stats = host.engine.stats()
            assert (stats.requests, stats.finished) == (6, 6)
            assert stats.generated_tokens < 400

    asyncio.run(run())


def test_an_adapter_of_other_weights_is_refused_with_the_reason_and_briefly_remembered(
    shop, tmp_path, monkeypatch
):
    foreign = shop.publish("foreign", 3, base_fingerprint="0" * 64)

    async def run():
        async with hosting(shop, tmp_path) as host:
            fetched, fetch = [], host._registry.fetch
            monkeypatch.setattr(
                host._registry, "fetch", lambda *a: (fetched.append(a), fetch(*a))[1]
            )
            for _ in range(3):
                with pytest.raises(AdapterRejected, match="other weights of tiny-llama"):
                    await host.prepare(foreign)
            assert len(fetched) == 1
            assert host.engine.residency() == []

    asyncio.run(run())


def test_an_adapter_of_another_precision_is_refused_before_the_engine_sees_it(shop, tmp_path):
    coarse = shop.publish("coarse", 7, precision="nf4")

    async def run():
        async with hosting(shop, tmp_path) as host:
            with pytest.raises(AdapterRejected, match=r"in nf4, this replica holds it in fp32"):
                await answer(host, order(coarse))
            assert host.engine.residency() == []

    asyncio.run(run())


def test_an_adapter_of_another_base_is_refused_before_it_is_fetched(shop, tmp_path):
    async def run():
        async with hosting(shop, tmp_path) as host:
            with pytest.raises(AdapterRejected, match="for base 'big', this replica serves 'tiny"):
                await host.prepare(ModelName.parse("big/dates@0123456789ab"))

    asyncio.run(run())


def test_an_adapter_beyond_the_rank_limit_is_refused(shop, tmp_path):
    wide = shop.publish("wide", 4, rank=16)

    async def run():
        async with hosting(shop, tmp_path, max_rank=8) as host:
            with pytest.raises(AdapterRejected, match=r"rank 16.* at most 8"):
                await host.prepare(wide)

    asyncio.run(run())


def test_an_adapter_for_layers_that_the_base_lacks_is_refused_before_the_engine_sees_it(
    shop, tmp_path
):
    def move(folder):
        file = folder / "adapter_model.safetensors"
        tensors = {name.replace("layers.1", "layers.7"): t for name, t in load_file(file).items()}
        save_file(tensors, file)

    deeper = shop.publish("deeper", 6, edit=move)

    async def run():
        async with hosting(shop, tmp_path) as host:
            with pytest.raises(AdapterRejected, match=r"does not have: model\.layers\.7"):
                await host.prepare(deeper)

    asyncio.run(run())


def test_an_unknown_version_and_a_damaged_one_have_their_own_errors(new_shop, tmp_path):
    shop = new_shop()
    damaged = shop.publish("dates", 1)
    (file,) = (shop.work / "storage").rglob("adapter_model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")

    async def run():
        async with hosting(shop, tmp_path) as host:
            with pytest.raises(StorageCorrupt):
                await host.prepare(damaged)
            with pytest.raises(UnknownModel):
                await host.prepare(ModelName.parse("tiny-llama/dates@0123456789ab"))

    asyncio.run(run())


def test_one_fetch_is_shared_and_a_cleaned_cache_is_filled_again(shop, tmp_path, monkeypatch):
    async def run():
        async with hosting(shop, tmp_path) as host:
            fetched, fetch = [], host._registry.fetch
            monkeypatch.setattr(
                host._registry, "fetch", lambda *a: (fetched.append(a), fetch(*a))[1]
            )
            folders = await asyncio.gather(*[host.prepare(shop.dates) for _ in range(5)])
            assert len(set(folders)) == len(fetched) == 1
            shutil.rmtree(folders[0])
            assert (await host.prepare(shop.dates)).is_dir()
            assert len(fetched) == 2

    asyncio.run(run())
