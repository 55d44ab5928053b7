"""What a trial occupies: on machines that are there, and on those that an autoscaler may add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import InvalidConfiguration
from loraland.matrix.placement import (
    Kind,
    Machines,
    Resources,
    kinds_of,
    machines_of,
    place,
    places,
)
from loraland.matrix.space import Demand

ROOT = Path(__file__).resolve().parents[2]
HEAD = {"CPU": 0.0, "memory": 16.0 * 2**30}
TRAIN = {"CPU": 8, "GPU": 1, "accelerator_type:A10G": 1}
SERVE = {"CPU": 96, "GPU": 8, "accelerator_type:A100": 1}
LAPTOP = {"CPU": 2.0, "memory": 8.0 * 2**30}
FROM_ZERO = Machines([HEAD], [Kind(HEAD, 1), Kind(TRAIN, 8), Kind(SERVE, 1)], 0, grows=True)
PAPER = Demand(8, 1, accelerator="A10G")


def fixed(*alive: dict[str, float]) -> Machines:
    return Machines(alive, [Kind(one, 1) for one in alive], sum(one["CPU"] for one in alive))


class FakeRay:
    """A cluster as far as it is asked here."""

    def __init__(self, *alive: dict[str, float]) -> None:
        self._alive = alive

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 99}}
        return [{"Alive": True, "Resources": one} for one in self._alive] + [gone]

    def available_resources(self) -> dict[str, float]:
        return {"CPU": sum(one["CPU"] for one in self._alive)}


def test_a_trial_waits_for_machines_that_are_yet_to_come():
    found = place(PAPER, FROM_ZERO)
    assert found == Resources(8, 1, 0, "A10G")
    assert found.bundle() == {"CPU": 8, "GPU": 1, "accelerator_type:A10G": 0.001}


def test_what_is_left_open_is_what_a_machine_to_come_has():
    assert place(Demand(accelerator="A10G"), FROM_ZERO) == Resources(8, 1, 0, "A10G")
    assert place(Demand(accelerator="A100"), FROM_ZERO) == Resources(12, 1, 0, "A100")
    assert place(Demand(), FROM_ZERO) == Resources(8, 1)  # either machine may come
    assert place(Demand(gpus=0), fixed(LAPTOP)) == Resources(2)


@pytest.mark.parametrize(
    ("demand", "machines", "says"),
    [
        (PAPER, fixed(LAPTOP), "the largest node here has 2 CPUs and 0 GPUs, the types of GPU are"),
        (Demand(64), fixed(LAPTOP), "64 CPUs and 0 GPUs are asked for one process"),
        (Demand(1, 2), fixed(LAPTOP, LAPTOP), "has 2 CPUs and 0 GPUs"),
        (Demand(1, 0, memory_gib=9), fixed(LAPTOP), "the most memory is 8.0 GiB"),
        (Demand(16, 1, accelerator="A10G"), FROM_ZERO, "would have 96 CPUs and 8 GPUs"),
        (Demand(8, 1, accelerator="H200"), FROM_ZERO, "the types of GPU are A100, A10G"),
    ],
)
def test_what_no_machine_could_ever_give_is_refused(demand, machines, says):
    with pytest.raises(InvalidConfiguration, match=says):
        place(demand, machines)


def test_memory_is_judged_where_a_machine_tells_it():
    assert place(Demand(1, 0, memory_gib=8), fixed(LAPTOP)).bundle()["memory"] == 8 * 2**30
    assert place(Demand(8, 1, 20, "A10G"), FROM_ZERO).memory_gib == 20


def test_workers_are_counted_on_machines_to_come():
    assert places(Resources(8, 1, 0, "A10G"), FROM_ZERO) == 8
    assert places(Resources(8, 1, 0, "A10G"), FROM_ZERO, together=2) == 4
    assert places(Resources(12, 1, 0, "A100"), FROM_ZERO, together=4) == 2
    with pytest.raises(InvalidConfiguration, match=r"9 workers .* comes to 160 CPUs and 16 GPUs"):
        places(Resources(8, 1, 0, "A10G"), FROM_ZERO, together=9)
    with pytest.raises(InvalidConfiguration, match=r"9 workers .* the cluster has 2 CPUs"):
        places(Resources(1), fixed(LAPTOP), together=9)


@given(
    cpus=st.one_of(st.none(), st.integers(1, 100)),
    gpus=st.one_of(st.none(), st.integers(0, 9)),
    accelerator=st.sampled_from([None, "A10G", "A100", "H100"]),
)
def test_what_is_placed_fits_some_machine(cpus, gpus, accelerator):
    try:
        found = place(Demand(cpus, gpus, accelerator=accelerator), FROM_ZERO)
    except InvalidConfiguration:
        fitting = [
            kind
            for kind in (TRAIN, SERVE)
            if (cpus or 0) <= kind["CPU"] and (gpus or 0) <= kind["GPU"]
            and (accelerator is None or f"accelerator_type:{accelerator}" in kind)
        ]  # fmt: skip
        assert not fitting
        return
    assert places(found, FROM_ZERO) >= 1
    assert cpus in (None, found.cpus) and gpus in (None, found.gpus)


def test_the_machines_of_cluster_yaml_are_those_that_may_come(tmp_path, monkeypatch):
    """As on its head, where `ray up` leaves the file."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    machines = machines_of(FakeRay(HEAD), launched=ROOT / "cluster.yaml")
    assert machines.grows and machines.alive == [HEAD]
    assert place(PAPER, machines) == Resources(8, 1, 0, "A10G")
    assert places(place(PAPER, machines), machines) == 8
    none = machines_of(FakeRay(HEAD), launched=tmp_path / "none.yaml")
    assert not none.grows
    monkeypatch.delenv("RAY_ADDRESS")  # a cluster of this process' own, on the same head
    own = machines_of(FakeRay(LAPTOP), launched=ROOT / "cluster.yaml")
    assert (own.grows, own.kinds) == (False, [Kind(LAPTOP, 1)])


def test_types_that_may_not_come_are_left_out():
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    cluster["available_node_types"]["serve"]["max_workers"] = 0
    cluster["max_workers"] = 3
    assert [(kind.given.get("CPU"), kind.most) for kind in kinds_of(cluster)] == [(0, 1), (8, 3)]


def test_a_word_of_the_caller_goes_before_the_space():
    assert Demand(cpus=2).over(PAPER) == Demand(2, 1, None, "A10G")
    assert Demand(gpus=0).over(PAPER) == Demand(8, 0)  # no GPU, so none of a type
    assert Demand(accelerator="any").over(PAPER) == Demand(8, 1)
    assert Demand().over(PAPER) == PAPER
