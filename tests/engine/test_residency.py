"""The table of adapters: what is known, leases, pins and numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loraland.engine.residency import Residency, Tier
from loraland.errors import InvalidConfiguration, InvalidRequest, UnknownModel
from tests.engine.tables import bring, end, row_of, table_of

SOURCE_ROOT = Path(__file__).resolve().parents[2] / "platform"


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
    residency._books.records["b"].slot = 1
    with pytest.raises(AssertionError, match="a slot is held twice"):
        residency.check()
    residency._books.records["b"].slot = 2
    residency._books.records["b"].leases = -1
    with pytest.raises(AssertionError, match="runs 0 of -1 leases"):
        residency.check()
    residency._books.records["b"].leases = 0
    residency._books.host_bytes = 5
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
