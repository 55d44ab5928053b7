"""Names to versions: nearest names, short memory, adapters of other bases."""

from __future__ import annotations

import asyncio

import pytest

from loraland.errors import AdapterRejected, InvalidName, UnknownModel
from loraland.serving.directory import Directory, ShortMemory, describe_adapter
from loraland.storage import Storage


@pytest.fixture(scope="module")
def shop(new_shop):
    shop = new_shop()
    shop.one = shop.publish("dates", 1, "latest", "prod")
    shop.two = shop.publish("topics", 2)
    return shop


def resolve(shop, *names, bases=("tiny-llama", "other")):
    async def run():
        directory = Directory(shop.registry, bases)
        return [await directory.resolve(name) for name in names]

    return asyncio.run(run())


def test_all_four_forms_lead_to_a_base_or_a_version(shop):
    base, latest, alias, version = resolve(
        shop, "tiny-llama", "tiny-llama/dates", "tiny-llama/dates:prod", str(shop.one)
    )
    assert str(base) == "tiny-llama"
    assert latest == alias == version == shop.one


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("tiny-lama", "'tiny-llama'"),
        ("tiny-llama/date", "'tiny-llama/dates'"),
        ("tiny-llama/dates:prd", "'tiny-llama/dates:prod'"),
        ("tiny-llama/dates@000000000000", "tiny-llama/dates@"),
        ("gpt-4o", "/v1/models"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(shop, name, nearest):
    with pytest.raises(UnknownModel) as caught:
        resolve(shop, name)
    assert f"no model is called '{name}'" in caught.value.message
    assert nearest in caught.value.message


def test_many_unknown_names_cost_one_listing_together(shop, monkeypatch):
    walked, walk = [], Storage.walk
    monkeypatch.setattr(
        Storage, "walk", lambda self, path: (walked.append(path), walk(self, path))[1]
    )

    async def run():
        directory = Directory(shop.registry, ["tiny-llama"], cache_s=600)
        names = [f"tiny-llama/date{k}" for k in range(20)] + ["x", "tiny-llama/dates:prd"]
        asked = [directory.resolve(name) for name in names]
        return await asyncio.gather(*asked, return_exceptions=True)

    errors = asyncio.run(run())
    assert {type(error) for error in errors} == {UnknownModel}
    assert "'tiny-llama/dates'" in errors[0].message
    assert walked == ["adapters"]


def test_a_name_in_no_form_is_invalid(shop):
    with pytest.raises(InvalidName):
        resolve(shop, "../etc/passwd")


def test_an_adapter_of_a_base_that_is_not_served_is_refused_with_the_reason(shop):
    with pytest.raises(
        AdapterRejected, match="'tiny-llama', which this application does not serve"
    ):
        resolve(shop, "tiny-llama/dates", bases=("other",))


def test_only_adapters_of_served_bases_are_listed_with_their_scores(shop):
    async def run(bases):
        return await Directory(shop.registry, bases).entries()

    assert asyncio.run(run(("other",))) == []
    first = describe_adapter(asyncio.run(run(("tiny-llama",)))[0])
    assert first["id"] == str(shop.one)
    assert first["aliases"] == ["latest", "prod"]
    assert first["scores"][0]["lift_low"] == 0.7
    assert first["created"] > 1_700_000_000
    assert (first["parent"], first["task"]) == ("tiny-llama", "dates")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_an_answer_is_believed_for_its_time_and_then_asked_anew():
    async def run():
        clock, asked = Clock(), []

        async def ask(key):
            asked.append(key)
            await asyncio.sleep(0)
            if key == "bad":
                raise UnknownModel("nobody")
            return len(asked)

        memory = ShortMemory(ask, 10, failed_s=2, clock=clock)
        assert await asyncio.gather(memory.get("a"), memory.get("a"), memory.get("b")) == [2, 2, 2]
        assert asked == ["a", "b"]
        clock.now = 9.9
        assert await memory.get("a") == 2
        clock.now = 10
        assert await memory.get("a") == 3
        errors = []
        for clock.now in (20, 21.9, 22):
            with pytest.raises(UnknownModel, match="nobody") as caught:
                await memory.get("bad")
            errors.append(caught.value)
        assert asked == ["a", "b", "a", "bad", "bad"]
        assert len({id(error) for error in errors}) == 3

    asyncio.run(run())


def test_memory_is_bounded_and_a_caller_that_leaves_does_not_end_the_question():
    async def run():
        gate = asyncio.Event()

        async def ask(key):
            if key == "slow":
                await gate.wait()
            return key

        memory = ShortMemory(ask, 10, most=3)
        impatient = asyncio.create_task(memory.get("slow"))
        patient = asyncio.create_task(memory.get("slow"))
        await asyncio.sleep(0)
        impatient.cancel()
        for number in range(20):
            assert await memory.get(str(number)) == str(number)
            assert len(memory._asked) <= 4
        gate.set()
        assert await patient == "slow"

    asyncio.run(run())
