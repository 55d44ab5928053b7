"""Books with a memory: what was spent today outlives a death, and is never forgotten in part."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraland.errors import StorageUnavailable
from loraland.serving.access.books import Allowance, Claim
from loraland.serving.access.keeper import QUOTAS, Keeper
from loraland.storage import Storage

DAILY = Allowance(tokens_per_day=1000)


def claim(name, tokens):
    return Claim(name, "k", 0, tokens, 0, 1e9)


async def spend(keeper, name, held, used):
    """Whether a claim was granted; it is settled then."""
    asked = claim(name, held)
    reply = await keeper.claim(asked, DAILY)
    if reply.refused is None:
        await keeper.settle(asked, DAILY, used, reply.life)
    return reply.refused is None


steps = st.tuples(st.integers(1, 300), st.integers(0, 100), st.booleans())
lives = st.lists(st.lists(steps, max_size=8), max_size=6)


@settings(max_examples=30, deadline=None)
@given(lives=lives)
def test_a_quota_is_never_exceeded_however_often_the_books_die(tmp_path_factory, lives):
    """Each step: tokens held, per cent of them spent, whether it ends only in the next life."""
    storage = Storage.open(str(tmp_path_factory.mktemp("quota")))

    async def run():
        spent, late = 0, []
        for life, claims in enumerate(lives):
            keeper = Keeper(storage)
            for ending in late:
                await keeper.settle(*ending)
            late = []
            for i, (held, share, ends_late) in enumerate(claims):
                asked, used = claim(f"{life}-{i}", held), held * share // 100
                reply = await keeper.claim(asked, DAILY)
                if reply.refused is None:
                    spent += used
                    ending = (asked, DAILY, used, reply.life)
                    await (_put(late, ending) if ends_late else keeper.settle(*ending))
        return spent

    assert asyncio.run(run()) <= 1000


async def _put(late, ending):
    late.append(ending)


def test_a_death_costs_at_most_a_hundredth_beside_what_was_under_way(tmp_path):
    storage = Storage.open(str(tmp_path))

    async def run():
        first = Keeper(storage)
        assert await spend(first, "a", 500, 500)
        second = Keeper(storage)
        assert not await spend(second, "b", 491, 0)
        assert await spend(second, "c", 490, 0)

    asyncio.run(run())


@pytest.mark.parametrize("opened_again", [False, True])
def test_a_new_day_begins_with_all_of_it(tmp_path, clock, opened_again):
    async def run():
        keeper = Keeper(Storage.open(str(tmp_path)), clock, clock)
        assert await spend(keeper, "a", 1000, 1000)
        assert not await spend(keeper, "b", 1, 1)
        clock.now += 86_400
        if opened_again:
            keeper = Keeper(Storage.open(str(tmp_path)), clock, clock)
        assert await spend(keeper, "c", 1000, 1000)
        assert not await spend(keeper, "d", 1, 1)

    asyncio.run(run())


def test_an_answer_that_ends_after_a_death_does_not_shrink_what_is_written(tmp_path):
    storage = Storage.open(str(tmp_path))

    async def run():
        first = Keeper(storage)
        asked = claim("a", 10)
        assert await spend(first, "b", 900, 900)
        reply = await first.claim(asked, DAILY)
        second = Keeper(storage)
        await second.settle(asked, DAILY, 10, reply.life)
        assert not await spend(second, "c", 100, 0)

    asyncio.run(run())


def test_many_at_once_leave_the_largest_number_written(tmp_path):
    storage = Storage.open(str(tmp_path))

    async def run():
        keeper = Keeper(storage)
        replies = await asyncio.gather(
            *(keeper.claim(claim(f"c{i}", 10), DAILY) for i in range(120))
        )
        return sum(reply.refused is None for reply in replies)

    assert asyncio.run(run()) == 100
    assert storage.read_json(f"{QUOTAS}/k.json")["tokens"] == 1000


def test_where_a_quota_cannot_be_written_nothing_is_given_out_or_held(tmp_path, monkeypatch):
    storage = Storage.open(str(tmp_path))

    async def run():
        keeper = Keeper(storage)
        with monkeypatch.context() as broken:
            broken.setattr(Storage, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
            with pytest.raises(StorageUnavailable):
                await keeper.claim(claim("a", 1000), DAILY)
        assert await spend(keeper, "b", 1000, 1000)

    asyncio.run(run())


def test_a_damaged_count_gives_nothing_out(tmp_path):
    storage = Storage.open(str(tmp_path))
    storage.write(f"{QUOTAS}/k.json", b"{}")
    with pytest.raises(StorageUnavailable, match="damaged"):
        asyncio.run(Keeper(storage).claim(claim("a", 1), DAILY))
