"""Loads of adapters: begun as planned, committed before anyone is evicted, or as if never begun."""

from __future__ import annotations

import pytest

from loraland.engine.residency import Load, Tier
from tests.engine.tables import FAILED_S, bring, row_of, run, table_of


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
