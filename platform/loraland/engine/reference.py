"""The reference engine: static batches over PEFT, obviously right; the oracle of faster ones.

Takes waiting requests in order, runs them as one mixed batch until the last row ends, then takes
the next. All bookkeeping (queue, leases, events) happens on the event loop. All work on the model
happens in one worker thread, one step or one load at a time, so that no adapter changes under a
forward pass.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from loraland.bases.loading import LoadedBase
from loraland.engine.desk import Desk, Worker, busy, cut_off, failed
from loraland.engine.mixed import MixedBatch, MixedModel
from loraland.engine.openmp import release_team
from loraland.engine.protocol import Event, Request, Stats
from loraland.engine.sampling import Choice, Chooser
from loraland.engine.tickets import Stream, Ticket
from loraland.engine.tiers import Resident
from loraland.errors import EngineFailed, LoraLandError, UnknownModel, did_you_mean

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Adapter:
    """A loaded adapter."""

    name: str  # inside the model
    size_bytes: int
    leases: int = 0
    leaving: bool = False  # unloaded by the user; goes with its last lease


@dataclass(slots=True, eq=False)
class _Ticket(Ticket):
    """A request, and the adapter that it holds."""

    adapter: _Adapter | None = None


class ReferenceEngine:
    """`Engine` over PEFT mixed batches. Make it and call it on one running event loop."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context_tokens: int,
        max_batch: int = 16,
        max_waiting: int = 256,
    ) -> None:
        """A frozen model in eval mode, which the engine now owns: adapters are put into its layers.

        `max_batch` rows run together; `max_waiting` more may queue, then EngineBusy.
        """
        self.context_tokens = context_tokens
        self._model = MixedModel(model)
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._worker = Worker("reference-engine")
        self._desk: Desk[_Ticket] = Desk(context_tokens, self._model.vocabulary)
        self._waiting: deque[_Ticket] = deque()
        self._adapters: dict[str, _Adapter] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[None] | None = None

    @classmethod
    def of(
        cls, base: LoadedBase, *, max_batch: int = 16, max_waiting: int = 256
    ) -> ReferenceEngine:
        """An engine over a loaded base, with the base's context."""
        return cls(
            base.model,
            context_tokens=base.entry.context_tokens,
            max_batch=max_batch,
            max_waiting=max_waiting,
        )

    # Adapters

    async def load(self, version: str, folder: Path) -> None:
        """See `Engine.load`. Waits for the step that runs, not for its batch."""
        self.check_open()
        if (adapter := self._adapters.get(version)) is not None:
            adapter.leaving = False
            return
        if version not in self._loads:
            self._loads[version] = asyncio.create_task(self._load(version, folder))
        # The load is shared: a caller that gives up does not end it for the others.
        await asyncio.shield(self._loads[version])

    async def _load(self, version: str, folder: Path) -> None:
        try:
            held = await self._worker.do(self._model.add, folder)
            self._adapters[version] = _Adapter(held.name, held.size_bytes)
        finally:
            del self._loads[version]

    async def unload(self, version: str) -> None:
        """See `Engine.unload`. With leases out it returns at once. Unknown versions are ignored."""
        if (load := self._loads.get(version)) is not None:
            await asyncio.wait([load])
        if (adapter := self._adapters.get(version)) is None:
            return
        adapter.leaving = True
        if adapter.leases == 0:
            del self._adapters[version]
            await self._worker.do(self._model.remove, adapter.name)

    def _release(self, ticket: _Ticket) -> None:
        if (adapter := ticket.adapter) is None:
            return
        adapter.leases -= 1
        over = adapter.leaving and adapter.leases == 0 and not self._desk.closed
        if over and ticket.request.adapter:
            del self._adapters[ticket.request.adapter]
            # The worker takes it out after any step that has begun with it.
            self._spawn(self._worker.do(self._model.remove, adapter.name))

    def residency(self) -> list[Resident]:
        """See `Engine.residency`."""
        return [
            Resident(v, adapter.leases, adapter.size_bytes) for v, adapter in self._adapters.items()
        ]

    # Requests

    def submit(self, request: Request) -> AsyncIterator[Event]:
        """See `Engine.submit`."""
        self._desk.check(request)
        adapter = self._find(request.adapter)
        if len(self._waiting) >= self._max_waiting:
            raise busy(len(self._waiting))
        ticket = _Ticket(request, Chooser.of(request), adapter=adapter)
        if adapter is not None:
            adapter.leases += 1
        self._desk.add(ticket)
        self._waiting.append(ticket)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve())
        return Stream(ticket, self._cancel)

    def _find(self, version: str | None) -> _Adapter | None:
        if version is None:
            return None
        adapter = self._adapters.get(version)
        if adapter is None or adapter.leaving:
            ready = [name for name, held in self._adapters.items() if not held.leaving]
            raise UnknownModel(f"adapter '{version}' is not loaded; {did_you_mean(version, ready)}")
        return adapter

    def cancel(self, request_id: str) -> None:
        """See `Engine.cancel`. A row that runs leaves its batch at the end of the step."""
        if (ticket := self._desk.find(request_id)) is not None:
            self._cancel(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.ended:
            return
        ticket.cancelled = True
        if ticket.started is None:
            held = self._desk.ticket(ticket.request.id)
            self._waiting.remove(held)
            held.finish("cancelled")
            self._drop(held)

    def stats(self) -> Stats:
        """See `Engine.stats`."""
        waiting = len(self._waiting)
        return self._desk.counts.stats(waiting=waiting, running=len(self._desk) - waiting)

    def check_open(self) -> None:
        """Raises EngineStopped once the engine was closed."""
        self._desk.check_open()

    async def close(self) -> None:
        """See `Engine.close`. Takes all adapters out, so that the model is the base alone again."""
        if self._desk.closed:
            return
        self._desk.close()
        for ticket in self._desk:
            self._drop(ticket)
        self._waiting.clear()
        under_way = {
            task for task in (self._pump, *self._background, *self._loads.values()) if task
        }
        if under_way:
            await asyncio.wait(under_way)
        for adapter in self._adapters.values():
            await self._worker.do(self._model.remove, adapter.name)
        self._adapters.clear()
        self._worker.close()

    # The loop

    async def _serve(self) -> None:
        release_team()  # of this thread; the worker computes from here on
        while self._waiting:
            batch = [
                self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))
            ]
            try:
                await self._run(batch)
            except Exception as error:
                logger.exception("a batch of %d requests failed", len(batch))
                self._desk.counts.failed_passes += 1
                for ticket in batch:
                    self._fail(ticket, failed("a step", error))
            finally:
                for ticket in batch:
                    self._fail(ticket, cut_off())

    async def _run(self, tickets: list[_Ticket]) -> None:
        """One batch from its prompts to its last token."""
        for ticket in tickets:
            ticket.start()
            self._desk.counts.prompt_tokens += len(ticket.request.prompt_ids)
        prompts = [ticket.request.prompt_ids for ticket in tickets]
        names = [ticket.adapter.name if ticket.adapter else None for ticket in tickets]
        batch: MixedBatch = await self._worker.do(self._model.start, prompts, names)
        while True:
            choices = await self._worker.do(_choose, batch, [ticket.chooser for ticket in tickets])
            going = [
                (row, token)
                for row, choice in enumerate(choices)
                if (token := self._deliver(tickets[row], choice)) is not None
            ]
            if not going:
                return
            tickets = [tickets[row] for row, _ in going]
            await self._worker.do(batch.advance, *zip(*going, strict=True))

    def _deliver(self, ticket: _Ticket, choice: Choice | EngineFailed) -> int | None:
        """Send what a row's last step gave. The token when the row goes on, None when it ended."""
        token = self._desk.deliver(ticket, choice)
        if ticket.ended:
            self._drop(ticket)
        return token

    def _fail(self, ticket: _Ticket, error: LoraLandError) -> None:
        ticket.end(error)
        self._drop(ticket)

    def _drop(self, ticket: _Ticket) -> None:
        """Forget a request that has ended, once, and release its adapter."""
        if self._desk.drop(ticket):
            self._release(ticket)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _choose(batch: MixedBatch, choosers: list[Chooser]) -> list[Choice | EngineFailed]:
    """The next token of each row; a row that fails gives an error and harms no other."""
    choices: list[Choice | EngineFailed] = []
    for chooser, logits in zip(choosers, batch.logits, strict=True):
        try:
            choices.append(chooser.choose(logits))
        except EngineFailed as error:
            choices.append(error)
    return choices
