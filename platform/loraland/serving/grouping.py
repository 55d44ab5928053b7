"""Puts parts that can go together into one message: each costs the way through Ray and two loops.

The first part goes at once. What is there at the same moment goes together, such as the tokens of
all choices after a step of the engine, and what comes within a time, where one is given. Order is
kept, and nothing waits for an end that has come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from loraland.serving.orders import Part


async def grouped(
    parts: AsyncGenerator[Part, None], within_s: float = 0.0
) -> AsyncGenerator[list[Part], None]:
    """The parts in groups, at most one group each `within_s` seconds after the first.

    Raises what `parts` raises, after the groups before it. Closing it closes `parts`.
    """
    waiting: list[Part] = []
    changed = asyncio.Event()
    reader = asyncio.create_task(_read(parts, waiting, changed))
    reader.add_done_callback(lambda _: changed.set())
    try:
        while not reader.done() or waiting:
            if not waiting:
                await changed.wait()
            changed.clear()
            if group := waiting.copy():
                waiting.clear()
                began = time.monotonic()
                yield group
                rest = within_s - (time.monotonic() - began)
                if rest > 0 and not reader.done():
                    await asyncio.wait([reader], timeout=rest)
        reader.result()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _read(
    parts: AsyncGenerator[Part, None], waiting: list[Part], changed: asyncio.Event
) -> None:
    async with aclosing(parts):
        async for part in parts:
            waiting.append(part)
            changed.set()
