"""Decides what a trial occupies, and how many fit at the same time, from the machines of a cluster.

Is told the machines that are there and the kinds that an autoscaler may add; a demand that no kind
meets is refused before anything waits for it. `machines_of` asks Ray and the configuration that
`ray up` leaves on a head; everything else is pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from loraland.errors import InvalidConfiguration
from loraland.matrix.hardware import GIB
from loraland.matrix.space import Demand

ACCELERATOR = "accelerator_type:"  # Ray's resource of machines with that type of GPU
A_BIT = 0.001  # of it, as Ray itself asks: it names the machine and uses nothing up
LAUNCHED = Path("~/ray_bootstrap_config.yaml")  # where `ray up` leaves a head its configuration

Given = Mapping[str, float]  # what a machine has, as Ray counts: CPU, GPU, memory (bytes), ...


class Resources(NamedTuple):
    """What one trial, or one worker of it, occupies."""

    cpus: float
    gpus: float = 0
    memory_gib: float = 0  # set aside; 0: not counted
    accelerator: str | None = None  # Ray's name of a GPU type, such as A10G; None: any

    def bundle(self) -> dict[str, float]:
        """The same as Ray counts."""
        rest = {"GPU": self.gpus, "memory": self.memory_gib * GIB}
        if self.accelerator is not None:
            rest[ACCELERATOR + self.accelerator] = A_BIT
        return {"CPU": self.cpus} | {kind: amount for kind, amount in rest.items() if amount}


class Kind(NamedTuple):
    """Machines that are alike."""

    given: Given
    most: int  # of them at the same time


class Machines(NamedTuple):
    """What a cluster has, and what it may come to."""

    alive: Sequence[Given]
    kinds: Sequence[Kind]  # the same, or with an autoscaler all that may be there
    free_cpus: float  # of those alive
    grows: bool = False  # an autoscaler adds machines when something waits for them


def place(demand: Demand, machines: Machines) -> Resources:
    """What a trial gets, which leaves open what it does not care for.

    One GPU where there is one, and the cores of a machine that go with it: of one that is alive the
    free ones, of one that has yet to come all. Where machines may come it waits for them. Raises
    InvalidConfiguration when no machine could ever give what is asked.
    """
    kinds = [kind.given for kind in machines.kinds if kind.most > 0]
    named = [given for given in kinds if _has_accelerator(given, demand.accelerator)]
    gpus = demand.gpus
    if gpus is None:
        least_gpus = 1.0 if demand.accelerator else 0.0  # a type that is nowhere is refused
        gpus = min(1.0, max((given.get("GPU", 0) for given in named), default=least_gpus))
    least = Resources(demand.cpus or 0, gpus, demand.memory_gib or 0, demand.accelerator)
    fitting = [given for given in named if _count(least, given)]
    if not fitting:
        raise InvalidConfiguration(_refusal(demand, gpus, kinds, machines))
    if demand.cpus is not None:
        return least
    ready = [given for given in machines.alive if _count(least, given)]
    if ready:
        most = max(given.get("CPU", 0) for given in ready)
        share = max(_shares(given, gpus) for given in ready)
        cores = min(most, machines.free_cpus)
    else:  # any of the kinds may come
        cores, share = min((given.get("CPU", 0), _shares(given, gpus)) for given in fitting)
    return least._replace(cpus=max(1, int(cores // share)))


def places(resources: Resources, machines: Machines, together: int = 1) -> int:
    """How many groups of so many workers the machines hold at the same time, at most.

    Raises InvalidConfiguration when they never hold one.
    """
    workers = sum(kind.most * _count(resources, kind.given) for kind in machines.kinds)
    if workers < together:
        whole = {
            name: sum(kind.most * kind.given.get(name, 0) for kind in machines.kinds)
            for name in ("CPU", "GPU")
        }
        raise InvalidConfiguration(
            f"{together} workers for one cell do not fit: the cluster "
            f"{'comes to' if machines.grows else 'has'} {whole['CPU']:g} CPUs and "
            f"{whole['GPU']:g} GPUs, and a worker asks for {_words(resources)}; give fewer "
            "--devices, or less --cpus to each"
        )
    return workers // together


def default_resources(ray: Any, cpus: float | None = None, gpus: float | None = None) -> Resources:
    """What a process of the connected cluster gets that asks for this much; None: as `place` says.

    Raises InvalidConfiguration when no machine could ever give what is asked.
    """
    return place(Demand(cpus, gpus), machines_of(ray))


def machines_of(ray: Any, launched: Path | None = None) -> Machines:
    """The machines of the connected cluster.

    Those that may come are known on the head of a cluster that `ray up` started, where jobs run.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    free = ray.available_resources().get("CPU", 0)
    file = (launched or LAUNCHED).expanduser()
    if "RAY_ADDRESS" in os.environ and file.is_file():  # a cluster of this process' own has none
        return Machines(alive, kinds_of(yaml.safe_load(file.read_text())), free, grows=True)
    return Machines(alive, [Kind(given, 1) for given in alive], free)


def kinds_of(cluster: Mapping[str, Any]) -> list[Kind]:
    """The machines that a configuration for `ray up` allows: the head, and workers of each type."""
    most = cluster.get("max_workers", 2)  # Ray's default
    head = cluster.get("head_node_type")
    return [
        Kind(values.get("resources", {}), 1 if name == head else count)
        for name, values in cluster["available_node_types"].items()
        if (count := min(most, values.get("max_workers", most))) > 0 or name == head
    ]


def _has_accelerator(given: Given, accelerator: str | None) -> bool:
    return accelerator is None or given.get(ACCELERATOR + accelerator, 0) > 0


def _count(resources: Resources, given: Given) -> int:
    """How often what is asked fits into one machine.

    A configuration need not name the memory of its machines, which is then not judged.
    """
    asked = {
        name: amount
        for name, amount in resources.bundle().items()
        if amount and (name != "memory" or "memory" in given)
    }
    return min((floor(given.get(name, 0) / amount) for name, amount in asked.items()), default=1)


def _shares(given: Given, gpus: float) -> float:
    """Trials that share the cores of a machine: as many as its GPUs are enough for."""
    return max(1, given.get("GPU", 0) // gpus) if gpus else 1


def _words(resources: Resources) -> str:
    kind = f" of type {resources.accelerator}" if resources.accelerator else ""
    memory = f", {resources.memory_gib:g} GiB" if resources.memory_gib else ""
    return f"{resources.cpus:g} CPUs and {resources.gpus:g} GPUs{kind}{memory}"


def _refusal(demand: Demand, gpus: float, kinds: Sequence[Given], machines: Machines) -> str:
    asked = Resources(demand.cpus or 1, gpus, demand.memory_gib or 0, demand.accelerator)
    most = {name: max((g.get(name, 0) for g in kinds), default=0) for name in ("CPU", "GPU")}
    types = sorted(
        {name.removeprefix(ACCELERATOR) for g in kinds for name in g if ACCELERATOR in name}
    )
    memory = max((g.get("memory", 0) for g in kinds), default=0) / GIB
    return (
        f"{_words(asked)} are asked for one process; the largest node here "
        f"{'would have' if machines.grows else 'has'} {most['CPU']:g} CPUs and "
        f"{most['GPU']:g} GPUs"
        + (f", the most memory is {memory:.1f} GiB" if asked.memory_gib and memory else "")
        + (f", the types of GPU are {', '.join(types) or 'none'}" if asked.accelerator else "")
        + ". Ask for less with --cpus and --gpus, for another --accelerator, or join a larger "
        "cluster (RAY_ADDRESS)"
    )
