"""Carries out what residency decides: reads adapters into host memory, and writes them into slots.

Different versions are read at the same time, each one once. Files are read in threads; a slot is
written between two passes of the model. Knows folders and tensors; decides nothing about who stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from loraland.adapters.folder import CARD, read_card
from loraland.engine.canary import Tolerance, require_canary
from loraland.engine.residency import Residency
from loraland.engine.tiers import Load, Tier
from loraland.errors import AdapterRejected, LoraLandError
from loraland.lora.weights import AdapterWeights, read_adapter

logger = logging.getLogger(__name__)

WriteSlot = Callable[[int, AdapterWeights], Awaitable[float]]  # milliseconds, without waiting
Probe = Callable[[Sequence[int], Sequence[int], AdapterWeights], Awaitable[list[float]]]


class Shelf:
    """The adapters of one engine, in host memory and on disk. Lives on one event loop."""

    def __init__(
        self,
        residency: Residency,
        linears: Mapping[str, tuple[int, int]],
        *,
        max_rank: int,
        loads: int,
        tolerance: Tolerance,
        write_slot: WriteSlot,
        probe: Probe,
        on_change: Callable[[], None],
    ) -> None:
        """`loads` folders are read at once; `on_change` is called when a load has ended.

        `probe(prompt, token_ids, weights)` gives the logits of those tokens after a prompt.
        """
        self._residency, self._linears = residency, linears
        self._max_rank, self._tolerance = max_rank, tolerance
        self._write_slot, self._probe, self._on_change = write_slot, probe, on_change
        self._reading = asyncio.Semaphore(loads)
        self._folders: dict[str, Path] = {}
        self._host: dict[str, AdapterWeights] = {}
        self._admissions: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # loads under way
        self._placing: set[asyncio.Task[None]] = set()  # those of them that write a slot

    async def admit(self, version: str, folder: Path) -> None:
        """Make a version known: read, checked, and computing what its card says.

        Raises AdapterRejected; then nothing has changed. Callers of one version share the work.
        """
        if version in self._folders:
            self._residency.add(version, Tier.DISK, 0, time.monotonic())  # no longer retired
            return
        if version not in self._admissions:
            task = asyncio.create_task(self._admit(version, folder))
            self._admissions[version] = task
            task.add_done_callback(lambda _: self._admissions.pop(version, None))
        # A caller that gives up does not end it for the others.
        await asyncio.shield(self._admissions[version])

    async def _admit(self, version: str, folder: Path) -> None:
        weights, _ = await self._read(version, folder)
        if (folder / CARD).is_file():
            canary = (await asyncio.to_thread(read_card, folder)).canary
            logits = await self._probe(canary.prompt_ids, canary.top_ids, weights)
            require_canary(version, canary, logits, self._tolerance)
        self._folders[version], self._host[version] = folder, weights
        self._residency.add(version, Tier.HOST, weights.size_bytes, time.monotonic())
        self._drop()

    async def admitted(self, version: str) -> None:
        """Wait until an admission of this version, if one is under way, has ended either way."""
        if (task := self._admissions.get(version)) is not None:
            await asyncio.wait([task])

    def knows(self, version: str) -> bool:
        """Whether a version was admitted and not forgotten since."""
        return version in self._folders

    def forget(self, version: str) -> None:
        """Let a version go that residency allows to forget."""
        self._residency.forget(version)
        self._host.pop(version, None)
        self._folders.pop(version, None)
        self._drop()

    def pursue(self, wanted: Sequence[str]) -> None:
        """Begin the loads that waiting versions need next, those of the first in line first."""
        now = time.monotonic()
        for load in self._residency.plan_loads(wanted, now):
            self._begin(load)
        for load in self._residency.prefetch(wanted, now):
            self._begin(load)

    def _begin(self, load: Load) -> None:
        self._residency.begin(load)
        task = asyncio.create_task(self._run(load))
        for group in (self._tasks, self._placing)[: 1 if load.slot is None else 2]:
            group.add(task)
            task.add_done_callback(group.discard)

    async def _run(self, load: Load) -> None:
        try:
            size_bytes, load_ms = await self._perform(load)
        except Exception as error:
            reason = error.message if isinstance(error, LoraLandError) else repr(error)
            logger.warning("adapter '%s' could not be loaded: %s", load.version, reason)
            over = self._residency.fail(load, reason, time.monotonic())
        else:
            over = self._residency.commit(load, size_bytes, load_ms, time.monotonic())
        if over:
            self.forget(load.version)
        self._drop()
        self._on_change()

    async def _perform(self, load: Load) -> tuple[int, float]:
        """Bytes, and milliseconds without the wait for a turn."""
        if load.slot is None:
            weights, read_ms = await self._read(load.version, self._folders[load.version])
            self._host[load.version] = weights
            return weights.size_bytes, read_ms
        weights = self._host[load.version]
        return weights.size_bytes, await self._write_slot(load.slot, weights)

    async def _read(self, version: str, folder: Path) -> tuple[AdapterWeights, float]:
        async with self._reading:
            begun = time.perf_counter()
            try:
                weights = await asyncio.to_thread(read_adapter, folder, self._linears)
            except OSError as error:
                raise AdapterRejected(
                    f"adapter '{version}' cannot be read from {folder.name}: {error}"
                ) from error
            read_ms = (time.perf_counter() - begun) * 1000
        if weights.rank > self._max_rank:
            raise AdapterRejected(
                f"adapter '{version}' has rank {weights.rank}, this engine accepts at most "
                f"{self._max_rank}; raise max_rank, or retrain"
            )
        return weights, read_ms

    def _drop(self) -> None:
        for version in self._residency.take_dropped():
            self._host.pop(version, None)

    async def placed(self) -> None:
        """Wait for the slots that are being written now: milliseconds, reading apart."""
        if self._placing:
            await asyncio.wait(self._placing)

    async def settle(self) -> None:
        """Wait until no load is under way."""
        while under_way := {*self._tasks, *self._admissions.values()}:
            await asyncio.wait(under_way)

    async def close(self) -> None:
        """Wait until no load is under way, and let go of all tensors."""
        await self.settle()
        self._host.clear()

    def check(self) -> None:
        """Raises AssertionError unless the tensors held are those that residency counts."""
        counted = {r.version for r in self._residency.table() if r.host_bytes}
        held = set(self._host)
        assert held == counted, f"tensors are held of {held - counted}, missing of {counted - held}"
