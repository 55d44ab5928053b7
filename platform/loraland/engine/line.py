"""The line of waiting adapters: which of them moves next toward the device, and in whose place.

Reads the books of residency and changes nothing. Knows places in the line, slots and host bytes;
knows nothing of tensors, files, threads or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from loraland.engine.allotment import Offer, Offers, Room
from loraland.engine.books import Books
from loraland.engine.tiers import Load, Record, Tier


class Line:
    """Versions that wait, in the order of service, and what the books allow them now."""

    def __init__(
        self, books: Books, wanted: Iterable[str], is_refused: Callable[[str], bool]
    ) -> None:
        """`wanted` may repeat; those that failed a moment ago are passed over.

        Raises UnknownModel.
        """
        self._books = books
        self._places = {version: place for place, version in enumerate(dict.fromkeys(wanted))}
        records = [books.find(version) for version in self._places]
        self._missing = [  # off the device, in order
            record for record in records if record.slot is None and not is_refused(record.version)
        ]

    def loads(self) -> list[Load]:
        """The next step of each version for which a slot can be had, its own or one to wait for."""
        if not self._missing or not (idle := self._offers(running=False)):
            return []
        offers, room = Offers(idle), self._room()
        plan: list[Load] = []
        for record in self._missing:
            place = self._places[record.version]
            if _arrives(record):
                continue
            if Tier.HOST in record.copies:
                if (offer := offers.take(place)) is not None:
                    slot, victim, _ = offer
                    plan.append(Load(record.version, Tier.HOST, Tier.DEVICE, slot, victim))
            elif (
                offers.expect(place)
                and record.load is None
                # The first in line never waits for host memory that others in the line hold.
                and room.admit(record.known_bytes, over=record is self._missing[0])
            ):
                plan.append(Load(record.version, record.home, Tier.HOST))
        return plan

    def prefetches(self) -> list[Load]:
        """Loads into host memory, within what is left of its budget."""
        cold = [r for r in self._missing if not r.load and Tier.HOST not in r.copies]
        if not cold:
            return []
        room = self._room()
        return [
            Load(record.version, record.home, Tier.HOST)
            for record in cold
            if room.admit(record.known_bytes)
        ]

    def drained(self) -> list[str]:
        """A running version for each waiting one that finds no idle slot, the last in line first.

        Only those whose own next request waits behind.
        """
        if not self._missing:
            return []
        idle, busy = Offers(self._offers(running=False)), Offers(self._offers(running=True))
        named: list[str] = []
        for record in self._missing:
            place = self._places[record.version]
            if _arrives(record) or idle.take(place) is not None:
                continue
            if (offer := busy.take(place)) is not None and offer.victim is not None:
                named.append(offer.victim)
        return named

    def _offers(self, *, running: bool) -> list[Offer]:
        """Slots that may change hands, best first: free ones and idle ones, or those that run."""
        books = self._books
        slots = [slot for slot in range(1, books.slots + 1) if slot not in books.incoming]
        offers = [Offer(s, None, math.inf) for s in slots if not running and s not in books.holders]
        held = [
            books.records[version]
            for slot, version in books.holders.items()
            if slot not in books.incoming
        ]
        held = [record for record in held if not record.pinned and (record.running > 0) is running]
        held.sort(key=lambda record: (record.leases > 0, books.value(record, Tier.DEVICE)))
        offers += [
            Offer(record.slot, record.version, self._places.get(record.version, math.inf))
            for record in held
            if record.slot is not None
        ]
        return sorted(offers, key=lambda offer: -offer.place)  # stable: equals keep their order

    def _room(self) -> Room:
        records = self._books.records.values()
        kept = sum(record.host_bytes for record in records if self._books.keeps_host(record))
        coming = [r.known_bytes for r in records if r.load and r.load.slot is None]
        return Room(self._books.host_bytes - kept - sum(coming), idle=not coming)


def _arrives(record: Record) -> bool:
    """Whether a slot is being written for it."""
    return record.load is not None and record.load.to_tier is Tier.DEVICE
