"""The table of adapters under random use, beside a plain record of what happened."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loraland.engine.residency import Load, Residency, Tier
from loraland.errors import InvalidRequest, UnknownModel
from tests.engine.tables import FAILED_S

VERSIONS = st.sampled_from("abcdefg")


class AnyUse(RuleBasedStateMachine):
    """Requests, loads and administration in any order, beside a plain record of what happened."""

    @initialize(slots=st.integers(1, 3), host_bytes=st.sampled_from([0, 15, 30, 1000]))
    def start(self, slots, host_bytes):
        self.table = Residency(slots=slots, host_bytes=host_bytes, failed_s=FAILED_S)
        self.slots, self.now = slots, 0.0
        self.line: list[str] = []  # waiting requests
        self.rows: list[str] = []  # running ones
        self.known: set[str] = set()
        self.retired: set[str] = set()
        self.pinned: set[str] = set()
        self.loading: list[Load] = []
        self.in_slot: dict[int, str] = {}
        self.on_host: set[str] = set()

    # Requests

    @rule(version=VERSIONS, tier=st.sampled_from([Tier.DISK, Tier.REGISTRY, Tier.HOST]))
    def add(self, version, tier):
        cold = version not in self.on_host and version not in self.in_slot.values()
        busy = any(load.version == version for load in self.loading)
        self.table.add(version, tier, 7 + ord(version) % 5, self.now)
        self.known.add(version)
        self.retired.discard(version)
        if tier is Tier.HOST and cold and not busy:
            self.on_host.add(version)
        self.on_host -= set(self.table.take_dropped())

    @rule(version=VERSIONS)
    def submit(self, version):
        if version in self.known - self.retired:
            self.table.lease(version, self.now)
            self.line.append(version)
        else:
            with pytest.raises(UnknownModel):
                self.table.lease(version, self.now)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def start_row(self, data):
        version = data.draw(st.sampled_from(self.line))
        promised = {load.slot for load in self.loading}
        slots = [s for s, v in self.in_slot.items() if v == version and s not in promised]
        assert self.table.slot_of(version) == (slots[0] if slots else None)
        if slots:
            self.table.mark_running(version)
            self.line.remove(version)
            self.rows.append(version)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), ends=st.booleans())
    def stop_row(self, data, ends):
        version = self.rows.pop(data.draw(st.integers(0, len(self.rows) - 1)))
        self.table.mark_idle(version)
        self.line.insert(0, version)
        if ends:
            self._release(version)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def cancel(self, data):
        self._release(data.draw(st.sampled_from(self.line)))

    def _release(self, version):
        self.line.remove(version)
        self._gone(version, self.table.release(version, self.now))

    def _gone(self, version, free):
        """What the table says of a version that may be over is what the record says."""
        leased = version in self.line or version in self.rows
        busy = any(load.version == version for load in self.loading)
        assert free == (version in self.retired and not leased and not busy)
        if free:
            self.table.forget(version)
            self.known.discard(version)
            self.retired.discard(version)
            self.in_slot = {s: v for s, v in self.in_slot.items() if v != version}
        self.on_host -= set(self.table.take_dropped())

    # Administration

    @rule(version=VERSIONS)
    def retire(self, version):
        if version in self.known:
            free = self.table.retire(version)
            self.retired.add(version)
            self.pinned.discard(version)
            self._gone(version, free)

    @rule(version=VERSIONS, pinned=st.booleans())
    def pin(self, version, pinned):
        if version not in self.known - self.retired:
            return
        if pinned and len(self.pinned | {version}) >= self.slots:
            with pytest.raises(InvalidRequest):
                self.table.pin(version, True)
            return
        self.table.pin(version, pinned)
        (self.pinned.add if pinned else self.pinned.discard)(version)
        self.on_host -= set(self.table.take_dropped())

    @rule(data=st.data())
    def reorder(self, data):
        self.line = data.draw(st.permutations(self.line))

    @rule(seconds=st.sampled_from([0.5, 3.0, FAILED_S]))
    def pass_time(self, seconds):
        self.now += seconds

    # Loads

    @rule(part=st.integers(0, 3), ahead=st.booleans())
    def begin_loads(self, part, ahead):
        before = self.table.table()
        plan = self.table.plan_loads(self.line, self.now)[: part or None]
        assert self.table.table() == before
        for load in plan:
            self._begin(load)
        if ahead:
            for load in self.table.prefetch(self.line, self.now):
                assert load.to_tier is Tier.HOST
                self._begin(load)

    def _begin(self, load):
        assert load.version in self.line
        assert load.version not in {other.version for other in self.loading}
        assert load.version not in self.in_slot.values()
        assert (load.to_tier is Tier.DEVICE) == (load.version in self.on_host)
        if load.to_tier is Tier.DEVICE:
            assert load.slot not in {other.slot for other in self.loading}
            assert load.victim == self.in_slot.get(load.slot)
            assert load.victim not in self.rows and load.victim not in self.pinned
            if load.victim in self.line:
                assert self.line.index(load.version) < self.line.index(load.victim)
                # Nobody lost a place to it whom no one waits for.
                taken = {other.slot for other in self.loading}
                others = {self.in_slot.get(s) for s in range(1, self.slots + 1) if s not in taken}
                assert not others - set(self.line) - set(self.rows) - self.pinned
        self.table.begin(load)
        self.loading.append(load)

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), load_ms=st.floats(0, 100))
    def commit(self, data, load_ms):
        load = self.loading.pop(data.draw(st.integers(0, len(self.loading) - 1)))
        self._commit(load, load_ms)

    def _commit(self, load, load_ms=1.0):
        assert self.in_slot.get(load.slot) not in self.rows
        if load.slot is None:
            self.on_host.add(load.version)
        else:
            self.in_slot[load.slot] = load.version
        free = self.table.commit(load, 7 + ord(load.version) % 5, load_ms, self.now)
        assert self.table.refused(load.version, self.now) is None
        self._gone(load.version, free)

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), damaged=st.booleans())
    def fail(self, data, damaged):
        load = self.loading.pop(data.draw(st.integers(0, len(self.loading) - 1)))
        before = {row.version: row for row in self.table.table()}
        free = self.table.fail(load, "no", self.now, damaged=damaged)
        victim = self.in_slot.pop(load.slot, None) if damaged else None
        for row in self.table.table():
            old = before[row.version]
            if row.version == load.version:
                old = old._replace(failures=old.failures + 1)
            if row.version == victim:
                continue
            assert row == old or row == old._replace(
                host_bytes=0, tier=row.tier, size_bytes=row.size_bytes
            )
        assert self.table.refused(load.version, self.now) == "no"
        self._gone(load.version, free)

    # What always holds

    @invariant()
    def table_tells_what_happened(self):
        self.table.check()
        rows = {row.version: row for row in self.table.table()}
        assert set(rows) == self.known
        running, waiting = Counter(self.rows), Counter(self.line)
        for version, row in rows.items():
            assert (row.running, row.leases) == (running[version], row.running + waiting[version])
            assert row.hits + row.misses >= row.leases
            assert (row.pinned, row.retired) == (version in self.pinned, version in self.retired)
            assert (row.host_bytes > 0) == (version in self.on_host)
        assert {row.slot: v for v, row in rows.items() if row.slot} == self.in_slot
        assert {load.version for load in self.loading if load.slot} <= self.on_host

    def teardown(self):
        """Once everything else ends, each waiting request gets its slot, in the order of line."""
        if not hasattr(self, "table"):
            return
        while self.rows:
            version = self.rows.pop()
            self.table.mark_idle(version)
            self.line.append(version)
        for _ in range(3 * len(self.known) + 3):
            self.now += FAILED_S
            while self.loading:
                self._commit(self.loading.pop())
            for version in [v for v in self.line if self.table.slot_of(v)]:
                self.table.mark_running(version)
                self.table.mark_idle(version)
                self._release(version)
            for load in self.table.plan_loads(self.line, self.now):
                self._begin(load)
            self.table_tells_what_happened()
        assert self.line == [] == self.loading


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
