"""Who gets a seat, keeps it, and when it must be filled anew."""

from __future__ import annotations

import random

import pytest

from loraland.engine.seats import SMALLEST, Seat, Seats, seat_size


def test_a_row_that_grows_by_a_token_keeps_its_seat() -> None:
    seats = Seats(10_000)
    first = seats.take([("a", 10), ("b", 20)])
    again = seats.take([("a", 11), ("b", 21)])
    assert first.seats == again.seats == [Seat(SMALLEST, 0), Seat(SMALLEST, 1)]
    assert (first.fresh, again.fresh) == ([True, True], [False, False])


@pytest.mark.parametrize("tokens", [10, 12, 9], ids=["none new", "two new", "fewer"])
def test_a_row_that_did_anything_else_is_filled_anew(tokens: int) -> None:
    seats = Seats(10_000)
    seats.take([("a", 10)])
    assert seats.take([("a", tokens)]).fresh == [True]


def test_a_row_that_missed_a_pass_is_filled_anew() -> None:
    seats = Seats(10_000)
    seats.take([("a", 10)])
    seats.take([])
    assert seats.take([("a", 11)]).fresh == [True]


def test_a_row_that_outgrows_its_seat_gets_a_larger_one() -> None:
    seats = Seats(10_000)
    seats.take([("a", SMALLEST - 1)])
    taken = seats.take([("a", SMALLEST)])
    assert (taken.seats, taken.fresh) == ([Seat(SMALLEST * 3 // 2, 0)], [True])


def test_the_last_of_a_size_moves_into_a_gap() -> None:
    seats = Seats(10_000)
    seats.take([("a", 10), ("b", 10), ("c", 10)])
    taken = seats.take([("b", 11), ("c", 11)])
    assert taken.seats == [Seat(SMALLEST, 1), Seat(SMALLEST, 0)]
    assert taken.fresh == [False, True]


def test_rows_beyond_the_room_have_no_seat() -> None:
    seats = Seats(2 * SMALLEST)
    taken = seats.take([("a", 10), ("b", 10), ("c", 10)])
    assert taken.seats == [Seat(SMALLEST, 0), Seat(SMALLEST, 1), None]
    assert Seats(0).take([("a", 10)]).seats == [None]


def test_nothing_is_trusted_after_a_pass_that_broke_off() -> None:
    seats = Seats(10_000)
    seats.take([("a", 10)])
    seats.forget()
    assert seats.take([("a", 11)]).fresh == [True]


def test_sizes_leave_at_most_half_unused() -> None:
    for tokens in range(1, 5000):
        size = seat_size(tokens)
        assert tokens <= size <= max(SMALLEST, 1.5 * tokens)


def test_any_schedule_gives_seats_without_gaps_that_hold_what_they_say() -> None:
    """Against a table of what was written where."""
    draw = random.Random(5)
    seats, held = Seats(3_000), {}
    lengths = {row: draw.randrange(1, 400) for row in range(12)}
    for _ in range(400):
        rows = [(row, lengths[row]) for row in draw.sample(range(12), draw.randrange(13))]
        taken = seats.take(rows)
        for (row, tokens), seat, fresh in zip(rows, *taken, strict=True):
            if seat is not None:
                assert fresh or held[seat] == (row, tokens)
                assert seat.size > tokens
        for (row, tokens), seat in zip(rows, taken.seats, strict=True):
            if seat is not None:
                held[seat] = (row, tokens + 1)
            lengths[row] = tokens + 1 if draw.random() < 0.9 else draw.randrange(1, 400)
        found = [seat for seat in taken.seats if seat is not None]
        counts = {size: sum(seat.size == size for seat in found) for size, _ in found}
        assert set(found) == {Seat(size, i) for size, n in counts.items() for i in range(n)}
        assert sum(size * Seats.capacity(n) for size, n in counts.items()) <= 3_000
