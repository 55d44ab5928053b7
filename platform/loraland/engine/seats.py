"""Which generating rows have their keys and values in one piece, and where.

A row that generates is attended to at every pass; gathering its blocks each time costs as much as
the attention itself. So it gets a seat: a second copy of its keys and values in one piece, which
grows by a token per pass. Seats of similar size lie beside each other and are attended to together.
Knows rows, lengths and bounds; nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

SMALLEST = 128  # tokens of a seat; sizes then are 192, 256, 384, 512, ...: at most half is unused


class Seat(NamedTuple):
    """Where the tokens of a row lie."""

    size: int  # tokens that it has room for
    place: int  # among the seats of this size, which are taken from 0 without gaps


class Seating(NamedTuple):
    """The seats of one pass."""

    seats: list[Seat | None]  # of each row; None: it finds no room
    fresh: list[bool]  # whether the seat must be filled first


class Seats:
    """Who sits where, pass after pass."""

    def __init__(self, tokens: int) -> None:
        """`tokens`: room for all seats together; with 0 nobody has one."""
        self._tokens = tokens
        self._held: dict[Hashable, tuple[Seat, int]] = {}  # seat, and tokens that lie in it

    @staticmethod
    def capacity(rows: int) -> int:
        """Seats to have ready for so many rows: powers of two, so that they seldom grow."""
        return 1 << (rows - 1).bit_length() if rows else 0

    def take(self, rows: Sequence[tuple[Hashable, int]]) -> Seating:
        """Seats for the rows of this pass, each with the tokens that are known of it already.

        Who is missing has left. A seat is kept where the row has grown by the token of the pass
        before; the last of a size moves into a gap.
        """
        sizes = [seat_size(tokens + 1) for _, tokens in rows]
        given = self._given(sizes)
        seats: list[Seat | None] = [None] * len(rows)
        for size in sorted({size for size, fits in zip(sizes, given, strict=True) if fits}):
            of_size = [i for i, fits in enumerate(given) if fits and sizes[i] == size]
            kept = {i: place for i in of_size if (place := self._kept(rows[i], size, of_size)) >= 0}
            free = iter(sorted(set(range(len(of_size))) - set(kept.values())))
            for i in of_size:
                seats[i] = Seat(size, kept[i] if i in kept else next(free))
        fresh = [
            self._held.get(row) != (seat, tokens)
            for (row, tokens), seat in zip(rows, seats, strict=True)
        ]
        self._held = {
            row: (seat, tokens + 1)
            for (row, tokens), seat in zip(rows, seats, strict=True)
            if seat is not None
        }
        return Seating(seats, fresh)

    def forget(self) -> None:
        """What lies in the seats is not to be trusted."""
        self._held.clear()

    def _given(self, sizes: Sequence[int]) -> list[bool]:
        """For each row whether there is room for it, the first ones first."""
        counts: dict[int, int] = {}
        given = []
        for size in sizes:
            more = {**counts, size: counts.get(size, 0) + 1}
            fits = sum(size * self.capacity(rows) for size, rows in more.items()) <= self._tokens
            counts = more if fits else counts
            given.append(fits)
        return given

    def _kept(self, row: tuple[Hashable, int], size: int, of_size: Sequence[int]) -> int:
        """The place of the seat that a row has and may keep; -1: none."""
        held = self._held.get(row[0])
        if held is None or held != (Seat(size, held[0].place), row[1]):
            return -1
        return held[0].place if held[0].place < len(of_size) else -1


def seat_size(tokens: int) -> int:
    """The smallest seat for so many tokens."""
    return next(size for size in _sizes() if size >= tokens)


def _sizes() -> Iterator[int]:
    size = SMALLEST
    while True:
        yield size
        yield size * 3 // 2
        size *= 2
