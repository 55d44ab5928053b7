"""Which waiting adapter moves next toward the device, and in whose place."""

from __future__ import annotations

from loraland.engine.residency import Load, Tier
from tests.engine.tables import bring, do, end, run, table_of


def test_load_takes_two_steps_and_the_free_slots_first():
    residency = table_of(slots=2, disk="a", host="b")
    plan = residency.plan_loads(["a", "b", "a"], 0.0)
    assert plan == [
        Load("a", Tier.DISK, Tier.HOST),
        Load("b", Tier.HOST, Tier.DEVICE, slot=1),
    ]
    do(residency, plan, 0.0)
    assert residency.plan_loads(["a", "b"], 0.0) == [Load("a", Tier.HOST, Tier.DEVICE, slot=2)]


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


def test_slow_read_leaves_no_slot_empty():
    residency = table_of(slots=1, disk="a", host="b")
    (read,) = residency.plan_loads(["a"], 0.0)
    residency.begin(read)
    bring(residency, ["a", "b"])
    assert residency.slot_of("b") == 1


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
