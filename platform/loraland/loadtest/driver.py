"""Sends a schedule: an open loop at its planned times, or a closed loop as clients get free.

An open loop never waits for answers, so a slow server cannot thin out its own load. What the client
itself is late by is measured beside. Knows nothing of HTTP: `ask` does that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from loraland.loadtest.course import Course
from loraland.loadtest.outcome import NOT_SENT, ClientLoad, Outcome, Run
from loraland.loadtest.schedule import Planned, within

BEAT_S = 0.01  # between two looks at the client's own lateness

Ask = Callable[[Planned, float], Awaitable[Outcome]]  # a request, and when it is due


async def drive(
    ask: Ask,
    schedule: Iterator[Planned],
    course: Course,
    stop: asyncio.Event | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> Run:
    """Ask everything of `schedule` that `course` allows. `stop` ends it early, with what there is.

    `on_outcome` is told each outcome as it comes.
    """
    run = Run()

    def note(one: Outcome) -> None:
        run.outcomes.append(one)
        on_outcome(one)

    planned = within(schedule, course.requests, course.seconds)
    loop = _open_loop if course.clients is None else _closed_loop
    late_ms: list[float] = []
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    beating = asyncio.create_task(_beat(late_ms))
    running = asyncio.create_task(loop(ask, planned, course, run, note))
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        run.interrupted = not running.done()
        if not run.interrupted:
            running.result()
    finally:
        for task in (running, beating, stopping):
            task.cancel()
        await asyncio.gather(running, beating, stopping, return_exceptions=True)
    wall_s = max(time.perf_counter() - begun_s, 1e-9)
    run.client = ClientLoad((time.process_time() - cpu_s) / wall_s, tuple(late_ms))
    return run


async def _closed_loop(
    ask: Ask, planned: Iterator[Planned], course: Course, run: Run, note: Callable[[Outcome], None]
) -> None:
    end_s = time.perf_counter() + course.seconds if course.seconds is not None else float("inf")

    async def client() -> None:
        for one in planned:  # shared: each client takes the next
            due_s = time.perf_counter()
            if due_s >= end_s:
                return
            run.unfinished += 1
            note(await ask(one, due_s))
            run.unfinished -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(course.clients or 1):
            group.create_task(client())


async def _open_loop(
    ask: Ask, planned: Iterator[Planned], course: Course, run: Run, note: Callable[[Outcome], None]
) -> None:
    async def request(one: Planned, due_s: float) -> None:
        run.unfinished += 1
        note(await ask(one, due_s))
        run.unfinished -= 1

    begun_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for one in planned:
            due_s = begun_s + (one.at_s or 0.0)
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            if run.unfinished >= course.in_flight:
                now_s = time.perf_counter()
                note(Outcome(one.number, one.model, due_s, now_s, now_s, error=NOT_SENT))
            else:
                group.create_task(request(one, due_s))


async def _beat(late_ms: list[float]) -> None:
    while True:
        due_s = time.perf_counter() + BEAT_S
        await asyncio.sleep(BEAT_S)
        late_ms.append((time.perf_counter() - due_s) * 1000)
