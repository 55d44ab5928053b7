"""Keys on a local folder and on S3: nothing is lost, revoked is revoked, damage is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loraland.errors import InvalidConfiguration, StorageCorrupt, UnknownKey
from loraland.serving.access.keys import is_genuine, read_key
from loraland.serving.access.store import KEYS, REVOKED, KeyStore
from loraland.storage import Storage


@pytest.fixture
def store(storage_uri):
    return KeyStore(Storage.open(storage_uri))


def test_a_key_is_found_again_with_all_it_may(store):
    made = store.create("team", models=["tiny/*"], requests_per_minute=60, admin=True)
    record = store.read(made.record.id)
    assert record == made.record
    assert is_genuine(read_key(made.text), record)
    assert store.ids() == {record.id}


def test_keys_made_at_the_same_time_are_all_kept(store):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.create(f"key {n}"), range(24)))
    assert store.ids() == {one.record.id for one in made}
    assert {record.name for record, _ in store.listed()} == {f"key {n}" for n in range(24)}


def test_a_revoked_key_holds_no_more_and_is_still_listed(store):
    gone, stays = store.create("gone"), store.create("stays")
    assert store.revoke(gone.record.id) == gone.record
    assert store.revoke(gone.record.id) == gone.record
    assert store.ids() == {stays.record.id}
    with pytest.raises(FileNotFoundError):
        store.read(gone.record.id)
    assert [(r.name, revoked) for r, revoked in store.listed()] == [
        ("gone", True),
        ("stays", False),
    ]


def test_revoking_that_was_killed_in_the_middle_is_ended_by_doing_it_again(tmp_path):
    storage = Storage.open(str(tmp_path))
    store = KeyStore(storage)
    record = store.create("a").record
    storage.write_json(f"{REVOKED}/{record.id}.json", record.model_dump(mode="json"))
    assert store.ids() == {record.id}
    store.revoke(record.id)
    assert store.ids() == set()
    assert [revoked for _, revoked in store.listed()] == [True]


def test_an_unknown_id_is_told_with_the_nearest(store):
    known = store.create("a").record.id
    with pytest.raises(UnknownKey, match=known):
        store.revoke(known[:-1] + "x")
    with pytest.raises(UnknownKey):
        store.revoke("../../etc/passwd")


def test_what_is_wrong_with_a_key_is_told_at_once(store):
    with pytest.raises(InvalidConfiguration) as caught:
        store.create("a", requests_per_minute=0, models=["../x"])
    assert "requests_per_minute" in caught.value.message
    assert "'../x' is no pattern" in caught.value.message
    assert store.ids() == set()


@pytest.mark.parametrize("damage", ["", "{}", "null", "[" * 10_000])
def test_a_damaged_record_is_refused(tmp_path, damage):
    storage = Storage.open(str(tmp_path))
    store = KeyStore(storage)
    record = store.create("a").record
    storage.write(f"{KEYS}/{record.id}.json", damage.encode())
    with pytest.raises(StorageCorrupt, match="not the record of a key"):
        store.read(record.id)


def test_a_record_under_another_id_is_refused(tmp_path):
    storage = Storage.open(str(tmp_path))
    store = KeyStore(storage)
    one, other = store.create("one").record, store.create("other").record
    storage.write_json(f"{KEYS}/{one.id}.json", other.model_dump(mode="json"))
    with pytest.raises(StorageCorrupt):
        store.read(one.id)


def test_files_that_are_no_keys_are_left_alone(tmp_path):
    storage = Storage.open(str(tmp_path))
    for name in ("notes.txt", "0123.json", "..json"):
        storage.write(f"{KEYS}/{name}", b"x")
    assert KeyStore(storage).ids() == set()


def test_no_secret_is_written_anywhere(tmp_path):
    store = KeyStore(Storage.open(str(tmp_path)))
    made = store.create("a")
    store.revoke(made.record.id)
    secret = read_key(made.text).secret.encode()
    written = [file for file in Path(tmp_path).rglob("*") if file.is_file()]
    assert written
    assert [file for file in written if secret in file.read_bytes()] == []
