"""Decides which adapter is where: in a device slot, in host memory, on disk, or in the registry.

Told of versions, leases and finished loads, it says what to load next, into which slot and in
whose place; the caller does the loading. What is where stands in `books`, who comes next is decided
in `line`. Knows nothing of tensors, files, threads or clocks: `now` is the caller's, in seconds,
and never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loraland.engine.books import Books
from loraland.engine.eviction import Policy, lru
from loraland.engine.line import Line
from loraland.engine.refusals import Refusals
from loraland.engine.tiers import Load, Record, Resident, Tier
from loraland.errors import InvalidConfiguration, InvalidRequest

__all__ = ["Load", "Residency", "Resident", "Tier"]


class Residency:
    """The table of adapters. Not thread-safe: all calls come from one event loop.

    A caller's step, with `waiting` the versions of queued requests in the scheduler's order:

        residency.add(version, Tier.DISK, size_bytes, now)   # once: it may be asked for
        residency.lease(version, now)                        # per request, at submission
        for load in residency.plan_loads(waiting, now): ...  # begin(load), do it in a thread, then
        for load in residency.prefetch(waiting, now): ...    # commit(load, size_bytes, load_ms,
                                                             # now), or fail(load, reason, now)
        residency.slot_of(version)                           # None: wait, or see refused()
        residency.mark_running(version)                      # per row; mark_idle when it leaves
        residency.drain(waiting, now)                        # who starts no row if one starves
        residency.release(version, now)                      # after mark_idle, at the last token
        residency.take_dropped()                             # whose host tensors to free

    A slot changes hands at `commit`, so the caller writes it just before, between two steps of the
    model, from tensors that were checked before. From `begin` to then the victim's weights stay,
    but its slot_of is None: no row may start on what is about to go.
    """

    def __init__(
        self, *, slots: int, host_bytes: int, policy: Policy = lru, failed_s: float = 5.0
    ) -> None:
        """A table of `slots` device slots, numbered from 1, and `host_bytes` of host memory.

        The budget bounds the copies kept. Loads replace before they evict, so memory in use may
        pass it by what is being read; and one version that finds the host full of leased copies,
        or is larger than all of it, passes through alone. A failed version is left alone for
        `failed_s` seconds. Raises InvalidConfiguration.
        """
        if slots < 1 or host_bytes < 0 or not failed_s >= 0:
            raise InvalidConfiguration(
                f"slots={slots}, host_bytes={host_bytes}, failed_s={failed_s}: give at least one "
                "slot, and no negative bytes or seconds"
            )
        self._books = Books(slots, host_bytes, policy)
        self._refusals = Refusals(failed_s)

    # Known versions

    def add(self, version: str, tier: Tier, size_bytes: int, now: float) -> None:
        """Make a version known at REGISTRY, DISK or HOST (which lies on DISK too).

        One that is known keeps its counts and size, may rise in tier, and is no longer retired.
        Only a load puts a version on the DEVICE: ValueError. So does one without a size that is new
        or comes to HOST.
        """
        if tier is Tier.DEVICE:
            raise ValueError(f"'{version}' cannot be added on the device; load it there")
        if size_bytes < 1 and (tier is Tier.HOST or version not in self._books.records):
            raise ValueError(f"'{version}' cannot have {size_bytes} bytes; give its files' size")
        home = Tier.REGISTRY if tier is Tier.REGISTRY else Tier.DISK
        new = Record(version, home, size_bytes, now)
        record = self._books.records.setdefault(version, new)
        record.retired = False
        if home is Tier.DISK and record.load is None:
            record.home = home  # a load under way has its source already
        if tier is Tier.HOST and record.tier in (Tier.DISK, Tier.REGISTRY) and record.load is None:
            self._books.keep(record, size_bytes)
            self._books.trim()

    def retire(self, version: str) -> bool:
        """Allow no new lease, and end a pin. True when the version can be forgotten now.

        Otherwise the last `release`, `commit` or `fail` says so. Raises UnknownModel.
        """
        record = self._books.find(version)
        record.retired, record.pinned = True, False
        self._books.trim()
        return record.is_over

    def forget(self, version: str) -> None:
        """Take a version out of the table; its slot is free. Raises ValueError while in use."""
        record = self._books.find(version)
        if record.leases or record.load:
            raise ValueError(
                f"'{version}' has {record.leases} leases{' and is loading' if record.load else ''};"
                " retire it, and forget it when that or the last release says so"
            )
        self._books.forget(record)

    # Leases

    def lease(self, version: str, now: float) -> None:
        """Hold a version for one request. Raises UnknownModel when it is unknown or retired.

        Counts a hit when rows can run at once, a miss otherwise.
        """
        record = self._books.find_open(version)
        if self._books.slot_of(record) is None:
            record.misses += 1
        else:
            record.hits += 1
        record.leases += 1
        self._books.count_use(record, now)

    def release(self, version: str, now: float) -> bool:
        """End one lease. True when the version is retired and can be forgotten now.

        Raises ValueError when none is left, or when all that are left belong to running rows.
        """
        record = self._books.find(version)
        if record.leases <= record.running:
            raise ValueError(
                f"'{version}' has {record.leases} leases, {record.running} of them running; "
                "lease before, and mark_idle before release"
            )
        record.leases -= 1
        record.last_used_s = now
        self._books.trim()
        return record.is_over

    def mark_running(self, version: str) -> None:
        """A leased row joins the batch: the slot is its until `mark_idle`.

        Raises ValueError when the version has no slot (see slot_of), or no lease that is idle.
        """
        record = self._books.find(version)
        slot = self._books.slot_of(record)
        if slot is None or record.running >= record.leases:
            raise ValueError(
                f"'{version}' cannot run: its slot is {slot}, and "
                f"{record.running} of its {record.leases} leases run already"
            )
        record.running += 1

    def mark_idle(self, version: str) -> None:
        """A row left the batch: it ended, or waits again. Raises ValueError when none runs."""
        record = self._books.find(version)
        if record.running == 0:
            raise ValueError(f"'{version}' has no running row")
        record.running -= 1

    def pin(self, version: str, pinned: bool) -> None:
        """Keep a version in its slot, once it has one; it does not load it.

        An eviction that has begun goes on. One slot always stays unpinned, or other adapters could
        never run: InvalidRequest. Raises UnknownModel for one that is unknown or retired.
        """
        record = self._books.find_open(version)
        known, slots = self._books.records.values(), self._books.slots
        others = sum(other.pinned for other in known if other is not record)
        if pinned and others + 1 >= slots:
            raise InvalidRequest(
                f"'{version}' cannot be pinned: {others} of {slots} slots are pinned and one "
                "must stay free for other adapters; unpin one, or start with more slots"
            )
        record.pinned = pinned
        self._books.trim()

    # Loads

    def plan_loads(self, wanted: Sequence[str], now: float) -> list[Load]:
        """The next steps of waiting versions for which a slot can be had. Changes nothing.

        `wanted` is in the order of service and may repeat. Slots come free ones first, then those
        of versions nobody waits for (by the policy), then of versions that wait behind the one to
        load (the last first). Rows that run and pins keep their slot. Versions that load, or
        failed a moment ago, are left out. Raises UnknownModel.
        """
        return self._line(wanted, now).loads()

    def prefetch(self, wanted: Sequence[str], now: float) -> list[Load]:
        """Loads into host memory for waiting versions, within the budget. Changes nothing.

        To be asked after the loads of `plan_loads` have begun; raises UnknownModel like it.
        """
        return self._line(wanted, now).prefetches()

    def drain(self, wanted: Sequence[str], now: float) -> list[str]:
        """Running versions that keep waiting ones off the device, one for each that finds no slot.

        A scheduler that starts no new row for these gives their slots to those who wait: without
        it a busy adapter, never idle, would keep its slot for ever. Only versions whose own next
        request waits behind are named, the last first.
        """
        return self._line(wanted, now).drained()

    def _line(self, wanted: Iterable[str], now: float) -> Line:
        return Line(self._books, wanted, lambda version: self.refused(version, now) is not None)

    def begin(self, load: Load) -> None:
        """Start a planned load. Raises ValueError when the table has changed since: plan again."""
        record = self._books.find(load.version)
        possible = record.load is None and record.slot is None and record.tier is load.from_tier
        if load.from_tier is Tier.HOST:
            free = self._books.can_take(load.slot, load.victim)
            possible &= load.to_tier is Tier.DEVICE and free
        else:
            possible &= load.to_tier is Tier.HOST and load.slot is None
        if not possible:
            raise ValueError(f"{load} cannot begin: the table has changed since; plan again")
        self._books.begin(record, load)

    def commit(self, load: Load, size_bytes: int, load_ms: float, now: float) -> bool:
        """A load has succeeded; only now its victim leaves the slot, keeping any host copy.

        Host copies beyond the budget are dropped. True when the version was retired meanwhile and
        can be forgotten now. Raises ValueError for a load that has not begun.
        """
        record = self._books.end(load)
        self._refusals.clear(load.version)
        record.last_used_s = max(record.last_used_s, now)
        if load.slot is None:
            record.home, record.known_bytes = Tier.DISK, size_bytes
            record.reads += 1
            record.read_ms = load_ms
            self._books.keep(record, size_bytes)
        else:
            record.loads += 1
            record.load_ms = load_ms
            self._books.place(record, load.slot, size_bytes)
        self._books.trim()
        return record.is_over

    def fail(self, load: Load, reason: str, now: float, *, damaged: bool = False) -> bool:
        """A load has failed: all is as before it began, and it is not planned for `failed_s`.

        `damaged` says that the slot was written in part: then its victim has lost it too, for its
        weights are no longer whole. Returns and raises like `commit`.
        """
        record = self._books.end(load)
        record.failures += 1
        if damaged and load.slot is not None:
            self._books.vacate(load.slot)
        self._refusals.note(load.version, reason, now)
        self._books.trim()
        return record.is_over

    # Queries

    def refused(self, version: str, now: float) -> str | None:
        """Why the last load failed, for `failed_s` seconds after it did."""
        return self._refusals.reason(version, now)

    def slot_of(self, version: str) -> int | None:
        """The slot, 1..slots, in which rows of this version can run; slot 0 is the base.

        None when it is not on the device, or about to leave.
        """
        record = self._books.records.get(version)
        return None if record is None else self._books.slot_of(record)

    def take_dropped(self) -> list[str]:
        """Versions whose host copy has gone since the last call; the caller frees the tensors.

        One that came back meanwhile is not named: its new tensors took the place of the old.
        """
        return self._books.take_dropped()

    def table(self) -> list[Resident]:
        """All known versions, in the order they were made known."""
        return [record.report() for record in self._books.records.values()]

    def working_set(self, window_s: float, now: float) -> int:
        """Versions leased now, or within the last `window_s`. Beyond the slots, misses are due."""
        return sum(
            1
            for record in self._books.records.values()
            if record.leases
            or (record.hits + record.misses and now - record.last_used_s <= window_s)
        )

    def check(self) -> None:
        """Raises AssertionError that says which promise of the table is broken."""
        self._books.check()
