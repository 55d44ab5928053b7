"""Decides which adapter is where: in a device slot, in host memory, on disk, or in the registry.

Told of versions, leases and finished loads, it says what to load next, into which slot and in
whose place; the caller does the loading. Knows sizes, ages and leases; knows nothing of tensors,
files, threads or clocks: `now` is the caller's, in seconds, and never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from loraland.engine.allotment import Offer, Offers, Room
from loraland.engine.eviction import Candidate, Policy, lru
from loraland.engine.tiers import Copy, Load, Record, Resident, Tier
from loraland.errors import InvalidConfiguration, InvalidRequest, UnknownModel, did_you_mean

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
        self._slots, self._host_bytes = slots, host_bytes
        self._policy, self._failed_s = policy, failed_s
        self._records: dict[str, Record] = {}
        self._holders: dict[int, str] = {}  # slot -> who is in it
        self._incoming: dict[int, str] = {}  # slot -> who is on the way into it
        self._failed: dict[str, tuple[str, float]] = {}  # version -> reason, when
        self._dropped: dict[str, None] = {}
        self._host_used = 0
        self._ages = {Tier.DEVICE: 0.0, Tier.HOST: 0.0}  # of the policy, see Candidate.age

    # Known versions

    def add(self, version: str, tier: Tier, size_bytes: int, now: float) -> None:
        """Make a version known at REGISTRY, DISK or HOST (which lies on DISK too).

        One that is known keeps its counts and size, may rise in tier, and is no longer retired.
        Only a load puts a version on the DEVICE: ValueError. So does one without a size that is new
        or comes to HOST.
        """
        if tier is Tier.DEVICE:
            raise ValueError(f"'{version}' cannot be added on the device; load it there")
        if size_bytes < 1 and (tier is Tier.HOST or version not in self._records):
            raise ValueError(f"'{version}' cannot have {size_bytes} bytes; give its files' size")
        home = Tier.REGISTRY if tier is Tier.REGISTRY else Tier.DISK
        record = self._records.setdefault(version, Record(version, home, size_bytes, now))
        record.retired = False
        if home is Tier.DISK and record.load is None:
            record.home = home  # a load under way has its source already
        if tier is Tier.HOST and record.tier in (Tier.DISK, Tier.REGISTRY) and record.load is None:
            self._hold(record, Tier.HOST, size_bytes)
            self._trim()

    def retire(self, version: str) -> bool:
        """Allow no new lease, and end a pin. True when the version can be forgotten now.

        Otherwise the last `release`, `commit` or `fail` says so. Raises UnknownModel.
        """
        record = self._find(version)
        record.retired, record.pinned = True, False
        self._trim()
        return record.is_over

    def forget(self, version: str) -> None:
        """Take a version out of the table; its slot is free. Raises ValueError while in use."""
        record = self._find(version)
        if record.leases or record.load:
            raise ValueError(
                f"'{version}' has {record.leases} leases{' and is loading' if record.load else ''};"
                " retire it, and forget it when that or the last release says so"
            )
        if Tier.HOST in record.copies:
            self._host_used -= record.host_bytes
            self._dropped[version] = None
        if record.slot is not None:
            del self._holders[record.slot]
        del self._records[version]

    # Leases

    def lease(self, version: str, now: float) -> None:
        """Hold a version for one request. Raises UnknownModel when it is unknown or retired.

        Counts a hit when rows can run at once, a miss otherwise.
        """
        record = self._open(version)
        if self.slot_of(version) is None:
            record.misses += 1
        else:
            record.hits += 1
        record.leases += 1
        record.last_used_s = now
        for tier, copy in record.copies.items():
            copy.uses += 1
            copy.age = self._ages[tier]

    def release(self, version: str, now: float) -> bool:
        """End one lease. True when the version is retired and can be forgotten now.

        Raises ValueError when none is left, or when all that are left belong to running rows.
        """
        record = self._find(version)
        if record.leases <= record.running:
            raise ValueError(
                f"'{version}' has {record.leases} leases, {record.running} of them running; "
                "lease before, and mark_idle before release"
            )
        record.leases -= 1
        record.last_used_s = now
        self._trim()
        return record.is_over

    def mark_running(self, version: str) -> None:
        """A leased row joins the batch: the slot is its until `mark_idle`.

        Raises ValueError when the version has no slot (see slot_of), or no lease that is idle.
        """
        record = self._find(version)
        if self.slot_of(version) is None or record.running >= record.leases:
            raise ValueError(
                f"'{version}' cannot run: its slot is {self.slot_of(version)}, and "
                f"{record.running} of its {record.leases} leases run already"
            )
        record.running += 1

    def mark_idle(self, version: str) -> None:
        """A row left the batch: it ended, or waits again. Raises ValueError when none runs."""
        record = self._find(version)
        if record.running == 0:
            raise ValueError(f"'{version}' has no running row")
        record.running -= 1

    def pin(self, version: str, pinned: bool) -> None:
        """Keep a version in its slot, once it has one; it does not load it.

        An eviction that has begun goes on. One slot always stays unpinned, or other adapters could
        never run: InvalidRequest. Raises UnknownModel for one that is unknown or retired.
        """
        record = self._open(version)
        others = sum(other.pinned for other in self._records.values() if other is not record)
        if pinned and others + 1 >= self._slots:
            raise InvalidRequest(
                f"'{version}' cannot be pinned: {others} of {self._slots} slots are pinned and one "
                "must stay free for other adapters; unpin one, or start with more slots"
            )
        record.pinned = pinned
        self._trim()

    # Loads

    def plan_loads(self, wanted: Sequence[str], now: float) -> list[Load]:
        """The next steps of waiting versions for which a slot can be had. Changes nothing.

        `wanted` is in the order of service and may repeat. Slots come free ones first, then those
        of versions nobody waits for (by the policy), then of versions that wait behind the one to
        load (the last first). Rows that run and pins keep their slot. Versions that load, or
        failed a moment ago, are left out. Raises UnknownModel.
        """
        places, missing = self._missing(wanted, now)
        if not missing or not (idle := self._offers(places, running=False)):
            return []
        offers, room = Offers(idle), self._room()
        plan: list[Load] = []
        for record in missing:
            place = places[record.version]
            if record.load is not None and record.load.to_tier is Tier.DEVICE:
                continue
            if Tier.HOST in record.copies:
                if (offer := offers.take(place)) is not None:
                    slot, victim, _ = offer
                    plan.append(Load(record.version, Tier.HOST, Tier.DEVICE, slot, victim))
            elif (
                offers.expect(place)
                and record.load is None
                # The first in line never waits for host memory that others in the line hold.
                and room.admit(record.known_bytes, over=record is missing[0])
            ):
                plan.append(Load(record.version, record.home, Tier.HOST))
        return plan

    def prefetch(self, wanted: Sequence[str], now: float) -> list[Load]:
        """Loads into host memory for waiting versions, within the budget. Changes nothing.

        To be asked after the loads of `plan_loads` have begun; raises UnknownModel like it.
        """
        _, missing = self._missing(wanted, now)
        cold = [record for record in missing if not record.load and Tier.HOST not in record.copies]
        if not cold:
            return []
        room = self._room()
        return [
            Load(record.version, record.home, Tier.HOST)
            for record in cold
            if room.admit(record.known_bytes)
        ]

    def drain(self, wanted: Sequence[str], now: float) -> list[str]:
        """Running versions that keep waiting ones off the device, one for each that finds no slot.

        A scheduler that starts no new row for these gives their slots to those who wait: without
        it a busy adapter, never idle, would keep its slot for ever. Only versions whose own next
        request waits behind are named, the last first.
        """
        places, missing = self._missing(wanted, now)
        if not missing:
            return []
        idle = Offers(self._offers(places, running=False))
        busy = Offers(self._offers(places, running=True))
        named: list[str] = []
        for record in missing:
            place = places[record.version]
            arriving = record.load is not None and record.load.to_tier is Tier.DEVICE
            if arriving or idle.take(place) is not None:
                continue
            if (offer := busy.take(place)) is not None and offer.victim is not None:
                named.append(offer.victim)
        return named

    def begin(self, load: Load) -> None:
        """Start a planned load. Raises ValueError when the table has changed since: plan again."""
        record = self._find(load.version)
        possible = record.load is None and record.slot is None and record.tier is load.from_tier
        if load.from_tier is Tier.HOST:
            possible &= load.to_tier is Tier.DEVICE and self._can_take(load.slot, load.victim)
        else:
            possible &= load.to_tier is Tier.HOST and load.slot is None
        if not possible:
            raise ValueError(f"{load} cannot begin: the table has changed since; plan again")
        record.load = load
        if load.slot is not None:
            self._incoming[load.slot] = load.version

    def commit(self, load: Load, size_bytes: int, load_ms: float, now: float) -> bool:
        """A load has succeeded; only now its victim leaves the slot, keeping any host copy.

        Host copies beyond the budget are dropped. True when the version was retired meanwhile and
        can be forgotten now. Raises ValueError for a load that has not begun.
        """
        record = self._end(load)
        self._failed.pop(load.version, None)
        record.last_used_s = max(record.last_used_s, now)
        if load.slot is None:
            record.home, record.known_bytes = Tier.DISK, size_bytes
            record.reads += 1
            record.read_ms = load_ms
            self._hold(record, Tier.HOST, size_bytes)
        else:
            self._evict(load.slot)
            record.slot = load.slot
            self._holders[load.slot] = load.version
            record.loads += 1
            record.load_ms = load_ms
            self._hold(record, Tier.DEVICE, size_bytes)
        self._trim()
        return record.is_over

    def fail(self, load: Load, reason: str, now: float, *, damaged: bool = False) -> bool:
        """A load has failed: all is as before it began, and it is not planned for `failed_s`.

        `damaged` says that the slot was written in part: then its victim has lost it too, for its
        weights are no longer whole. Returns and raises like `commit`.
        """
        record = self._end(load)
        record.failures += 1
        if damaged and load.slot is not None:
            self._evict(load.slot)
        self._failed = {
            version: failure
            for version, failure in self._failed.items()
            if now - failure[1] < self._failed_s
        }
        self._failed[load.version] = (reason, now)
        self._trim()
        return record.is_over

    # Queries

    def refused(self, version: str, now: float) -> str | None:
        """Why the last load failed, for `failed_s` seconds after it did."""
        reason, when = self._failed.get(version, (None, -math.inf))
        return reason if now - when < self._failed_s else None

    def slot_of(self, version: str) -> int | None:
        """The slot, 1..slots, in which rows of this version can run; slot 0 is the base.

        None when it is not on the device, or about to leave.
        """
        record = self._records.get(version)
        if record is None or record.slot is None or record.slot in self._incoming:
            return None
        return record.slot

    def take_dropped(self) -> list[str]:
        """Versions whose host copy has gone since the last call; the caller frees the tensors.

        One that came back meanwhile is not named: its new tensors took the place of the old.
        """
        dropped, self._dropped = list(self._dropped), {}
        return dropped

    def table(self) -> list[Resident]:
        """All known versions, in the order they were made known."""
        return [record.report() for record in self._records.values()]

    def working_set(self, window_s: float, now: float) -> int:
        """Versions leased now, or within the last `window_s`. Beyond the slots, misses are due."""
        return sum(
            1
            for record in self._records.values()
            if record.leases
            or (record.hits + record.misses and now - record.last_used_s <= window_s)
        )

    def check(self) -> None:
        """Raises AssertionError that says which promise of the table is broken."""
        slots = [record.slot for record in self._records.values() if record.slot is not None]
        _assert(len(slots) == len(set(slots)), f"a slot is held twice: {sorted(slots)}")
        holders = {r.slot: r.version for r in self._records.values() if r.slot is not None}
        _assert(holders == self._holders, f"holders {self._holders} are not {holders}")
        _assert(all(1 <= slot <= self._slots for slot in slots), f"slots out of range: {slots}")
        incoming = {
            r.load.slot: r.version for r in self._records.values() if r.load and r.load.slot
        }
        _assert(incoming == self._incoming, f"incoming {self._incoming} are not {incoming}")
        for record in self._records.values():
            self._check_record(record)
        hosted = [record for record in self._records.values() if Tier.HOST in record.copies]
        used = sum(record.host_bytes for record in hosted)
        _assert(used == self._host_used, f"host bytes are {used}, counted {self._host_used}")
        _assert(
            used <= self._host_bytes or all(self._keeps_host(record) for record in hosted),
            f"host bytes {used} are over {self._host_bytes} and some could be dropped",
        )
        pins = sum(record.pinned for record in self._records.values())
        _assert(pins == 0 or pins < self._slots, f"{pins} of {self._slots} slots are pinned")

    def _check_record(self, record: Record) -> None:
        name = f"'{record.version}'"
        _assert(
            0 <= record.running <= record.leases,
            f"{name} runs {record.running} of {record.leases} leases",
        )
        _assert((record.slot is None) == (Tier.DEVICE not in record.copies), f"{name}: slot, copy")
        _assert(
            not record.running or self.slot_of(record.version) is not None,
            f"{name} runs in slot {record.slot}, which is empty or promised to another",
        )
        _assert(
            record.load is None or (record.slot is None and record.load.from_tier is record.tier),
            f"{name} is at {record.tier} while it loads: {record.load}",
        )
        _assert(not (record.pinned and record.retired), f"{name} is pinned and retired")

    # Inside

    def _find(self, version: str) -> Record:
        if (record := self._records.get(version)) is None:
            known = (name for name, other in self._records.items() if not other.retired)
            raise UnknownModel(f"adapter '{version}' is not loaded; {did_you_mean(version, known)}")
        return record

    def _open(self, version: str) -> Record:
        if (record := self._find(version)).retired:
            raise UnknownModel(f"adapter '{version}' was unloaded; load it again to use it")
        return record

    def _missing(self, wanted: Iterable[str], now: float) -> tuple[dict[str, int], list[Record]]:
        """Each version's first place in line, and those that are off the device and not refused."""
        places = {version: place for place, version in enumerate(dict.fromkeys(wanted))}
        records = [self._find(version) for version in places]
        missing = [
            record
            for record in records
            if record.slot is None and self.refused(record.version, now) is None
        ]
        return places, missing

    def _offers(self, places: Mapping[str, int], *, running: bool) -> list[Offer]:
        """Slots that may change hands, best first: free ones and idle ones, or those that run."""
        free = [] if running else [s for s in range(1, self._slots + 1) if s not in self._holders]
        offers = [Offer(slot, None, math.inf) for slot in free if slot not in self._incoming]
        held = [
            self._records[version]
            for slot, version in self._holders.items()
            if slot not in self._incoming
        ]
        held = [record for record in held if not record.pinned and (record.running > 0) is running]
        held.sort(key=lambda r: (r.leases > 0, self._value(r, Tier.DEVICE)))
        offers += [
            Offer(record.slot, record.version, places.get(record.version, math.inf))
            for record in held
            if record.slot is not None
        ]
        return sorted(offers, key=lambda offer: -offer.place)  # stable: equals keep their order

    def _can_take(self, slot: int | None, victim: str | None) -> bool:
        if slot is None or not 1 <= slot <= self._slots or slot in self._incoming:
            return False
        if self._holders.get(slot) != victim:
            return False
        return victim is None or not (self._records[victim].running or self._records[victim].pinned)

    def _room(self) -> Room:
        kept = sum(r.host_bytes for r in self._records.values() if self._keeps_host(r))
        coming = [r.known_bytes for r in self._records.values() if r.load and r.load.slot is None]
        return Room(self._host_bytes - kept - sum(coming), idle=not coming)

    def _keeps_host(self, record: Record) -> bool:
        """Whether a host copy must stay: one that is being copied, or all that a user has."""
        if record.load is not None:
            return True
        return self.slot_of(record.version) is None and (record.leases > 0 or record.pinned)

    def _end(self, load: Load) -> Record:
        record = self._records.get(load.version)
        if record is None or record.load != load:
            raise ValueError(f"{load} has not begun, or has ended before")
        record.load = None
        if load.slot is not None:
            del self._incoming[load.slot]
        return record

    def _hold(self, record: Record, tier: Tier, size_bytes: int) -> None:
        record.copies[tier] = Copy(size_bytes, max(record.leases, 1), self._ages[tier])
        if tier is Tier.HOST:
            self._host_used += size_bytes
            self._dropped.pop(record.version, None)

    def _evict(self, slot: int) -> None:
        """Empty a slot, if anyone is in it."""
        if (version := self._holders.pop(slot, None)) is None:
            return
        record = self._records[version]
        self._lose(record, Tier.DEVICE)
        record.slot = None
        record.evictions += 1

    def _drop(self, record: Record) -> None:
        self._host_used -= record.host_bytes
        self._lose(record, Tier.HOST)
        self._dropped[record.version] = None

    def _lose(self, record: Record, tier: Tier) -> None:
        if not record.leases:  # one that is in use leaves out of turn, and says nothing of ages
            self._ages[tier] = max(self._ages[tier], self._value(record, tier))
        del record.copies[tier]

    def _trim(self) -> None:
        """Drop host copies down to the budget: first of versions not in use, by the policy."""
        if self._host_used <= self._host_bytes:
            return
        hosted = [record for record in self._records.values() if Tier.HOST in record.copies]
        loose = [record for record in hosted if not self._keeps_host(record)]
        loose.sort(key=lambda r: (r.leases > 0 or r.pinned, self._value(r, Tier.HOST)))
        for record in loose:
            if self._host_used <= self._host_bytes:
                return
            self._drop(record)

    def _value(self, record: Record, tier: Tier) -> float:
        """What the policy says of a copy. A slot is a slot, whatever the adapter's size."""
        copy = record.copies[tier]
        device = tier is Tier.DEVICE
        again_ms = record.load_ms if device else record.read_ms
        if device and Tier.HOST not in record.copies:
            again_ms += record.read_ms
        size = 1 if device else copy.size_bytes
        return self._policy(
            Candidate(record.version, size, again_ms, record.last_used_s, copy.uses, copy.age)
        )


def _assert(holds: bool, reason: str) -> None:
    """An assertion that `python -O` keeps."""
    if not holds:
        raise AssertionError(reason)
