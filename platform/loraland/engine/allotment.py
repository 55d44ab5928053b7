"""Hands out device slots and host bytes to adapters that wait in line, the first one first.

Knows places in the line, slots and bytes; why a slot may change hands is decided in `residency`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Offer(NamedTuple):
    """A slot that those may have who wait ahead of `place`."""

    slot: int
    victim: str | None  # who is in it; None when it is free
    place: float  # where the victim itself waits in the line; infinite when it does not


class Offers:
    """Slots to be had, best first: `place` never rises from one offer to the next."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._offers = offers
        self._taken = self._expected = 0

    def take(self, place: int) -> Offer | None:
        """The next slot, for a version that waits at `place` and is ready for it."""
        if (offer := self._at(self._taken, place)) is not None:
            self._taken += 1
        return offer

    def expect(self, place: int) -> bool:
        """Whether a slot is left for a version that has yet to reach host memory.

        One that is ready may still take it: a slow disk leaves no slot empty.
        """
        found = self._at(self._taken + self._expected, place) is not None
        self._expected += found
        return found

    def _at(self, index: int, place: int) -> Offer | None:
        if index < len(self._offers) and self._offers[index].place > place:
            return self._offers[index]
        return None


class Room:
    """Host bytes that loads may still take, in order."""

    def __init__(self, free_bytes: int, *, idle: bool) -> None:
        """`idle` says that nothing is on its way into host memory; free bytes may be below 0."""
        self._free_bytes, self._idle = free_bytes, idle

    def admit(self, size_bytes: int, *, over: bool = False) -> bool:
        """Whether a load may start. Behind one that does not fit none does, however small.

        With `over`, one that does not fit may start all the same if it is alone.
        """
        admitted = size_bytes <= self._free_bytes or (over and self._idle)
        self._free_bytes -= size_bytes
        self._idle = self._idle and not admitted
        return admitted
