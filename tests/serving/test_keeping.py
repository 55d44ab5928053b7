"""Pins and seats: an adapter that is pinned outlives its seat, a death and an autoscaled start."""

from __future__ import annotations

import asyncio

import pytest

from loraland.adapters.names import ModelName
from loraland.errors import AdapterRejected, InvalidRequest, UnknownModel
from loraland.serving.keeping import Keeping
from loraland.serving.pins import Pins
from loraland.serving.seats import Seats
from loraland.storage import Storage

DATES = ModelName.parse("tiny/dates@0123456789ab")
TOPICS = ModelName.parse("tiny/topics@0123456789ab")
BROKEN = ModelName.parse("tiny/broken@0123456789ab")


class Engine:
    """Holds versions; pins those that it holds."""

    def __init__(self):
        self.held, self.pinned = set(), set()

    async def unload(self, version):
        self.held.discard(version)
        self.pinned.discard(version)

    def pin(self, version, pinned):
        if version not in self.held:
            raise UnknownModel(version)
        (self.pinned.add if pinned else self.pinned.discard)(version)


class Stage:
    def __init__(self, place):
        self.engine, self.pins = Engine(), Pins(Storage.open(str(place)))
        self.seats = Seats(self.engine)
        self.keeping = Keeping(self.seats, self.pins, "tiny", self.load)

    async def load(self, name):
        if name == BROKEN:
            raise AdapterRejected("broken")
        self.engine.held.add(str(name))
        self.seats.take(str(name))

    def do(self, *verbs):
        async def run():
            for verb, name in verbs:
                await self.keeping.obey(verb, name)

        asyncio.run(run())

    def reconcile(self):
        asyncio.run(self.keeping.reconcile())


def test_a_pinned_adapter_stays_when_serve_takes_its_seat(tmp_path):
    stage = Stage(tmp_path)
    stage.do(("pin", DATES), ("load", TOPICS))
    asyncio.run(stage.seats.leave(str(DATES)))
    asyncio.run(stage.seats.leave(str(TOPICS)))
    assert stage.engine.held == stage.engine.pinned == {str(DATES)}
    stage.do(("unpin", DATES))
    assert stage.engine.held == set()


def test_unpinning_leaves_one_with_a_seat_and_unloading_takes_any(tmp_path):
    stage = Stage(tmp_path)
    stage.do(("pin", DATES), ("unpin", DATES), ("unpin", TOPICS))
    assert (stage.engine.held, stage.engine.pinned) == ({str(DATES)}, set())
    stage.do(("pin", DATES), ("unload", DATES), ("unload", TOPICS))
    assert stage.engine.held == stage.seats.pinned == set()


def test_a_new_replica_comes_to_what_storage_says(tmp_path):
    pins = Pins(Storage.open(str(tmp_path)))
    for name in (DATES, BROKEN, ModelName.parse("other/dates@0123456789ab")):
        pins.add(name)
    stage = Stage(tmp_path)
    stage.reconcile()
    assert stage.engine.pinned == {str(DATES)}  # and the broken one costs the others nothing
    pins.remove(DATES)
    pins.add(TOPICS)
    stage.reconcile()
    assert stage.engine.pinned == {str(TOPICS)}


def test_pins_are_kept_by_base_and_what_else_lies_there_is_passed_over(tmp_path):
    storage = Storage.open(str(tmp_path))
    pins = Pins(storage)
    assert pins.of("tiny") == []
    pins.add(TOPICS)
    pins.add(DATES)
    storage.write_json("pins/tiny/dates/notes.json", {})
    assert pins.of("tiny") == [DATES, TOPICS]
    pins.remove(DATES)
    pins.remove(DATES)
    assert pins.of("tiny") == [TOPICS]


def test_the_reference_engine_says_that_it_cannot_pin(tmp_path):
    seats = Seats(object())
    with pytest.raises(InvalidRequest, match="engine=batched"):
        seats.pin("x")
