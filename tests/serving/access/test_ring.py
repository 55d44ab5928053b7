"""Which key was shown: new and revoked keys are seen, guesses read nothing, outages are bridged."""

from __future__ import annotations

import asyncio

import pytest

from loraland.errors import InvalidKey, StorageUnavailable
from loraland.serving.access.keys import make_key
from loraland.serving.access.ring import BELIEVED_S, STALE_S, KeyRing
from loraland.serving.access.store import KEYS, KeyStore
from loraland.storage import Storage


class Counted(KeyStore):
    """A store that counts what it is asked, and fails where a test says so."""

    def __init__(self, storage):
        super().__init__(storage)
        self.listings = self.reads = 0
        self.broken = False

    def ids(self):
        self.listings += 1
        if self.broken:
            raise OSError("gone")
        return super().ids()

    def read(self, key_id):
        self.reads += 1
        return super().read(key_id)


@pytest.fixture
def store(tmp_path):
    return Counted(Storage.open(str(tmp_path)))


@pytest.fixture
def ring(store, clock):
    return KeyRing(store, clock)


def caller(ring, text):
    return asyncio.run(ring.caller(text))


def test_a_key_says_who_asks_and_what_that_one_may(store, ring):
    made = store.create("a", models=["tiny/*"], tokens_per_day=7, admin=True)
    found = caller(ring, made.text)
    assert (found.key, found.models, found.admin) == (made.record.id, ("tiny/*",), True)
    assert found.allowance.tokens_per_day == 7


def test_everything_that_is_no_key_is_refused_with_one_text(store, ring):
    known = store.create("a")
    wrong = known.text[:-1] + ("a" if known.text[-1] != "a" else "b")
    texts = [None, "", "none", wrong, make_key("b").text, known.text + "x", known.text.upper()]
    told = set()
    for text in texts:
        with pytest.raises(InvalidKey) as caught:
            caller(ring, text)
        told.add(caught.value.message)
        assert known.text not in caught.value.message
    assert len(told) == 1


def test_new_and_revoked_keys_are_seen_within_seconds(store, ring, clock):
    first = store.create("a")
    caller(ring, first.text)
    second = store.create("b")
    with pytest.raises(InvalidKey):
        caller(ring, second.text)
    store.revoke(first.record.id)
    clock.now += BELIEVED_S
    caller(ring, second.text)
    with pytest.raises(InvalidKey):
        caller(ring, first.text)


def test_an_expired_key_is_refused_by_its_id(store, ring):
    made = store.create("a", expires="2020-01-01T00:00:00Z")
    with pytest.raises(InvalidKey, match=f"{made.record.id} expired"):
        caller(ring, made.text)


def test_many_requests_and_guesses_cost_one_listing_and_one_read(store, ring):
    made = store.create("a")

    async def many():
        good = [ring.caller(made.text) for _ in range(20)]
        guesses = [ring.caller(make_key("x").text) for _ in range(20)]
        return await asyncio.gather(*good, *guesses, return_exceptions=True)

    results = asyncio.run(many())
    assert sum(isinstance(result, InvalidKey) for result in results) == 20
    asyncio.run(many())
    assert store.listings == 1
    assert store.reads <= 20  # those that came before the first read ended
    before = store.reads
    asyncio.run(many())
    assert store.reads == before


def test_while_storage_is_away_the_last_listing_stands_for_a_minute(store, ring, clock):
    made = store.create("a")
    caller(ring, made.text)
    store.broken = True
    clock.now += STALE_S - 1
    caller(ring, made.text)
    clock.now += 1
    with pytest.raises(StorageUnavailable, match="retry"):
        caller(ring, made.text)
    store.broken = False
    caller(ring, made.text)


def test_a_damaged_record_refuses_its_key_alone(tmp_path, store, ring):
    good, bad = store.create("good"), store.create("bad")
    Storage.open(str(tmp_path)).write(f"{KEYS}/{bad.record.id}.json", b"{}")
    caller(ring, good.text)
    with pytest.raises(InvalidKey):
        caller(ring, bad.text)
