"""Opens the database of people and events: SQLite by default, PostgreSQL by URL.

A commit that returned is on the disk: SQLite writes ahead (WAL) and flushes at each commit. A URL
never holds a password, since URLs end in settings and logs.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from loraland.cellar.tables import migrate
from loraland.errors import InvalidConfiguration, StorageUnavailable
from loraland.storage import Storage

logger = logging.getLogger(__name__)

FILE = "people/people.db"  # in a storage that is a folder
POSTGRES = "postgresql+psycopg"
WAITS_S = 10  # for another writer, or for a connection
CONNECTIONS = 8


def url_of(database: str | None, storage: Storage) -> URL:
    """Where people and events are kept: as named, or `people/people.db` in a storage on a disk.

    Raises InvalidConfiguration as `named` does, and where nothing is named and there is no disk.
    """
    if database:
        return named(database)
    if not storage.is_local:
        raise InvalidConfiguration(
            f"people cannot be kept in {storage.uri}, which is no folder; name a database: "
            f"LORALAND_DATABASE={POSTGRES}://USER@HOST/NAME, or a path for SQLite"
        )
    return _sqlite(Path(storage.locate(FILE)))


def named(database: str) -> URL:
    """The URL of a path, which is a SQLite file, or of a URL.

    Raises InvalidConfiguration for a URL of another kind or with a password, whose text is not
    repeated.
    """
    if "://" not in database:
        return _sqlite(Path(database))
    try:
        url = make_url(database)
    except ArgumentError:
        url = None
    if url is None or url.password is not None or "password" in url.query:
        raise InvalidConfiguration(
            "the URL of the database is none, or holds a password; give the password by "
            f"PGPASSWORD or ~/.pgpass, and the URL as {POSTGRES}://USER@HOST:PORT/NAME"
        )
    if url.drivername == "sqlite" and url.database:
        return _sqlite(Path(url.database))
    if url.drivername != POSTGRES:
        raise InvalidConfiguration(
            f"a database of kind '{url.drivername[:40]}' is not known; possible: a path or "
            f"sqlite:///PATH, {POSTGRES}://USER@HOST:PORT/NAME"
        )
    return url


def open_database(url: URL) -> Engine:
    """A database at the newest step of its tables; a SQLite file is made when absent.

    Raises StorageUnavailable when it cannot be reached, InvalidConfiguration for one of a newer
    program and where the driver is not installed.
    """
    shown = url.render_as_string(hide_password=True)
    options: dict[str, Any] = {"pool_timeout": WAITS_S, "pool_size": CONNECTIONS}
    if url.drivername == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        options["connect_args"] = {"timeout": WAITS_S}
    else:
        options |= {"pool_pre_ping": True, "connect_args": {"connect_timeout": WAITS_S}}
    try:
        engine = create_engine(url, hide_parameters=True, **options)
    except (NoSuchModuleError, ImportError) as error:
        raise InvalidConfiguration(
            f"{shown} needs a driver that is not here; pip install 'loraland[postgres]'"
        ) from error
    if url.drivername == "sqlite":
        _as_we_need_it(engine)
    try:
        with answering(told=True):
            migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def answering(*, told: bool = False) -> Iterator[None]:
    """What a database raises as StorageUnavailable; the reason goes to the log, or is `told`."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        # The first line alone: others may repeat values.
        why = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
        logger.error("the database failed: %s", why)
        shown = f" ({why})" if told else ""
        raise StorageUnavailable(f"the database does not answer now{shown}; try again") from error


def _sqlite(path: Path) -> URL:
    return URL.create("sqlite", database=str(path.expanduser().resolve()))


def _as_we_need_it(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, also those that make tables
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Any) -> None:
        # A writer takes its lock at once: one that has read before it writes could not wait.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
