"""A replica that ends costs no request of which its client has seen nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from loraland.errors import EngineFailed, EngineStopped
from loraland.serving.orders import AGAIN
from loraland.serving.persistence import persistent

A, B = {"choice": 0, "text": "a"}, {"choice": 0, "text": "b"}


class Script:
    """What each attempt gives: parts, and an error at its end or none."""

    def __init__(self, *attempts):
        self.attempts, self.asked, self.closed = attempts, [], 0

    async def __call__(self, number):
        self.asked.append(number)
        parts, error = self.attempts[number]
        try:
            for part in parts:
                yield part
            if error is not None:
                raise error
        finally:
            self.closed += 1


def run(script, *, whole, most=None):
    async def collect():
        found = []
        async with aclosing(persistent(script, whole=whole, pause_s=0)) as parts:
            async for part in parts:
                found.append(part)
                if len(found) == most:
                    break
        return found

    return asyncio.run(collect())


DEAD = EngineStopped("gone")


def test_before_the_first_part_another_replica_is_asked_unseen():
    script = Script(([], DEAD), ([], DEAD), ([A, B], None))
    assert run(script, whole=False) == [A, B]
    assert script.asked == [0, 1, 2]


def test_a_stream_that_has_begun_ends_with_the_error():
    script = Script(([A], DEAD), ([A, B], None))
    with pytest.raises(EngineStopped):
        run(script, whole=False)
    assert script.asked == [0]


def test_a_whole_answer_begins_anew_and_says_what_is_void():
    assert run(Script(([A], DEAD), ([A, B], None)), whole=True) == [A, AGAIN, A, B]


def test_attempts_are_bounded_and_the_last_error_is_told():
    script = Script(*[([], DEAD)] * 5)
    with pytest.raises(EngineStopped):
        run(script, whole=True)
    assert script.asked == [0, 1, 2]


def test_an_error_of_the_request_itself_is_not_asked_again():
    script = Script(([], EngineFailed("NaN")), ([A], None))
    with pytest.raises(EngineFailed):
        run(script, whole=True)
    assert script.asked == [0]


def test_closing_it_closes_the_attempt_under_way():
    script = Script(([], DEAD), ([A, B], None))
    assert run(script, whole=False, most=1) == [A]
    assert script.closed == 2
