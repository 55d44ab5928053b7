"""Open loops that nothing slows, closed loops that wait, and an end that loses no outcome."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import pytest

from loraland.loadtest.course import Course
from loraland.loadtest.driver import drive
from loraland.loadtest.outcome import NOT_SENT, Outcome
from loraland.loadtest.schedule import Planned


def planned(every_s=None):
    return (Planned(n, None if every_s is None else n * every_s, "tiny", (1,), 1) for n in count())


class Server:
    """Answers when its gate is open."""

    def __init__(self, gate=None):
        self.gate, self.under_way, self.most = gate, 0, 0

    async def ask(self, one, due_s):
        sent_s = time.perf_counter()
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
        finally:
            self.under_way -= 1
        now_s = time.perf_counter()
        return Outcome(one.number, one.model, due_s, sent_s, now_s, first_s=now_s)


def numbers(run):
    return sorted(one.number for one in run.outcomes)


def test_an_open_loop_sends_all_that_is_due_though_no_answer_comes():
    async def driving():
        server = Server(asyncio.Event())
        course = Course(clients=None, requests=40)
        driven = asyncio.create_task(drive(server.ask, planned(0.001), course))
        while server.under_way < 40:
            await asyncio.sleep(0.001)
        server.gate.set()
        return await driven

    run = asyncio.run(driving())
    assert numbers(run) == list(range(40))
    assert {one.error for one in run.outcomes} == {None}


def test_latency_in_an_open_loop_counts_from_the_planned_time():
    async def driving():
        return await drive(Server().ask, planned(0.01), Course(clients=None, requests=5))

    outcomes = sorted(asyncio.run(driving()).outcomes, key=lambda one: one.number)
    gaps = [one.due_s - outcomes[0].due_s for one in outcomes]
    assert gaps == pytest.approx([n * 0.01 for n in range(5)])
    assert all(one.due_s <= one.sent_s for one in outcomes)


def test_what_the_client_cannot_send_is_told_and_not_blamed_on_the_server():
    async def driving():
        server = Server(asyncio.Event())
        course = Course(clients=None, requests=10, in_flight=4)
        driven = asyncio.create_task(drive(server.ask, planned(0.0001), course))
        while server.under_way < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        server.gate.set()
        return await driven

    run = asyncio.run(driving())
    assert numbers(run) == list(range(10))
    assert sum(one.error == NOT_SENT for one in run.outcomes) == 6


def test_a_closed_loop_has_as_many_requests_under_way_as_clients():
    async def driving():
        server = Server()
        return server, await drive(server.ask, planned(), Course(clients=7, requests=50))

    server, run = asyncio.run(driving())
    assert server.most == 7
    assert numbers(run) == list(range(50))
    assert run.unfinished == 0
    assert not run.interrupted


def test_after_its_seconds_a_closed_loop_begins_nothing_and_ends_what_runs():
    async def driving():
        gate, server = asyncio.Event(), None
        server = Server(gate)
        course = Course(clients=3, seconds=0.05)
        driven = asyncio.create_task(drive(server.ask, planned(), course))
        await asyncio.sleep(0.2)
        gate.set()
        return await driven

    assert numbers(asyncio.run(driving())) == [0, 1, 2]


@pytest.mark.parametrize("clients", [None, 4])
def test_a_stop_keeps_what_came_and_counts_what_was_cut_off(clients):
    async def driving():
        server, stop = Server(), asyncio.Event()

        async def ask(one, due_s):
            if one.number >= 5:
                stop.set()
                await asyncio.Event().wait()
            return await server.ask(one, due_s)

        every_s = 0.0001 if clients is None else None
        return await drive(ask, planned(every_s), Course(clients=clients, requests=50), stop)

    run = asyncio.run(driving())
    assert run.interrupted
    assert numbers(run) == [0, 1, 2, 3, 4]
    assert run.unfinished >= 1


def test_a_mistake_of_the_client_is_raised_not_counted():
    async def ask(one, due_s):
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        asyncio.run(drive(ask, planned(), Course(clients=2, requests=4)))


def test_the_lateness_of_a_busy_client_is_measured():
    async def ask(one, due_s):
        time.sleep(0.05)  # keeps the event loop from everything else
        return await Server().ask(one, due_s)

    run = asyncio.run(drive(ask, planned(), Course(clients=1, requests=4)))
    assert max(run.client.late_ms) >= 20
    assert run.client.cpu_share > 0


def test_every_outcome_is_told_as_it_comes():
    heard = []
    asyncio.run(
        drive(Server().ask, planned(), Course(clients=2, requests=6), on_outcome=heard.append)
    )
    assert sorted(one.number for one in heard) == list(range(6))
