"""Parts that go together in one message."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from loraland.errors import EngineFailed
from loraland.serving.grouping import grouped


def part(number):
    return {"choice": number, "text": str(number)}


async def steps(groups, error=None, ended=None):
    """Parts that are there together, then a turn of the loop for others."""
    try:
        for group in groups:
            for number in group:
                yield part(number)
            for _ in range(5):
                await asyncio.sleep(0)
        if error is not None:
            raise error
    finally:
        if ended is not None:
            ended.append(True)


def collect(parts, within_s=0.0):
    async def run():
        found, caught = [], None
        try:
            async with aclosing(grouped(parts, within_s)) as groups:
                async for group in groups:
                    found.append([one["choice"] for one in group])
        except EngineFailed as error:
            caught = error
        return found, caught

    return asyncio.run(asyncio.wait_for(run(), 20))


STEPS = [[0, 1, 2], [3], [4, 5]]


def test_what_is_there_at_the_same_moment_goes_together_in_order():
    assert collect(steps(STEPS)) == (STEPS, None)


def test_within_a_time_pieces_go_together_and_the_end_does_not_wait_for_it():
    assert collect(steps(STEPS), within_s=3600) == ([[0, 1, 2], [3, 4, 5]], None)


@pytest.mark.parametrize("within_s", [0, 3600])
def test_an_error_comes_after_the_parts_before_it(within_s):
    found, caught = collect(steps(STEPS, EngineFailed("x")), within_s)
    assert [one for group in found for one in group] == list(range(6))
    assert caught is not None


@pytest.mark.parametrize("within_s", [0, 3600])
def test_nothing_at_all_ends_and_so_does_an_error_alone(within_s):
    assert collect(steps([]), within_s) == ([], None)
    assert collect(steps([], EngineFailed("x")), within_s)[1] is not None


def test_closing_it_closes_the_parts():
    ended = []

    async def run():
        groups = grouped(steps([[0]] * 1000, ended=ended))
        await anext(groups)
        await groups.aclose()

    asyncio.run(run())
    assert ended == [True]
