"""Asks a column: many adapters of one base and the base itself, by one engine, in mixed batches.

Told sittings with the items that are left of each; every answer is kept in parts soon after it
came, so that a process that is killed goes on from there. Grades nothing and runs no program.

A row's answer does not depend on its batch mates but for rounding: the sums of a pass come in
another order, and where the two likeliest tokens are nearly equal the other one may win. That is
so between any two passes, also of one model. So base and adapter are asked side by side, on equal
terms, the first answer that is kept stays the answer, and no key covers the order of asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from loraland.bases.loading import LoadedBase
from loraland.engine.making import make_engine
from loraland.engine.protocol import Engine, Request
from loraland.engine.settings import EngineLimits
from loraland.engine.text import complete_whole, stop_token_ids
from loraland.errors import LoraLandError
from loraland.evaluation.answering import TRIM, request_of, sample_of
from loraland.evaluation.exam import Model, Sitting
from loraland.evaluation.keeping import Keeper
from loraland.evaluation.parts import has_samples, kept_answers
from loraland.storage import Storage

BATCH = 32  # rows of one forward pass
AT_ONCE = 2 * BATCH  # requests under way: the next batch waits in the engine
OPEN = 8  # models that are asked at a time; as many adapters have a slot
MAX_RANK = 512
KV_TOKENS = 16_384  # of keys and values that are kept; whoever finds no room waits
READERS = 16  # sittings that are looked up at once

OnAnswer = Callable[[int, int], None]  # answers so far, answers in all
Fetch = Callable[[str], Path]  # the local folder of an adapter's version; may take its time


class Asked(NamedTuple):
    """A sitting, and what is left of it."""

    sitting: Sitting
    items: tuple[int, ...]  # their places in the exam, in the order in which they are asked


def left(sittings: Iterable[Sitting], storage: Storage, *, fresh: bool = False) -> list[Asked]:
    """The sittings with items that neither samples nor parts have an answer to, in their order.

    `fresh` does not count samples. Changes nothing.
    """

    def look(sitting: Sitting) -> Asked:
        if not fresh and has_samples(sitting, storage):
            return Asked(sitting, ())
        kept, items = kept_answers(sitting, storage), sitting.exam.items
        rest = [index for index in range(len(items)) if index not in kept]
        # Short prompts first, so that batch mates are of like length.
        return Asked(sitting, tuple(sorted(rest, key=lambda index: len(items[index].prompt))))

    with ThreadPoolExecutor(READERS) as readers:
        return [asked for asked in readers.map(look, sittings) if asked.items]


def generate(
    base: LoadedBase,
    column: Sequence[Asked],
    fetch: Fetch,
    storage: Storage,
    on_answer: OnAnswer | None = None,
) -> dict[str, LoraLandError]:
    """Ask all that is left, and keep the answers; what could not be asked, by the sitting's place.

    `base` is ready for inference. An adapter that cannot be loaded, or on which the engine fails,
    ends its own sittings only; what it answered by then is kept. Killed, at most what was under way
    and what was not yet flushed (see `keeping`) is asked again. Raises what storage raises.
    """
    if not column:
        return {}
    return asyncio.run(_generate(base, column, fetch, storage, on_answer))


async def _generate(
    base: LoadedBase,
    column: Sequence[Asked],
    fetch: Fetch,
    storage: Storage,
    on_answer: OnAnswer | None,
) -> dict[str, LoraLandError]:
    adapters = {asked.sitting.model for asked in column} - {None}
    engine = make_engine(base, limits_for(base, len(adapters)), kind="any")
    try:
        async with Keeper(storage) as keeper:
            asking = _Asking(engine, base, fetch, keeper, _Count(column, on_answer))
            await asking.all(column)
        return asking.failures
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        await engine.close()


def limits_for(base: LoadedBase, adapters: int) -> EngineLimits:
    """What the engine of a column with so many adapters may use; it takes any of them."""
    return EngineLimits(
        rows=BATCH,
        waiting=AT_ONCE,
        slots=max(1, min(OPEN, adapters)),
        max_rank=MAX_RANK,
        kv_tokens=max(KV_TOKENS, base.entry.context_tokens),
    )


class _Count:
    """Tells how many answers have come."""

    def __init__(self, column: Sequence[Asked], tell: OnAnswer | None) -> None:
        self._done, self._total = 0, sum(len(asked.items) for asked in column)
        self._tell = tell

    def add(self) -> None:
        self._done += 1
        if self._tell is not None:
            self._tell(self._done, self._total)


@dataclass(slots=True)
class _Asking:
    """A column under way."""

    engine: Engine
    base: LoadedBase
    fetch: Fetch
    keeper: Keeper
    count: _Count
    failures: dict[str, LoraLandError] = field(default_factory=dict)
    # Whoever waited longest asks next, so that open models take turns.
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def all(self, column: Sequence[Asked]) -> None:
        """Ask the models in their order, some at a time."""
        models = iter(_by_model(column))

        async def seat() -> None:
            for model, sittings in models:  # shared: each seat takes the next
                await self._model(model, sittings)

        async with asyncio.TaskGroup() as seats:
            for _ in range(OPEN):
                seats.create_task(seat())

    async def _model(self, model: Model, sittings: Sequence[Asked]) -> None:
        """All sittings of one model; an adapter is loaded for as long as they take."""
        if model is not None:
            try:
                folder = await asyncio.to_thread(self.fetch, model)
                await self.engine.load(model, folder)
            except LoraLandError as error:
                self.failures |= {asked.sitting.place: error for asked in sittings}
                return
        for asked in sittings:
            await self._sit(asked)
        if model is not None:
            await self.engine.unload(model)

    async def _sit(self, asked: Asked) -> None:
        sitting, base = asked.sitting, self.base
        stops = stop_token_ids(base.tokenizer, base.model)
        async with asyncio.TaskGroup() as answers:
            for index in asked.items:
                await self.turns.acquire()
                if sitting.place in self.failures:
                    self.turns.release()
                    break
                request = request_of(
                    f"{sitting.place}#{index}", sitting.exam.items[index], sitting.model,
                    sitting.exam.task, base.tokenizer, stops,
                )  # fmt: skip
                answers.create_task(self._answer(sitting, index, request))
        await self.keeper.flush(sitting)

    async def _answer(self, sitting: Sitting, index: int, request: Request) -> None:
        stop, item = sitting.exam.task.stop, sitting.exam.items[index]
        try:
            given = await complete_whole(self.engine, self.base.tokenizer, request, stop, trim=TRIM)
        finally:
            self.turns.release()
        try:
            sample = sample_of(index, item, given)
        except LoraLandError as error:  # of the engine: it says nothing about the model
            self.failures.setdefault(sitting.place, error)
            return
        await self.keeper.keep(sitting, sample)
        self.count.add()


def _by_model(column: Sequence[Asked]) -> list[tuple[Model, list[Asked]]]:
    """The sittings of each adapter together; those of the base one by one, beside the adapters'."""
    found: list[tuple[Model, list[Asked]]] = []
    adapters: dict[str, list[Asked]] = {}
    for asked in column:
        model = asked.sitting.model
        if model is not None and model in adapters:
            adapters[model].append(asked)
            continue
        found.append((model, [asked]))
        if model is not None:
            adapters[model] = found[-1][1]
    return found


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, out of the groups that tasks wrap it in."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
