from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine

from loraland.cellar import store as store_module
from loraland.cellar.database import open_database, url_of
from loraland.cellar.store import NewEvent, Store
from loraland.cellar.tables import STEPS, migrate
from loraland.errors import (
    EventConflict,
    InvalidConfiguration,
    InvalidKey,
    PersonFull,
    StorageUnavailable,
)
from loraland.storage import Storage

MODEL = "0" * 12


def liked(event_id: str, item: str = "a", kind: store_module.Kind = "liked") -> NewEvent:
    return NewEvent(event_id, kind, item, at_ms=1_000, model_version=MODEL)


def test_events_sent_twice_count_once(store: Store) -> None:
    person = store.add_person().id
    assert store.append(person, [liked("1"), liked("2", "b")]) == (2, 0)
    assert store.append(person, [liked("2", "b"), liked("3", "c"), liked("3", "c")]) == (1, 2)
    assert [one.item for one in store.opinions(person)] == ["a", "b", "c"]
    other = store.add_person().id
    assert store.append(other, [liked("1", "z")]) == (1, 0)  # ids are a person's own


def test_an_id_that_stands_for_something_else_is_refused_and_nothing_is_kept(store: Store) -> None:
    person = store.add_person().id
    store.append(person, [liked("1")])
    for wrong in (liked("1", "b"), liked("1", kind="disliked")):
        with pytest.raises(EventConflict, match="stands for 'liked' of item a"):
            store.append(person, [liked("new"), wrong])
    with pytest.raises(EventConflict):
        store.append(person, [liked("2", "b"), liked("2", "c")])
    assert len(store.events(person)) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=6))
def test_however_events_are_sent_again_each_is_there_once(batches: list[list[int]]) -> None:
    store = Store(open_memory())
    person = store.add_person().id
    new = 0
    for batch in batches:
        new += store.append(person, [liked(str(n), f"item{n}") for n in batch]).new
    kept = [row["event_id"] for row in store.events(person)]
    assert len(kept) == len(set(kept)) == new
    assert set(kept) == {str(n) for batch in batches for n in batch}


def open_memory() -> Engine:
    engine = create_engine("sqlite://")
    migrate(engine)
    return engine


def test_threads_that_send_the_same_events_at_once_add_each_once(store: Store) -> None:
    person = store.add_person().id
    counts: list[int] = []

    def send() -> None:
        for batch in range(10):
            events = [liked(f"{batch}-{n}", f"item{n}") for n in range(5)]
            counts.append(store.append(person, events).new)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == len(store.events(person)) == 50


def test_only_the_right_token_opens_and_the_database_does_not_hold_it(
    store: Store, tmp_path: Path
) -> None:
    one, other = store.add_person(), store.add_person()
    assert store.person_of(one.token) == one.id
    secret = one.token.partition(".")[2]
    wrong = ["", ".", one.id, f"{one.id}.", f"{other.id}.{secret}", f"{'0' * 16}.{secret}"]
    wrong += [one.token + "x", one.token.swapcase(), "é" * 16 + ".x", f"{one.id}.\0"]
    for token in wrong:
        with pytest.raises(InvalidKey, match="no valid token"):
            store.person_of(token)
    store.close()
    for file in tmp_path.glob("people.db*"):
        assert secret.encode() not in file.read_bytes()


def test_a_person_who_is_forgotten_leaves_nothing(store: Store, engine: Engine) -> None:
    one, other = store.add_person(), store.add_person()
    store.append(one.id, [liked("1")])
    store.append(other.id, [liked("1")])
    store.forget(one.id)
    assert store.events(one.id) == [] and len(store.events(other.id)) == 1
    with pytest.raises(InvalidKey):
        store.person_of(one.token)
    with pytest.raises(InvalidKey):
        store.append(one.id, [liked("2")])


def test_a_person_may_have_only_so_many_events(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_EVENTS", 3)
    person = store.add_person().id
    store.append(person, [liked("1"), liked("2"), liked("3")])
    with pytest.raises(PersonFull, match="has 3"):
        store.append(person, [liked("4")])


WRITER = """
import sys
from loraland.cellar.database import open_database, url_of
from loraland.cellar.store import NewEvent, Store
from loraland.storage import Storage
store = Store(open_database(url_of(sys.argv[1], Storage.open(sys.argv[2]))))
person = store.add_person().id
print(person, flush=True)
for batch in range(10**6):
    ids = [f"{batch}-{n}" for n in range(20)]
    store.append(person, [NewEvent(i, "liked", i, 1, "0" * 12) for i in ids])
    print(batch, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_acknowledged(
    tmp_path: Path, after: int
) -> None:
    place = tmp_path / "people.db"
    command = [sys.executable, "-c", WRITER, str(place), str(tmp_path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    person = writer.stdout.readline().strip()
    told = -1
    while told < after:
        told = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)  # it goes on writing until then
    told = max([told, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
    assert writer.wait() == -signal.SIGKILL

    store = Store(open_database(url_of(str(place), Storage.open(str(tmp_path)))))
    kept = [str(row["event_id"]) for row in store.events(person)]
    acknowledged = [f"{batch}-{n}" for batch in range(told + 1) for n in range(20)]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) % 20 == 0  # a batch is there whole or not at all
    assert store.append(person, [liked("after")]).new == 1


def test_tables_are_made_once_and_steps_are_applied_in_order(tmp_path: Path) -> None:
    url = url_of(str(tmp_path / "people.db"), Storage.open(str(tmp_path)))
    store = Store(open_database(url))
    person = store.add_person()
    store.append(person.id, [liked("1")])
    store.close()
    again = open_database(url)
    assert len(Store(again).events(person.id)) == 1
    done: list[str] = []

    def broken(connection: object) -> None:
        connection.exec_driver_sql("CREATE TABLE half (a INTEGER)")  # type: ignore[attr-defined]
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        migrate(again, (*STEPS, broken))
    with again.begin() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
    assert "half" not in names
    assert migrate(again, (*STEPS, lambda _: done.append("second"))) == len(STEPS) + 1
    assert migrate(again, (*STEPS, lambda _: done.append("again"))) == len(STEPS) + 1
    assert done == ["second"]
    again.dispose()
    with pytest.raises(InvalidConfiguration, match="at step 2 of its tables, this program"):
        open_database(url)


def test_a_commit_is_flushed_and_readers_do_not_wait(engine: Engine) -> None:
    with engine.begin() as connection:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


@pytest.mark.parametrize(
    ("database", "told"),
    [
        ("postgresql+psycopg://me:secret-word@host/name", "PGPASSWORD"),
        ("postgresql+psycopg://me@host/name?password=secret-word", "PGPASSWORD"),
        ("mysql://me@host/name", "kind 'mysql' is not known"),
        ("postgresql://me@host/name", "kind 'postgresql' is not known"),
        ("sqlite://", "kind 'sqlite' is not known"),
        ("://secret-word", "the URL of the database is none"),
    ],
)
def test_a_database_that_cannot_be_is_told_without_its_password(
    tmp_path: Path, database: str, told: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=told) as caught:
        url_of(database, Storage.open(str(tmp_path)))
    assert "secret-word" not in caught.value.message


def test_by_default_people_are_kept_in_a_storage_that_is_a_folder(tmp_path: Path) -> None:
    url = url_of(None, Storage.open(str(tmp_path)))
    assert url.database == str(tmp_path / "people" / "people.db")
    for named in (str(tmp_path / "b.db"), f"sqlite:///{tmp_path}/b.db"):
        assert url_of(named, Storage.open(str(tmp_path))).database == str(tmp_path / "b.db")
    far = Storage(Storage.open(str(tmp_path)).filesystem, "bucket", "s3://bucket")
    object.__setattr__(far, "filesystem", object())
    with pytest.raises(InvalidConfiguration, match="LORALAND_DATABASE"):
        url_of(None, far)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "people.db").write_text("this is no database " * 100)
    with pytest.raises(StorageUnavailable, match="not a database"):
        open_database(url_of(str(tmp_path / "people.db"), Storage.open(str(tmp_path))))


def test_a_writer_that_waits_too_long_for_another_is_told(store: Store, tmp_path: Path) -> None:
    person = store.add_person().id
    other = sqlite3.connect(tmp_path / "people.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=100")
    with pytest.raises(StorageUnavailable, match="does not answer now; try again"):
        store.append(person, [liked("1")])
    other.execute("ROLLBACK")
    assert store.append(person, [liked("1")]).new == 1
    other.close()
