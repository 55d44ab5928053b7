"""The table of adapters: its promises one by one, and under random use."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loraland.engine.residency import Load, Residency, Tier
from loraland.errors import InvalidConfiguration, InvalidRequest, UnknownModel

SOURCE_ROOT = Path(__file__).resolve().parents[2] / "platform"
FAILED_S = 5.0


def table_of(slots=2, host_bytes=1000, disk="", host="", size=10, **options):
    """A table that knows a version per letter."""
    residency = Residency(slots=slots, host_bytes=host_bytes, failed_s=FAILED_S, **options)
    for tier, letters in ((Tier.DISK, disk), (Tier.HOST, host)):
        for letter in letters:
            residency.add(letter, tier, size, 0.0)
    return residency


def row_of(residency, version):
    return next(row for row in residency.table() if row.version == version)


def do(residency, loads, now, size=10, load_ms=7.0):
    for load in loads:
        residency.begin(load)
    for load in loads:
        residency.commit(load, size, load_ms, now)
    residency.check()


def bring(residency, wanted, now=0.0):
    """All steps that the waiting versions can make at once."""
    while loads := residency.plan_loads(wanted, now):
        do(residency, loads, now)


def run(residency, *versions, now=0.0):
    """A request that runs for each version; they must be on the device."""
    for version in versions:
        residency.lease(version, now)
        residency.mark_running(version)


def end(residency, version, now=0.0):
    residency.mark_idle(version)
    return residency.release(version, now)


# What is known, and leases


def test_unknown_version_names_the_nearest_known_one():
    residency = table_of()
    residency.add("smollm/dbpedia@1", Tier.DISK, 10, 0.0)
    with pytest.raises(UnknownModel, match="did you mean 'smollm/dbpedia@1'"):
        residency.lease("smollm/dbpedi@1", 0.0)
    assert residency.slot_of("nobody") is None


def test_adding_what_is_known_may_raise_its_tier_and_changes_nothing_else():
    residency = Residency(slots=1, host_bytes=100)
    residency.add("a", Tier.REGISTRY, 10, 1.0)
    residency.lease("a", 2.0)
    residency.add("a", Tier.DISK, 99, 3.0)
    row = row_of(residency, "a")
    assert (row.tier, row.size_bytes, row.leases, row.last_used_s) == (Tier.DISK, 10, 1, 2.0)
    residency.add("a", Tier.HOST, 12, 4.0)
    assert (row_of(residency, "a").tier, row_of(residency, "a").size_bytes) == (Tier.HOST, 12)
    before = residency.table()
    residency.add("a", Tier.REGISTRY, 5, 5.0)
    residency.add("a", Tier.HOST, 5, 5.0)
    residency.add("a", Tier.DISK, 0, 6.0)
    assert residency.table() == before


def test_adding_on_the_device_or_without_a_size_is_refused():
    residency = table_of()
    with pytest.raises(ValueError, match="load it there"):
        residency.add("a", Tier.DEVICE, 10, 0.0)
    with pytest.raises(ValueError, match="files' size"):
        residency.add("a", Tier.DISK, 0, 0.0)
    assert residency.table() == []


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"host_bytes": -1}, {"failed_s": float("nan")}])
def test_impossible_bounds_are_refused(wrong):
    with pytest.raises(InvalidConfiguration, match="at least one slot"):
        Residency(**({"slots": 1, "host_bytes": 0} | wrong))


def test_lease_counts_a_hit_only_when_rows_can_run_at_once():
    residency = table_of(disk="a")
    residency.lease("a", 0.0)
    bring(residency, ["a"])
    residency.lease("a", 1.0)
    row = row_of(residency, "a")
    assert (row.hits, row.misses, row.leases, row.slot, row.tier) == (1, 1, 2, 1, Tier.DEVICE)
    assert (row.reads, row.loads, row.read_ms, row.load_ms) == (1, 1, 7.0, 7.0)


def test_lease_release_and_running_must_match():
    residency = table_of(host="a")
    with pytest.raises(ValueError, match="0 leases"):
        residency.release("a", 0.0)
    residency.lease("a", 0.0)
    with pytest.raises(ValueError, match="slot is None"):
        residency.mark_running("a")
    bring(residency, ["a"])
    residency.mark_running("a")
    with pytest.raises(ValueError, match="1 of its 1 leases run"):
        residency.mark_running("a")
    with pytest.raises(ValueError, match="mark_idle before release"):
        residency.release("a", 0.0)
    residency.mark_idle("a")
    with pytest.raises(ValueError, match="no running row"):
        residency.mark_idle("a")
    residency.check()


def test_retired_version_goes_with_its_last_lease():
    residency = table_of(host="a")
    residency.lease("a", 0.0)
    bring(residency, ["a"])
    residency.mark_running("a")
    residency.lease("a", 0.0)
    assert residency.retire("a") is False
    with pytest.raises(UnknownModel, match="was unloaded"):
        residency.lease("a", 0.0)
    with pytest.raises(ValueError, match="2 leases"):
        residency.forget("a")
    assert residency.release("a", 1.0) is False
    assert end(residency, "a") is True
    residency.forget("a")
    assert residency.table() == []
    assert residency.take_dropped() == ["a"]
    residency.check()


def test_retired_version_that_loads_goes_when_the_load_ends():
    residency = table_of(slots=1, disk="ab")
    (load, _) = loads = residency.plan_loads(["a"], 0.0) + residency.prefetch(["b"], 0.0)
    for begun in loads:
        residency.begin(begun)
    assert residency.retire("a") is False
    with pytest.raises(ValueError, match="is loading"):
        residency.forget("a")
    assert residency.commit(load, 10, 1.0, 0.0) is True
    assert residency.retire("b") is False
    assert residency.fail(loads[1], "gone", 0.0) is True


def test_added_again_a_retired_version_is_served_again():
    residency = table_of(host="a")
    residency.lease("a", 0.0)
    residency.retire("a")
    residency.add("a", Tier.DISK, 10, 1.0)
    residency.lease("a", 1.0)
    assert residency.release("a", 2.0) is False
    assert residency.release("a", 2.0) is False


# Loads into slots


def test_load_takes_two_steps_and_the_free_slots_first():
    residency = table_of(slots=2, disk="a", host="b")
    plan = residency.plan_loads(["a", "b", "a"], 0.0)
    assert plan == [
        Load("a", Tier.DISK, Tier.HOST),
        Load("b", Tier.HOST, Tier.DEVICE, slot=1),
    ]
    do(residency, plan, 0.0)
    assert residency.plan_loads(["a", "b"], 0.0) == [Load("a", Tier.HOST, Tier.DEVICE, slot=2)]


def test_victim_keeps_its_weights_until_the_load_commits_but_starts_no_row():
    residency = table_of(slots=1, host="ab")
    bring(residency, ["a"])
    (load,) = residency.plan_loads(["b"], 1.0)
    assert load == Load("b", Tier.HOST, Tier.DEVICE, slot=1, victim="a")
    assert residency.slot_of("a") == 1
    residency.begin(load)
    assert (row_of(residency, "a").slot, residency.slot_of("a")) == (1, None)
    residency.lease("a", 1.0)
    assert row_of(residency, "a").misses == 1
    with pytest.raises(ValueError, match="cannot run"):
        residency.mark_running("a")
    residency.commit(load, 10, 1.0, 2.0)
    assert (residency.slot_of("a"), residency.slot_of("b")) == (None, 1)
    assert (row_of(residency, "a").tier, row_of(residency, "a").evictions) == (Tier.HOST, 1)


def test_failed_load_leaves_all_as_it_was_and_is_remembered_briefly():
    residency = table_of(slots=1, host="ab")
    bring(residency, ["a"])
    before = residency.table()
    (load,) = residency.plan_loads(["b"], 1.0)
    residency.begin(load)
    residency.fail(load, "out of memory", 1.0)
    after = residency.table()
    assert after == [before[0], before[1]._replace(failures=1)]
    assert residency.slot_of("a") == 1
    assert residency.refused("b", 1.0 + FAILED_S - 0.1) == "out of memory"
    assert residency.plan_loads(["b"], 1.0 + FAILED_S - 0.1) == []
    assert residency.prefetch(["b"], 2.0) == residency.drain(["b"], 2.0) == []
    assert residency.refused("b", 1.0 + FAILED_S) is None
    assert residency.plan_loads(["b"], 1.0 + FAILED_S) == [load]


def test_failure_is_remembered_of_a_version_that_was_forgotten():
    residency = table_of(disk="a")
    (load,) = residency.plan_loads(["a"], 0.0)
    residency.begin(load)
    residency.fail(load, "truncated", 0.0)
    residency.forget("a")
    residency.add("a", Tier.DISK, 10, 1.0)
    assert residency.refused("a", 1.0) == "truncated"
    assert residency.plan_loads(["a"], 1.0) == []


def test_load_that_damaged_the_slot_takes_it_from_its_victim():
    residency = table_of(slots=1, host="ab")
    bring(residency, ["a"])
    residency.lease("a", 0.0)
    (load,) = residency.plan_loads(["b"], 1.0)
    residency.begin(load)
    residency.fail(load, "copy broke off", 1.0, damaged=True)
    assert (residency.slot_of("a"), residency.slot_of("b")) == (None, None)
    assert residency.plan_loads(["a"], 1.0) == [Load("a", Tier.HOST, Tier.DEVICE, slot=1)]
    residency.check()


def test_one_load_per_version_and_loads_of_different_versions_overlap():
    residency = table_of(slots=3, disk="ab", host="c")
    plan = residency.plan_loads(["a", "b", "c", "a"], 0.0)
    assert [load.version for load in plan] == ["a", "b", "c"]
    for load in plan:
        residency.begin(load)
    assert residency.plan_loads(["a", "b", "c"], 0.0) == []
    assert residency.prefetch(["a", "b", "c"], 0.0) == []
    with pytest.raises(ValueError, match="plan again"):
        residency.begin(plan[0])
    residency.commit(plan[1], 10, 1.0, 0.0)
    with pytest.raises(ValueError, match="ended before"):
        residency.commit(plan[1], 10, 1.0, 0.0)
    with pytest.raises(ValueError, match="ended before"):
        residency.fail(plan[1], "late", 0.0)


def test_load_whose_victim_began_to_run_since_the_plan_cannot_begin():
    residency = table_of(slots=1, host="ab")
    bring(residency, ["a"])
    (load,) = residency.plan_loads(["b"], 1.0)
    run(residency, "a")
    before = residency.table()
    with pytest.raises(ValueError, match="plan again"):
        residency.begin(load)
    assert residency.table() == before


@pytest.mark.parametrize(
    "load",
    [
        Load("b", Tier.HOST, Tier.DEVICE, slot=9),
        Load("b", Tier.HOST, Tier.DEVICE, slot=0),
        Load("b", Tier.HOST, Tier.DEVICE),
        Load("b", Tier.HOST, Tier.DEVICE, slot=1),
        Load("b", Tier.HOST, Tier.HOST),
        Load("d", Tier.DISK, Tier.DEVICE, slot=2),
        Load("d", Tier.REGISTRY, Tier.HOST),
        Load("d", Tier.DISK, Tier.HOST, slot=2),
        Load("a", Tier.HOST, Tier.DEVICE, slot=2),
    ],
)
def test_load_that_was_never_planned_cannot_begin(load):
    residency = table_of(slots=2, host="ab", disk="d")
    bring(residency, ["a"])
    with pytest.raises(ValueError, match="plan again"):
        residency.begin(load)
    residency.check()


def test_running_and_pinned_versions_are_never_victims():
    residency = table_of(slots=2, host="abc")
    bring(residency, ["a", "b"])
    run(residency, "a")
    residency.pin("b", True)
    assert residency.plan_loads(["c"], 1.0) == []
    residency.mark_idle("a")
    assert residency.plan_loads(["c"], 1.0)[0].victim == "a"
    residency.mark_running("a")
    residency.pin("b", False)
    assert residency.plan_loads(["c"], 1.0)[0].victim == "b"


def test_waiting_version_gives_way_only_to_those_ahead_and_the_last_one_first():
    residency = table_of(slots=2, host="abcd")
    bring(residency, ["a", "b"])
    residency.lease("a", 1.0)
    residency.lease("b", 2.0)
    assert residency.plan_loads(["a", "b", "c"], 3.0) == []
    assert [load.victim for load in residency.plan_loads(["a", "c", "b"], 3.0)] == ["b"]
    plan = residency.plan_loads(["c", "d", "a", "b"], 3.0)
    assert [(load.version, load.victim) for load in plan] == [("c", "b"), ("d", "a")]


def test_version_nobody_waits_for_leaves_before_one_that_waits():
    residency = table_of(slots=2, host="abc")
    bring(residency, ["a", "b"])
    residency.lease("a", 1.0)
    residency.lease("b", 9.0)
    residency.release("b", 9.0)
    assert residency.plan_loads(["c", "a"], 10.0)[0].victim == "b"


def test_leased_version_leaves_last_even_when_the_line_does_not_name_it():
    residency = table_of(slots=2, host="abc")
    bring(residency, ["a", "b"])
    residency.lease("a", 1.0)
    residency.lease("b", 2.0)
    residency.release("b", 2.0)
    assert residency.plan_loads(["c"], 3.0)[0].victim == "b"
    residency.pin("b", True)
    assert residency.plan_loads(["c"], 3.0)[0].victim == "a"


def test_slot_that_a_load_is_on_its_way_to_cannot_be_taken_by_another():
    residency = table_of(slots=1, host="abc")
    bring(residency, ["a"])
    (load,) = residency.plan_loads(["b"], 0.0)
    residency.begin(load)
    assert residency.plan_loads(["c"], 0.0) == []
    with pytest.raises(ValueError, match="plan again"):
        residency.begin(Load("c", Tier.HOST, Tier.DEVICE, slot=1, victim="a"))


def test_load_that_succeeds_clears_the_memory_of_a_failure():
    residency = table_of(disk="a")
    (load,) = residency.plan_loads(["a"], 0.0)
    residency.begin(load)
    residency.fail(load, "busy", 0.0)
    residency.begin(load)  # a caller may insist
    residency.commit(load, 10, 1.0, 0.5)
    assert residency.refused("a", 0.5) is None


def test_forgotten_victim_leaves_its_slot_to_the_load_under_way():
    residency = table_of(slots=1, host="ab")
    bring(residency, ["a"])
    (load,) = residency.plan_loads(["b"], 0.0)
    residency.begin(load)
    assert residency.retire("a") is True
    residency.forget("a")
    assert residency.plan_loads(["b"], 0.0) == []
    residency.commit(load, 10, 1.0, 0.0)
    assert residency.slot_of("b") == 1
    residency.check()


def test_slow_read_leaves_no_slot_empty():
    residency = table_of(slots=1, disk="a", host="b")
    (read,) = residency.plan_loads(["a"], 0.0)
    residency.begin(read)
    bring(residency, ["a", "b"])
    assert residency.slot_of("b") == 1


def test_pins_leave_one_slot_to_the_others():
    residency = table_of(slots=2, host="abc")
    residency.pin("a", True)
    residency.pin("a", True)
    with pytest.raises(InvalidRequest, match="1 of 2 slots are pinned"):
        residency.pin("b", True)
    residency.retire("a")
    residency.pin("b", True)
    with pytest.raises(UnknownModel):
        residency.pin("a", True)
    residency.check()


def test_busy_adapter_is_named_when_it_keeps_a_waiting_one_off_the_device():
    residency = table_of(slots=2, host="abcd")
    bring(residency, ["a", "b"])
    run(residency, "a", "b")
    assert residency.drain(["a", "b"], 0.0) == []
    assert residency.drain(["c", "a", "b"], 0.0) == ["b"]
    assert residency.drain(["c", "d", "a", "b"], 0.0) == ["b", "a"]
    assert residency.drain(["a", "c", "b"], 0.0) == ["b"]
    assert residency.drain(["a", "b", "c"], 0.0) == []
    end(residency, "b")
    assert residency.drain(["c", "a"], 0.0) == []
    residency.begin(residency.plan_loads(["c", "a"], 0.0)[0])
    assert residency.drain(["c", "a"], 0.0) == []
    assert residency.drain(["c", "d", "a"], 0.0) == ["a"]


def test_without_new_rows_for_the_drained_a_hot_adapter_starves_nobody():
    residency = table_of(slots=1, host="ab")
    bring(residency, ["a"])
    run(residency, "a")
    residency.lease("b", 0.0)
    for _ in range(3):  # a row of `a` always follows another
        run(residency, "a")
        end(residency, "a")
        assert residency.plan_loads(["b", "a"], 1.0) == []
    assert residency.drain(["b", "a"], 1.0) == ["a"]
    end(residency, "a")
    bring(residency, ["b", "a"], 1.0)
    assert residency.slot_of("b") == 1


# Host memory


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


# Numbers


def test_working_set_counts_the_versions_leased_within_the_window():
    residency = table_of(slots=1, host="abcd")
    for now, version in enumerate("abc"):
        residency.lease(version, float(now))
        if version != "a":
            residency.release(version, float(now))
    assert residency.working_set(10.0, 2.0) == 3
    assert residency.working_set(0.5, 2.0) == 2  # `c`, and `a`, which is still leased
    assert residency.working_set(0.5, 100.0) == 1


def test_check_says_which_promise_is_broken():
    residency = table_of(slots=2, host="ab")
    bring(residency, ["a", "b"])
    residency._records["b"].slot = 1
    with pytest.raises(AssertionError, match="a slot is held twice"):
        residency.check()
    residency._records["b"].slot = 2
    residency._records["b"].leases = -1
    with pytest.raises(AssertionError, match="runs 0 of -1 leases"):
        residency.check()
    residency._records["b"].leases = 0
    residency._host_bytes = 5
    with pytest.raises(AssertionError, match="some could be dropped"):
        residency.check()


def test_residency_imports_neither_torch_nor_ray():
    code = (
        "import sys, loraland.engine.residency; "
        "print([name for name in ('torch', 'ray', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# Random use

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
