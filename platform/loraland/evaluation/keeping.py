"""Puts answers into parts as they come: often enough to lose little, seldom enough to cost little.

A killed process loses the answers of the last seconds, and of each sitting fewer than a part holds;
one that ends in any other way loses none. Lives on one event loop; writes in threads.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from loraland.evaluation.exam import Sitting
from loraland.evaluation.parts import PartWriter
from loraland.evaluation.samples import Sample
from loraland.storage import Storage

FLUSH_ANSWERS = 32  # of a sitting: a part is written at the latest when it would hold so many
FLUSH_S = 10.0  # and an answer waits at most about so long for its part


class Keeper:
    """The answers that are in no part yet. Use as an async context manager."""

    def __init__(self, storage: Storage) -> None:
        self._writer = PartWriter(storage)
        self._sittings: dict[str, Sitting] = {}  # by place
        self._waiting: dict[str, list[Sample]] = {}  # by place
        self._clock: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._clock = asyncio.create_task(self._flush_now_and_then())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._clock is not None
        self._clock.cancel()
        with suppress(asyncio.CancelledError):
            await self._clock
        for place in list(self._waiting):
            await self._flush(place)

    async def keep(self, sitting: Sitting, sample: Sample) -> None:
        """Take an answer; returns at once unless a part is full. Raises what storage raises."""
        if self._clock is not None and self._clock.done():
            self._clock.result()  # storage was lost meanwhile: ask no further
        self._sittings[sitting.place] = sitting
        waiting = self._waiting.setdefault(sitting.place, [])
        waiting.append(sample)
        if len(waiting) >= FLUSH_ANSWERS:
            await self.flush(sitting)

    async def flush(self, sitting: Sitting) -> None:
        """Write what waits of a sitting; it is kept when this returns. Raises what storage does."""
        await self._flush(sitting.place)

    async def _flush(self, place: str) -> None:
        if samples := self._waiting.pop(place, None):
            await asyncio.to_thread(self._writer.write, self._sittings[place], samples)

    async def _flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            for place in list(self._waiting):
                await self._flush(place)
