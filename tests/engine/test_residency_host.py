"""Copies of adapters in host memory: within the budget, and who may pass it."""

from __future__ import annotations

from loraland.engine.residency import Load, Residency, Tier
from tests.engine.tables import bring, do, row_of, run, table_of


def test_host_copies_beyond_the_budget_fall_to_disk_the_least_recent_first():
    residency = table_of(slots=3, host_bytes=20, disk="abc")
    for now, version in enumerate("abc"):
        do(residency, residency.plan_loads([version], now), now)
    tiers = {row.version: row.tier for row in residency.table()}
    assert tiers == {"a": Tier.DISK, "b": Tier.HOST, "c": Tier.HOST}
    assert residency.take_dropped() == ["a"]
    assert residency.take_dropped() == []


def test_copy_that_came_back_is_not_reported_as_dropped():
    residency = table_of(slots=2, host_bytes=10, disk="ab")
    do(residency, residency.prefetch(["a"], 0.0), 0.0)
    do(residency, residency.prefetch(["b"], 1.0), 1.0)
    do(residency, residency.prefetch(["a"], 2.0), 2.0)
    assert residency.take_dropped() == ["b"]


def test_waiting_versions_keep_their_host_copy_and_prefetch_stops_at_the_budget():
    residency = table_of(slots=1, host_bytes=25, disk="abcd")
    for version in "abcd":
        residency.lease(version, 0.0)
    (first,) = residency.plan_loads(list("abcd"), 0.0)
    residency.begin(first)
    (second,) = residency.prefetch(list("abcd"), 0.0)
    assert (first.version, second.version) == ("a", "b")
    residency.begin(second)
    assert residency.prefetch(list("abcd"), 0.0) == []
    residency.commit(first, 10, 1.0, 0.0)
    residency.commit(second, 10, 1.0, 0.0)
    assert residency.prefetch(list("abcd"), 0.0) == []
    residency.release("b", 0.0)
    assert [load.version for load in residency.prefetch(list("acd"), 0.0)] == ["c"]


def test_prefetch_passes_over_what_is_held_already():
    residency = table_of(slots=1, disk="bc", host="a")
    bring(residency, ["a"])
    run(residency, "a")
    loads = residency.prefetch(["a", "b", "c"], 0.0)
    assert loads == [Load("b", Tier.DISK, Tier.HOST), Load("c", Tier.DISK, Tier.HOST)]


def test_first_in_line_passes_through_a_host_full_of_waiting_copies_alone():
    residency = table_of(slots=2, host_bytes=20, disk="abcd")
    for version in "abcd":
        residency.lease(version, 0.0)
    do(residency, residency.prefetch(["c", "d"], 0.0), 0.0)
    line = ["a", "b", "c", "d"]
    assert residency.prefetch(line, 0.0) == []
    plan = residency.plan_loads(line, 0.0)
    assert [load.version for load in plan if load.to_tier is Tier.HOST] == ["a"]
    residency.begin(plan[0])
    assert residency.plan_loads(["b", "a"], 0.0) == []
    residency.commit(plan[0], 10, 1.0, 0.0)
    assert sum(row.host_bytes for row in residency.table()) == 30
    bring(residency, ["a"])
    assert row_of(residency, "a").host_bytes == 0
    assert residency.plan_loads(["b", "c", "d"], 0.0)[0].version == "b"


def test_copy_over_the_budget_goes_when_its_last_lease_ends():
    residency = table_of(slots=1, host_bytes=10, disk="ab")
    for version in "ab":
        residency.lease(version, 0.0)
        do(residency, residency.plan_loads([version], 0.0), 0.0)
    assert [row.host_bytes for row in residency.table()] == [10, 10]
    residency.release("b", 1.0)
    assert [row.host_bytes for row in residency.table()] == [10, 0]


def test_copy_of_a_version_in_use_on_the_device_goes_after_those_not_in_use():
    residency = table_of(slots=1, host_bytes=20, host="a")
    bring(residency, ["a"])
    run(residency, "a", now=1.0)
    residency.add("b", Tier.HOST, 10, 2.0)
    residency.add("c", Tier.HOST, 10, 3.0)
    assert residency.take_dropped() == ["b"]
    residency.lease("c", 4.0)
    residency.add("d", Tier.DISK, 10, 4.0)
    residency.lease("d", 4.0)
    do(residency, residency.prefetch(["c", "d"], 4.0), 4.0)
    assert residency.take_dropped() == ["a"]


def test_adapter_larger_than_host_memory_is_served_all_the_same():
    residency = table_of(slots=1, host_bytes=0, disk="ab")
    residency.lease("a", 0.0)
    residency.lease("b", 0.0)
    bring(residency, ["a", "b"])
    assert residency.slot_of("a") == 1
    assert residency.release("a", 0.0) is False
    bring(residency, ["b"])
    assert residency.slot_of("b") == 1
    assert [row.host_bytes for row in residency.table()] == [0, 0]


def test_host_copy_stays_while_it_is_copied_into_a_slot():
    residency = table_of(slots=1, host_bytes=10, host="a")
    (load,) = residency.plan_loads(["a"], 0.0)
    residency.begin(load)
    residency.add("b", Tier.HOST, 10, 1.0)
    assert (row_of(residency, "a").host_bytes, row_of(residency, "b").host_bytes) == (10, 0)
    residency.commit(load, 10, 1.0, 1.0)
    residency.check()


def test_registry_version_lies_on_disk_after_it_was_read():
    residency = Residency(slots=1, host_bytes=10)
    residency.add("a", Tier.REGISTRY, 8, 0.0)
    (load,) = residency.prefetch(["a"], 0.0)
    assert load == Load("a", Tier.REGISTRY, Tier.HOST)
    residency.begin(load)
    residency.commit(load, 11, 5.0, 0.0)
    assert (row_of(residency, "a").tier, row_of(residency, "a").size_bytes) == (Tier.DISK, 11)
