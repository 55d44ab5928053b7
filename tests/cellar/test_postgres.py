"""The store on a real PostgreSQL server, which these tests start and stop."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url

from loraland.cellar.database import open_database
from loraland.cellar.store import NewEvent, Store
from loraland.cellar.tables import STEPS, migrate
from loraland.errors import EventConflict, InvalidKey, StorageUnavailable

pytestmark = pytest.mark.slow


def programs() -> Path:
    """Where PostgreSQL's server programs lie, or a skip that says what to install."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    found += [path for path in [shutil.which("initdb")] if path]
    if not found:
        pytest.skip("no PostgreSQL server; on Debian: apt-get install postgresql")
    return Path(found[0]).resolve().parent


class Server:
    """A cluster of its own in a temporary folder, on a free port of this machine alone."""

    def __init__(self, folder: Path) -> None:
        self._programs, self._folder = programs(), folder
        self._user: str | None = None
        if os.geteuid() == 0:  # the server refuses to be root
            try:
                entry = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("root cannot run PostgreSQL, and there is no user postgres")
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            self._user = entry.pw_name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", f"{folder}/data", "-U", "tester", "-A", "trust", "-E", "UTF8")

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        log = f"{self._folder}/log"
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-l", log, "-o", options, "start")

    def stop(self, how: str) -> None:
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-m", how, "stop")

    @property
    def url(self) -> URL:
        return make_url(f"postgresql+psycopg://tester@127.0.0.1:{self.port}/postgres")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._user, cwd=self._folder, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not below pytest's own folder, which the server's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="loraland-postgres-"))
    try:
        server = Server(folder)
        server.start()
        yield server
        server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    store = Store(open_database(server.url))
    yield store
    store.close()


def liked(event_id: str, item: str = "a") -> NewEvent:
    return NewEvent(event_id, "liked", item, 1_000, "0" * 12, propensity=0.25, price=9.5, rank=1)


def test_events_are_kept_once_and_as_they_were(store: Store) -> None:
    one = store.add_person()
    assert store.person_of(one.token) == one.id
    assert store.append(one.id, [liked("1"), liked("2", "b")]) == (2, 0)
    assert store.append(one.id, [liked("2", "b"), liked("3", "c")]) == (1, 1)
    with pytest.raises(EventConflict):
        store.append(one.id, [liked("4"), liked("1", "z")])
    rows = store.events(one.id)
    assert [row["event_id"] for row in rows] == ["1", "2", "3"]
    assert (rows[0]["propensity"], rows[0]["price"], rows[0]["rank"]) == (0.25, 9.5, 1)
    assert [opinion.item for opinion in store.opinions(one.id)] == ["a", "b", "c"]
    store.forget(one.id)
    assert store.events(one.id) == []
    with pytest.raises(InvalidKey):
        store.append(one.id, [liked("5")])


def test_many_who_send_the_same_at_once_add_each_once(store: Store, server: Server) -> None:
    person = store.add_person().id
    counts: list[int] = []

    def send() -> None:
        mine = Store(open_database(server.url))
        for batch in range(10):
            events = [liked(f"{batch}-{n}", f"item{n}") for n in range(5)]
            counts.append(mine.append(person, events).new)
        mine.close()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == len(store.events(person)) == 50


def test_programs_that_start_together_make_the_tables_once(server: Server) -> None:
    admin = open_database(server.url)
    with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE fresh")
    admin.dispose()
    done: list[str] = []

    def start() -> None:
        engine = create_engine(server.url.set(database="fresh"))
        migrate(engine, (*STEPS, lambda _: done.append("second step")))
        engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine = create_engine(server.url.set(database="fresh"))
    assert done == ["second step"] and migrate(engine, (*STEPS, lambda _: None)) == 2
    engine.dispose()


WRITER = """
import sys
from sqlalchemy import make_url
from loraland.cellar.database import open_database
from loraland.cellar.store import NewEvent, Store
store = Store(open_database(make_url(sys.argv[1])))
person = store.add_person().id
print(person, flush=True)
for number in range(10**6):
    store.append(person, [NewEvent(str(number), "liked", "a", 1, "0" * 12)])
    print(number, flush=True)
"""


def test_what_was_acknowledged_outlives_a_server_that_falls(server: Server) -> None:
    command = [sys.executable, "-c", WRITER, server.url.render_as_string()]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert writer.stdout is not None
    person = writer.stdout.readline().strip()
    while int(writer.stdout.readline()) < 20:
        pass
    server.stop("immediate")  # no checkpoint: as after a crash
    told = max([20, *(int(line) for line in writer.stdout.read().split())])
    assert writer.wait() not in (0, -signal.SIGKILL)
    server.start()
    store = Store(open_database(server.url))
    kept = [int(str(row["event_id"])) for row in store.events(person)]
    assert kept == list(range(len(kept))) and len(kept) > told
    store.close()


def test_a_server_that_is_away_is_told_and_found_again(store: Store, server: Server) -> None:
    person = store.add_person().id
    server.stop("fast")
    with pytest.raises(StorageUnavailable, match="does not answer now; try again"):
        store.append(person, [liked("1")])
    with pytest.raises(StorageUnavailable, match=r"Connection refused|connection failed"):
        open_database(server.url)
    server.start()
    assert store.append(person, [liked("1")]).new == 1
