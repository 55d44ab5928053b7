"""People and what happened, append-only: an event that is sent twice is kept once.

A person is a random id with a token of which only a hash is kept; there is no other data on
anybody. The one thing that is ever deleted is a person with all of their events, at their wish.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import Engine, Select, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from loraland.cellar.database import answering
from loraland.cellar.tables import EVENTS, PEOPLE
from loraland.errors import EventConflict, InvalidKey, PersonFull

Kind = Literal["shown", "clicked", "tasted", "liked", "disliked", "price_seen"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OPINIONS: tuple[Kind, ...] = ("liked", "disliked", "tasted")
MOST_EVENTS = 200_000  # of one person
MOST_READ = 20_000  # newest opinions that a profile is made of

# One text whatever is wrong, so that it tells nothing about people.
REFUSED = "no valid token; send `Authorization: Bearer TOKEN`, as POST /v1/people gives it"


class NewEvent(NamedTuple):
    """Something that happened to an item."""

    event_id: str  # equal ids of one person are one event
    kind: Kind
    item: str
    at_ms: int  # milliseconds since 1970
    model_version: str
    palate: str | None = None
    list_id: str | None = None
    rank: int | None = None
    quota: int | None = None
    propensity: float | None = None
    price: float | None = None


class Opinion(NamedTuple):
    """What a person said of an item, as it is stored."""

    kind: str
    item: str
    at_ms: int


class Recorded(NamedTuple):
    """What came of some events."""

    new: int
    known: int  # were there already


class Person(NamedTuple):
    """Somebody new. The token is told once."""

    id: str
    token: str


class Store:
    """People and events in a database. Every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        """Keep them in a database that `open_database` gave."""
        self._engine, self._writer = engine, engine.execution_options(writes=True)
        kinds: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
        self._insert = kinds[engine.dialect.name]

    def add_person(self) -> Person:
        """Somebody new. Raises StorageUnavailable, as all methods do."""
        person, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = {"id": person, "token_hash": _hash(secret), "created_ms": now_ms()}
        with answering(), self._writer.begin() as connection:
            connection.execute(PEOPLE.insert().values(row))
        return Person(person, f"{person}.{secret}")

    def person_of(self, token: str) -> str:
        """The id of whom a token belongs to. Raises InvalidKey."""
        person, _, secret = token.partition(".")
        if not (token.isascii() and token.isprintable() and len(person) == 16 and secret):
            raise InvalidKey(REFUSED)
        asked = select(PEOPLE.c.token_hash).where(PEOPLE.c.id == person)
        with answering(), self._engine.begin() as connection:
            kept = connection.execute(asked).scalar()
        if not hmac.compare_digest(_hash(secret), kept or ""):
            raise InvalidKey(REFUSED)
        return person

    def append(self, person: str, events: Sequence[NewEvent]) -> Recorded:
        """Keep events, all or none; those whose id is there already are left as they are.

        When this returns they outlive a crash. Raises EventConflict for an id that stands for
        something else, PersonFull, and InvalidKey for somebody who is not, or no longer, there.
        """
        rows = _rows(person, events)
        with answering(), self._writer.begin() as connection:
            if connection.execute(_locked(person, connection)).scalar() is None:
                raise InvalidKey(REFUSED)
            there = connection.execute(_count(person)).scalar_one()
            if there + len(rows) > MOST_EVENTS:
                raise PersonFull(
                    f"a person may have {MOST_EVENTS} events, this one has {there}; go on as a "
                    "new one (POST /v1/people)"
                )
            adding = self._insert(EVENTS).on_conflict_do_nothing(
                index_elements=[EVENTS.c.person_id, EVENTS.c.event_id]
            )
            new = set[str]()
            if rows:
                added = connection.execute(adding.returning(EVENTS.c.event_id).values(rows))
                new = set(added.scalars())
            _check(connection, person, [row for row in rows if row["event_id"] not in new])
        return Recorded(len(new), len(events) - len(new))

    def opinions(self, person: str) -> list[Opinion]:
        """The newest MOST_READ opinions of a person, in the order in which they came."""
        asked = (
            select(EVENTS.c.kind, EVENTS.c.item, EVENTS.c.at_ms)
            .where(EVENTS.c.person_id == person, EVENTS.c.kind.in_(OPINIONS))
            .order_by(EVENTS.c.seq.desc())
            .limit(MOST_READ)
        )
        with answering(), self._engine.begin() as connection:
            return [Opinion(*row) for row in connection.execute(asked)][::-1]

    def events(self, person: str) -> list[dict[str, object]]:
        """All events of a person as they are stored, in the order in which they came."""
        asked = select(EVENTS).where(EVENTS.c.person_id == person).order_by(EVENTS.c.seq)
        with answering(), self._engine.begin() as connection:
            return [dict(row) for row in connection.execute(asked).mappings()]

    def forget(self, person: str) -> None:
        """Delete somebody and all of their events."""
        with answering(), self._writer.begin() as connection:
            connection.execute(delete(PEOPLE).where(PEOPLE.c.id == person))

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _hash(secret: str) -> str:
    # The secret has 256 random bits: nothing slower is needed to keep it from being guessed.
    return hashlib.sha256(secret.encode()).hexdigest()


def _rows(person: str, events: Sequence[NewEvent]) -> list[dict[str, object]]:
    """One row per event id. Raises EventConflict for an id that names two things."""
    received, found = now_ms(), dict[str, dict[str, object]]()
    for one in events:
        row = {"person_id": person, "received_ms": received, **one._asdict()}
        before = found.setdefault(one.event_id, row)
        _require_same(one.event_id, (before["kind"], before["item"]), (one.kind, one.item))
    return list(found.values())


def _locked(person: str, connection: Connection) -> Select[Any]:
    """Asks whether somebody is there; they stay until the end of the transaction."""
    asked = select(PEOPLE.c.id).where(PEOPLE.c.id == person)
    return asked.with_for_update() if connection.dialect.name == "postgresql" else asked


def _count(person: str) -> Select[Any]:
    return select(func.count()).select_from(EVENTS).where(EVENTS.c.person_id == person)


def _check(connection: Connection, person: str, rows: Sequence[dict[str, object]]) -> None:
    """Ids that were there already must stand for what they stood for."""
    wanted = {str(row["event_id"]): (row["kind"], row["item"]) for row in rows}
    asked = select(EVENTS.c.event_id, EVENTS.c.kind, EVENTS.c.item).where(
        EVENTS.c.person_id == person, EVENTS.c.event_id.in_(wanted)
    )
    for event_id, kind, item in connection.execute(asked):
        _require_same(event_id, (kind, item), wanted[event_id])


def _require_same(event_id: str, before: tuple[object, ...], now: tuple[object, ...]) -> None:
    if before != now:
        raise EventConflict(
            f"the id '{event_id}' stands for '{before[0]}' of item {before[1]} and cannot be "
            f"'{now[0]}' of item {now[1]}, too; give each event (and each list) an id of its own"
        )
