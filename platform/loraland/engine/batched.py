"""The engine: continuous batching of rows with many adapters, over one base.

Here requests, leases and passes meet. Who runs next is the scheduler's, who sits in a slot is
residency's, tensors are the runner's and the shelf's, tickets and counts lie on the desk. All
bookkeeping happens on the event loop; all work on the model happens in one worker thread, one pass
or one slot at a time, so that no adapter changes under a forward pass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel

from loraland.bases.loading import LoadedBase
from loraland.engine.blocks import BlockPool
from loraland.engine.canary import EXACT, Tolerance
from loraland.engine.cuda_graph import capture_for
from loraland.engine.desk import Desk, Worker, busy, cut_off, failed
from loraland.engine.eviction import POLICIES
from loraland.engine.openmp import release_team
from loraland.engine.paged import PagedKv
from loraland.engine.protocol import Event, Request, Stats
from loraland.engine.residency import Residency
from loraland.engine.runner import Outcome, Runner
from loraland.engine.sampling import Chooser
from loraland.engine.scheduler import Limits, Row, Scheduler, Work
from loraland.engine.settings import EngineLimits
from loraland.engine.shelf import Shelf
from loraland.engine.slots import Slots
from loraland.engine.tickets import Stream, Ticket
from loraland.engine.tiers import Resident
from loraland.errors import AdapterRejected, EngineFailed, LoraLandError
from loraland.lora.bank import LoraBank
from loraland.lora.weights import linears_of

logger = logging.getLogger(__name__)

WORKING_SET_S = 60.0  # adapters asked for in this time count as in use
PATIENCE = 32  # passes that an adapter waits for a slot before busy ones make room


@dataclass(slots=True, eq=False)
class _Ticket(Ticket):
    """A request and its row."""

    row: Row = field(kw_only=True)
    # Whether its adapter was in a slot at submission. None: it has none, or its token was counted.
    hit: bool | None = None


class BatchedEngine:
    """`Engine` with paged KV, prefix cache and tiers. Make it and call it on one event loop."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context_tokens: int,
        limits: EngineLimits | None = None,
        tolerance: Tolerance = EXACT,
    ) -> None:
        """A frozen model in eval mode, which the engine owns until `close`.

        Raises BaseUnavailable when the model cannot attend over blocks.
        """
        self._limits = limits = limits or EngineLimits()
        self.context_tokens = min(context_tokens, limits.blocks * limits.block_tokens)
        self._pool = BlockPool(limits.blocks, limits.block_tokens)
        self._scheduler = Scheduler(
            self._pool, Limits(limits.rows, limits.pass_tokens, limits.waiting)
        )
        linears = linears_of(model)
        kv = PagedKv(model, limits.blocks, limits.block_tokens, limits.seat_tokens)
        # One slot more than residency knows: for examinations.
        self._bank = LoraBank(model, slots=limits.slots + 1, max_rank=limits.max_rank)
        self._runner = Runner(
            model,
            self._bank,
            kv,
            graph_rows=limits.rows,
            graph_tokens=self.context_tokens,
            capture=capture_for(kv) if limits.cuda_graphs else None,
        )
        self._worker = Worker("engine")
        slots = Slots(self._bank, self._runner, self._worker)
        self._residency = Residency(
            slots=limits.slots,
            host_bytes=limits.host_bytes,
            policy=POLICIES[limits.eviction],
        )
        self._shelf = Shelf(
            self._residency,
            linears,
            max_rank=limits.max_rank,
            loads=limits.loads,
            tolerance=tolerance,
            write_slot=slots.write,
            probe=slots.probe,
            on_change=self._loads_changed,
        )
        self._desk: Desk[_Ticket] = Desk(self.context_tokens, self._runner.vocabulary)
        self._marked: dict[str, str] = {}  # request id -> version whose slot it holds
        self._computing: frozenset[str] = frozenset()  # request ids in the pass that runs
        self._changed = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    @classmethod
    def of(
        cls,
        base: LoadedBase,
        limits: EngineLimits | None = None,
        tolerance: Tolerance = EXACT,
    ) -> BatchedEngine:
        """An engine over a loaded base, with the base's context."""
        return cls(
            base.model,
            context_tokens=base.entry.context_tokens,
            limits=limits,
            tolerance=tolerance,
        )

    # Adapters

    async def load(self, version: str, folder: Path) -> None:
        """See `Engine.load`. Reads and examines the adapter; a slot it gets when asked for."""
        self.check_open()
        await self._shelf.admit(version, folder)

    async def unload(self, version: str) -> None:
        """See `Engine.unload`. With leases out it returns at once. Unknown versions are ignored."""
        await self._shelf.admitted(version)
        if self._shelf.knows(version) and self._residency.retire(version):
            self._shelf.forget(version)

    def pin(self, version: str, pinned: bool = True) -> None:
        """Keep an adapter in its slot once it has one. Raises UnknownModel, InvalidRequest."""
        self._residency.pin(version, pinned)

    def residency(self) -> list[Resident]:
        """See `Engine.residency`."""
        return self._residency.table()

    # Requests

    def submit(self, request: Request) -> AsyncIterator[Event]:
        """See `Engine.submit`."""
        self._desk.check(request)
        if self._scheduler.is_full:
            raise busy(self._scheduler.waiting)
        row = Row(
            request.id,
            request.adapter,
            list(request.prompt_ids),
            len(request.prompt_ids),
            request.sampling.max_new_tokens,
        )
        ticket = _Ticket(request, Chooser.of(request), row=row)
        if request.adapter is not None:
            ticket.hit = self._is_ready(request.adapter)
            self._residency.lease(request.adapter, time.monotonic())
        self._desk.add(ticket)
        self._scheduler.add(row)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve())
        if ticket.hit is False:
            self._pursue()  # now, beside the pass that runs
        self._wake()
        return Stream(ticket, self._cancel)

    def cancel(self, request_id: str) -> None:
        """See `Engine.cancel`. A row that runs leaves its batch at the end of the pass."""
        if (ticket := self._desk.find(request_id)) is not None:
            self._cancel(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.ended:
            return
        ticket.cancelled = True
        if ticket.request.id not in self._computing:
            ticket.finish("cancelled")
            self._drop(self._desk.ticket(ticket.request.id))
            self._wake()  # what it held may be what others wait for

    def stats(self) -> Stats:
        """See `Engine.stats`."""
        return self._desk.counts.stats(
            waiting=self._scheduler.waiting,
            running=len(self._scheduler.running),
            preemptions=self._scheduler.preemptions,
            blocks=self._pool.total,
            free_blocks=self._pool.free,
            slots=self._limits.slots,
            working_set=self._residency.working_set(WORKING_SET_S, time.monotonic()),
            ops=self._bank.stats | self._runner.stats,
        )

    def check_open(self) -> None:
        """Raises EngineStopped once the engine was closed."""
        self._desk.check_open()

    async def close(self) -> None:
        """See `Engine.close`. Gives back the model as it was, and memory."""
        if self._desk.closed:
            return
        self._desk.close()
        self._wake()
        if self._pump is not None:
            await asyncio.wait([self._pump])
        await self._shelf.close()
        await self._worker.do(self._runner.close)
        self._worker.close()

    def check(self) -> None:
        """Raises AssertionError when a block, a lease or a slot is lost. For an engine at rest."""
        self._residency.check()
        if not self._desk.closed:  # afterwards it holds nothing
            self._shelf.check()
        self._pool.check([ticket.row.blocks for ticket in self._desk])
        leases = sum(resident.leases for resident in self._residency.table())
        held = sum(ticket.request.adapter is not None for ticket in self._desk)
        assert leases == held, f"{leases} leases for {held} requests under way"

    # The loop

    def _wake(self) -> None:
        self._changed.set()

    def _pursue(self) -> None:
        """Begin the loads that can begin; they go on beside the pass that runs."""
        self._shelf.pursue(self._scheduler.wanted())

    def _loads_changed(self) -> None:
        """A load has ended: it may be half of the way, or leave a slot to the next."""
        self._pursue()
        self._wake()

    async def _serve(self) -> None:
        """Compute passes as long as there are requests."""
        release_team()  # of this thread; the worker computes from here on
        try:
            while self._desk:
                self._changed.clear()
                self._drop_ended()
                self._pursue()
                await self._shelf.placed()  # else whose slot is being written misses this pass
                self._drop_ended()
                works = self._next_pass()
                if works:
                    await self._compute(works)
                elif self._desk:
                    await self._changed.wait()  # for a load, a request or a cancellation
        except Exception as error:
            logger.exception("the engine's loop failed")
            self._fail_all(EngineFailed(f"the engine failed: {type(error).__name__}: {error}"))
        finally:
            self._fail_all(cut_off())

    def _next_pass(self) -> list[Work]:
        self._fail_refused(self._scheduler.wanted())
        draining: Sequence[str] = ()
        if self._scheduler.has_starving(PATIENCE):
            draining = self._residency.drain(self._scheduler.wanted(), time.monotonic())
        works = self._scheduler.next_pass(self._is_ready, draining)
        self._mark()
        return works

    def _is_ready(self, version: str) -> bool:
        return self._residency.slot_of(version) is not None

    def _fail_refused(self, wanted: Sequence[str]) -> None:
        """End the waiting requests of adapters that could not be loaded."""
        now = time.monotonic()
        refused = {version: self._residency.refused(version, now) for version in wanted}
        for ticket in self._desk:
            version, blocks = ticket.row.version, ticket.row.blocks
            if version is not None and not blocks and (why := refused.get(version)):
                ticket.end(AdapterRejected(why))
        if any(refused.values()):
            self._drop_ended()

    def _mark(self) -> None:
        """Tell residency whose rows run: those slots stay."""
        running = {row.id: row.version for row in self._scheduler.running if row.version}
        for gone in self._marked.keys() - running.keys():
            self._residency.mark_idle(self._marked.pop(gone))
        for new in running.keys() - self._marked.keys():
            self._residency.mark_running(running[new])
            self._marked[new] = running[new]

    async def _compute(self, works: list[Work]) -> None:
        tickets = [self._desk.ticket(work.row.id) for work in works]
        for ticket, work in zip(tickets, works, strict=True):
            if ticket.started is None:
                ticket.start()
                self._desk.counts.prompt_tokens += work.row.prompt_tokens
                self._desk.counts.reused_tokens += work.row.reused_tokens
        slots = [self._slot(work.row) for work in works]
        self._computing = frozenset(work.row.id for work in works)
        try:
            outcomes = await self._worker.do(
                self._runner.run, works, slots, [ticket.chooser for ticket in tickets]
            )
        except Exception as error:
            logger.exception("a pass of %d rows failed", len(works))
            self._desk.counts.failed_passes += 1
            outcomes = [failed("a pass", error)] * len(works)
        try:
            await self._take(works, tickets, outcomes)
        finally:
            self._computing = frozenset()
        self._drop_ended()

    def _slot(self, row: Row) -> int:
        if row.version is None:
            return 0
        slot = self._residency.slot_of(row.version)
        if slot is None:
            raise RuntimeError(f"row {row.id} was to run without its adapter {row.version}")
        return slot

    async def _take(
        self, works: list[Work], tickets: list[_Ticket], outcomes: Sequence[Outcome]
    ) -> None:
        """Give tokens to their callers, and rows what they need for the next pass."""
        self._desk.counts.passes += 1
        self._desk.counts.pass_tokens += sum(work.size for work in works)
        triples = list(zip(works, tickets, outcomes, strict=True))
        spoilt = [work for work, _, outcome in triples if isinstance(outcome, EngineFailed)]
        if spoilt:
            await self._quarantine(spoilt)
        self._scheduler.done(
            work for work, _, outcome in triples if not isinstance(outcome, EngineFailed)
        )
        for work, ticket, outcome in triples:
            if outcome is None:
                continue
            token = self._desk.deliver(ticket, outcome)
            if ticket.first_token is not None and ticket.hit is not None:
                self._desk.counts.note_first_token(ticket, hit=ticket.hit)
                ticket.hit = None
            if token is not None:
                work.row.tokens.append(token)

    async def _quarantine(self, works: Sequence[Work]) -> None:
        """What a failed row wrote must reach nobody, not even masked."""
        size = self._limits.block_tokens
        blocks = [block for row, start, _ in works for block in row.blocks[start // size :]]
        self._pool.forget(blocks)
        await self._worker.do(self._runner.clean, blocks)

    def _drop_ended(self) -> None:
        """Free all that ended and cancelled requests hold, at once."""
        for ticket in self._desk:
            if ticket.ended or ticket.cancelled:
                ticket.finish("cancelled")  # unless it has ended in another way
                self._drop(ticket)

    def _drop(self, ticket: _Ticket) -> None:
        request = ticket.request
        self._desk.drop(ticket)
        self._scheduler.remove(ticket.row)
        if (version := self._marked.pop(request.id, None)) is not None:
            self._residency.mark_idle(version)
        if request.adapter is not None and self._residency.release(
            request.adapter, time.monotonic()
        ):
            self._shelf.forget(request.adapter)

    def _fail_all(self, error: LoraLandError) -> None:
        for ticket in self._desk:
            ticket.end(error)
        self._drop_ended()
