"""The tables of people and events, and the steps that bring a database to them.

A step is applied once, in one transaction with the number that says so; so a database that was
left in the middle of one is at the step before. Knows no people and no URLs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
    insert,
    inspect,
    select,
    text,
)

from loraland.errors import InvalidConfiguration

METADATA = MetaData()
_SERIAL = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER alone
_MIGRATING = 0x70616C61  # of PostgreSQL's advisory locks

SCHEMA = Table(
    "palate_schema",
    METADATA,
    Column("step", Integer, primary_key=True, autoincrement=False),
)

PEOPLE = Table(
    "palate_people",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("token_hash", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

EVENTS = Table(
    "palate_events",
    METADATA,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),  # in the order they came
    Column("person_id", ForeignKey(PEOPLE.c.id, ondelete="CASCADE"), nullable=False),
    Column("event_id", String(128), nullable=False),  # made by the client; by us for `shown`
    Column("kind", String(16), nullable=False),
    Column("item", String(256), nullable=False),
    Column("at_ms", BigInteger, nullable=False),  # when it happened
    Column("received_ms", BigInteger, nullable=False),
    Column("model_version", String(12), nullable=False),
    Column("palate", String(16)),  # of the item, in that model
    Column("list_id", String(64)),  # the list that it came of, or was shown in
    Column("rank", Integer),  # in that list, from 1
    Column("quota", Integer),  # places that the item's palate had in that list
    Column("propensity", Float),  # the chance that the item was in it
    Column("price", Float),  # that was seen
    UniqueConstraint("person_id", "event_id", name="palate_events_once"),
    Index("palate_events_of_person", "person_id", "kind", "seq"),
)

Step = Callable[[Connection], None]


def _first(connection: Connection) -> None:
    METADATA.create_all(connection, [PEOPLE, EVENTS])


STEPS: tuple[Step, ...] = (_first,)


def migrate(engine: Engine, steps: Sequence[Step] = STEPS) -> int:
    """Apply the steps that a database lacks; the number it is at then.

    Two processes that start together apply each once. Raises InvalidConfiguration for a database
    of a newer program.
    """
    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
        there = _step(connection)
        if there > len(steps):
            raise InvalidConfiguration(
                f"the database is at step {there} of its tables, this program knows {len(steps)}: "
                "a newer one has used it. Update this program, or name another database"
            )
        for number, step in enumerate(steps[there:], start=there + 1):
            step(connection)
            connection.execute(insert(SCHEMA).values(step=number))
        return max(there, len(steps))


def _step(connection: Connection) -> int:
    if not inspect(connection).has_table(SCHEMA.name):
        METADATA.create_all(connection, [SCHEMA])
        return 0
    return int(connection.execute(select(func.max(SCHEMA.c.step))).scalar() or 0)
