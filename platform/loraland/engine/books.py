"""The books of residency: which adapters are known, what copies they have, who holds which slot.

Also says what a copy is worth and which may go. Knows sizes, ages and leases; decides nothing about
who comes next (`line`), and knows nothing of tensors, files, threads or clocks.
"""

from __future__ import annotations

from loraland.engine.eviction import Candidate, Policy
from loraland.engine.tiers import Copy, Load, Record, Tier
from loraland.errors import UnknownModel, did_you_mean


class Books:
    """Records, slots and host memory, kept in agreement. `check` says whether they are."""

    def __init__(self, slots: int, host_bytes: int, policy: Policy) -> None:
        """`slots` device slots, numbered from 1, and `host_bytes` for the copies kept in memory."""
        self.slots, self.host_bytes, self._policy = slots, host_bytes, policy
        self.records: dict[str, Record] = {}  # in the order they were made known
        self.holders: dict[int, str] = {}  # slot -> who is in it
        self.incoming: dict[int, str] = {}  # slot -> who is on the way into it
        self._host_used = 0
        self._dropped: dict[str, None] = {}
        self._ages = {Tier.DEVICE: 0.0, Tier.HOST: 0.0}  # of the policy, see Candidate.age

    # Records

    def find(self, version: str) -> Record:
        """What is known of a version. Raises UnknownModel when nothing is."""
        if (record := self.records.get(version)) is None:
            known = (name for name, other in self.records.items() if not other.retired)
            raise UnknownModel(f"adapter '{version}' is not loaded; {did_you_mean(version, known)}")
        return record

    def find_open(self, version: str) -> Record:
        """The same of one that may be leased. Raises UnknownModel also when it is retired."""
        if (record := self.find(version)).retired:
            raise UnknownModel(f"adapter '{version}' was unloaded; load it again to use it")
        return record

    def forget(self, record: Record) -> None:
        """Take out a version that nobody uses, and all its copies."""
        if Tier.HOST in record.copies:
            self._host_used -= record.host_bytes
            self._dropped[record.version] = None
        if record.slot is not None:
            del self.holders[record.slot]
        del self.records[record.version]

    def count_use(self, record: Record, now: float) -> None:
        """A lease was given out: the copies are worth more now."""
        record.last_used_s = now
        for tier, copy in record.copies.items():
            copy.uses += 1
            copy.age = self._ages[tier]

    # Slots

    def slot_of(self, record: Record) -> int | None:
        """The slot in which rows can run; None also when it is promised to another."""
        return None if record.slot in self.incoming else record.slot

    def can_take(self, slot: int | None, victim: str | None) -> bool:
        """Whether a load may go to `slot`, where `victim` is now, or nobody."""
        if slot is None or not 1 <= slot <= self.slots or slot in self.incoming:
            return False
        if self.holders.get(slot) != victim:
            return False
        return victim is None or not (self.records[victim].running or self.records[victim].pinned)

    def place(self, record: Record, slot: int, size_bytes: int) -> None:
        """Put a version into a slot; who was there has left it."""
        self.vacate(slot)
        record.slot = slot
        self.holders[slot] = record.version
        self._hold(record, Tier.DEVICE, size_bytes)

    def vacate(self, slot: int) -> None:
        """Empty a slot, if anyone is in it."""
        if (version := self.holders.pop(slot, None)) is None:
            return
        record = self.records[version]
        self._lose(record, Tier.DEVICE)
        record.slot = None
        record.evictions += 1

    # Host memory

    def keep(self, record: Record, size_bytes: int) -> None:
        """A version has come into host memory."""
        self._hold(record, Tier.HOST, size_bytes)
        self._host_used += size_bytes
        self._dropped.pop(record.version, None)

    def keeps_host(self, record: Record) -> bool:
        """Whether a host copy must stay: one that is being copied, or all that a user has."""
        if record.load is not None:
            return True
        return self.slot_of(record) is None and (record.leases > 0 or record.pinned)

    def trim(self) -> None:
        """Drop host copies down to the budget: first of versions not in use, by the policy."""
        if self._host_used <= self.host_bytes:
            return
        loose = [record for record in self._hosted() if not self.keeps_host(record)]
        loose.sort(key=lambda r: (r.leases > 0 or r.pinned, self.value(r, Tier.HOST)))
        for record in loose:
            if self._host_used <= self.host_bytes:
                return
            self._host_used -= record.host_bytes
            self._lose(record, Tier.HOST)
            self._dropped[record.version] = None

    def take_dropped(self) -> list[str]:
        """Versions whose host copy has gone since the last call, and not come back."""
        dropped, self._dropped = list(self._dropped), {}
        return dropped

    def _hosted(self) -> list[Record]:
        return [record for record in self.records.values() if Tier.HOST in record.copies]

    # Copies

    def value(self, record: Record, tier: Tier) -> float:
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

    def _hold(self, record: Record, tier: Tier, size_bytes: int) -> None:
        record.copies[tier] = Copy(size_bytes, max(record.leases, 1), self._ages[tier])

    def _lose(self, record: Record, tier: Tier) -> None:
        if not record.leases:  # one that is in use leaves out of turn, and says nothing of ages
            self._ages[tier] = max(self._ages[tier], self.value(record, tier))
        del record.copies[tier]

    # Loads under way

    def begin(self, record: Record, load: Load) -> None:
        """Note a load, and promise its slot."""
        record.load = load
        if load.slot is not None:
            self.incoming[load.slot] = load.version

    def end(self, load: Load) -> Record:
        """A load is over either way. Raises ValueError for one that has not begun."""
        record = self.records.get(load.version)
        if record is None or record.load != load:
            raise ValueError(f"{load} has not begun, or has ended before")
        record.load = None
        if load.slot is not None:
            del self.incoming[load.slot]
        return record

    # Agreement

    def check(self) -> None:
        """Raises AssertionError that says which promise of the table is broken."""
        slots = [record.slot for record in self.records.values() if record.slot is not None]
        _assert(len(slots) == len(set(slots)), f"a slot is held twice: {sorted(slots)}")
        holders = {r.slot: r.version for r in self.records.values() if r.slot is not None}
        _assert(holders == self.holders, f"holders {self.holders} are not {holders}")
        _assert(all(1 <= slot <= self.slots for slot in slots), f"slots out of range: {slots}")
        incoming = {r.load.slot: r.version for r in self.records.values() if r.load and r.load.slot}
        _assert(incoming == self.incoming, f"incoming {self.incoming} are not {incoming}")
        for record in self.records.values():
            self._check_record(record)
        hosted = self._hosted()
        used = sum(record.host_bytes for record in hosted)
        _assert(used == self._host_used, f"host bytes are {used}, counted {self._host_used}")
        _assert(
            used <= self.host_bytes or all(self.keeps_host(record) for record in hosted),
            f"host bytes {used} are over {self.host_bytes} and some could be dropped",
        )
        pins = sum(record.pinned for record in self.records.values())
        _assert(pins == 0 or pins < self.slots, f"{pins} of {self.slots} slots are pinned")

    def _check_record(self, record: Record) -> None:
        name = f"'{record.version}'"
        _assert(
            0 <= record.running <= record.leases,
            f"{name} runs {record.running} of {record.leases} leases",
        )
        _assert((record.slot is None) == (Tier.DEVICE not in record.copies), f"{name}: slot, copy")
        _assert(
            not record.running or self.slot_of(record) is not None,
            f"{name} runs in slot {record.slot}, which is empty or promised to another",
        )
        _assert(
            record.load is None or (record.slot is None and record.load.from_tier is record.tier),
            f"{name} is at {record.tier} while it loads: {record.load}",
        )
        _assert(not (record.pinned and record.retired), f"{name} is pinned and retired")


def _assert(holds: bool, reason: str) -> None:
    """An assertion that `python -O` keeps."""
    if not holds:
        raise AssertionError(reason)
