"""The policies, against plain caches written from their definitions."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.engine.eviction import POLICIES, Candidate, gdsf, lru
from loraland.engine.residency import Residency, Tier

TRACES = st.lists(st.integers(0, 7), max_size=60)


def ask(residency, version, now, cost=1.0):
    """One request from submission to its end; whether it was a hit."""
    residency.lease(version, now)
    hit = residency.slot_of(version) is not None
    while loads := residency.plan_loads([version], now):
        for load in loads:
            residency.begin(load)
            residency.commit(load, 1, cost, now)
    residency.mark_running(version)
    residency.mark_idle(version)
    residency.release(version, now)
    return hit


def on_device(residency):
    return {row.version for row in residency.table() if row.slot is not None}


def filled(slots, policy):
    residency = Residency(slots=slots, host_bytes=1000, policy=policy)
    for number in range(8):
        residency.add(f"v{number}", Tier.DISK, 1, 0.0)
    return residency


@given(trace=TRACES, slots=st.integers(1, 4))
def test_lru_keeps_what_an_ordered_dict_would_keep(trace, slots):
    residency, oracle = filled(slots, lru), OrderedDict()
    for now, number in enumerate(trace):
        version = f"v{number}"
        assert ask(residency, version, float(now)) == (version in oracle)
        oracle[version] = True
        oracle.move_to_end(version)
        if len(oracle) > slots:
            oracle.popitem(last=False)
        assert on_device(residency) == set(oracle)


@given(
    trace=TRACES,
    slots=st.integers(1, 4),
    costs=st.lists(st.integers(1, 50), min_size=8, max_size=8),
)
def test_gdsf_keeps_what_its_definition_keeps(trace, slots, costs):
    residency = filled(slots, gdsf)
    clock, uses, values = 0.0, {}, {}
    for now, number in enumerate(trace):
        version = f"v{number}"
        assert ask(residency, version, float(now), float(costs[number])) == (version in values)
        if version not in values and len(values) == slots:
            victim = min(values, key=values.__getitem__)
            clock = values.pop(victim)
            del uses[victim]
        uses[version] = uses.get(version, 0) + 1
        values[version] = clock + uses[version] * costs[number]
        assert on_device(residency) == set(values)


def test_gdsf_prefers_what_is_dear_often_used_and_small():
    plain = Candidate("a", size=10, load_ms=20, last_used=0, uses=3, age=5)
    assert gdsf(plain) == 5 + 3 * 20 / 10
    assert gdsf(plain._replace(load_ms=40)) > gdsf(plain)
    assert gdsf(plain._replace(uses=4)) > gdsf(plain)
    assert gdsf(plain._replace(size=5)) > gdsf(plain)
    assert gdsf(plain._replace(age=6)) > gdsf(plain)
    assert gdsf(plain._replace(load_ms=0)) == gdsf(plain._replace(load_ms=1))


def test_gdsf_lets_go_in_the_end_of_what_was_popular_once():
    residency = filled(2, gdsf)
    for now in range(20):
        ask(residency, "v0", float(now))
    for now in range(20, 100):
        ask(residency, f"v{1 + now % 2}", float(now))
    assert on_device(residency) == {"v1", "v2"}


def test_version_that_leaves_while_it_waits_does_not_age_the_others():
    residency = filled(2, gdsf)
    for now in range(20):
        ask(residency, "v0", float(now), 50.0)
    ask(residency, "v1", 20.0, 10.0)
    residency.lease("v0", 21.0)
    residency.pin("v1", True)
    residency.lease("v2", 21.0)
    while loads := residency.plan_loads(["v2", "v0"], 21.0):
        for load in loads:
            residency.begin(load)
            residency.commit(load, 1, 2.0, 21.0)
    assert on_device(residency) == {"v1", "v2"}
    residency.release("v2", 22.0)
    residency.pin("v1", False)
    (load,) = residency.plan_loads(["v0"], 23.0)
    assert load.victim == "v2"


def test_slot_of_a_version_with_a_host_copy_is_cheaper_to_give_up():
    residency = Residency(slots=2, host_bytes=2, policy=gdsf)
    for version in ("v0", "v1", "v2"):
        residency.add(version, Tier.DISK, 1, 0.0)
    ask(residency, "v0", 0.0, 5.0)
    ask(residency, "v1", 1.0, 6.0)
    ask(residency, "v2", 2.0, 1.0)  # its copy took the place of v0's, which costs 5 + 5 now
    assert residency.take_dropped() == ["v0"]
    assert on_device(residency) == {"v0", "v2"}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_host_copies_leave_by_the_same_policy(name):
    residency = Residency(slots=1, host_bytes=20, policy=POLICIES[name])
    costs = {"dear": 90.0, "cheap": 2.0, "new": 2.0}
    for now, (version, cost) in enumerate(costs.items()):
        residency.add(version, Tier.DISK, 10, float(now))
        (load,) = residency.prefetch([version], float(now))
        residency.begin(load)
        residency.commit(load, 10, cost, float(now))
    assert residency.take_dropped() == [{"lru": "dear", "gdsf": "cheap"}[name]]
