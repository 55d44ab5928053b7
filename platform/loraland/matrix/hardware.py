"""Devices, worker types and prices as data, clusters of them, and measured speeds.

Knows no bases and no tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from loraland.errors import InvalidConfiguration, did_you_mean
from loraland.storage import Storage

GIB = 2**30


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str


class Device(_Fact):
    """What runs a trial; hardware.yaml says where each number is from."""

    memory_gib: PositiveFloat | None  # None: not judged
    flops: PositiveFloat  # per second, at best
    efficiency: float = Field(gt=0, le=1)  # the share of it that is reached
    bandwidth_gb_s: PositiveFloat
    launch_s: NonNegativeFloat  # per layer and direction
    start_s: NonNegativeFloat
    read_gb_s: PositiveFloat


class Worker(_Fact):
    """A machine that can be had."""

    device: str
    devices: PositiveInt
    cpus: PositiveInt
    usd_per_hour: NonNegativeFloat  # on demand
    spot_usd_per_hour: NonNegativeFloat


class Cluster(NamedTuple):
    """So many workers of one type, and a head that places work."""

    worker: str = "g5.2xlarge"
    workers: int = 4
    spot: bool = True  # the workers; the head is on demand
    head: str | None = "m5.xlarge"


class Probe(BaseModel):
    """A measured training speed, which goes before assumptions about the same device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    device: str  # a name of hardware.yaml
    tokens_per_s: PositiveFloat  # trained tokens of prompts and answers, padding not counted
    note: str = ""  # recipe, task, date


@cache
def _facts() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("hardware.yaml").read_text(encoding="utf-8")
    facts: dict[str, Any] = yaml.safe_load(text)
    return facts


def prices_as_of() -> str:
    """The month that the prices are from."""
    return str(_facts()["as_of"])


def get_device(name: str) -> Device:
    """A device by its name. Raises InvalidConfiguration."""
    return Device(name=name, **_named(name, _facts()["devices"], "device"))


def get_worker(name: str) -> Worker:
    """A worker type by its name. Raises InvalidConfiguration."""
    return Worker(name=name, **_named(name, _facts()["workers"], "worker type"))


def _named(name: str, known: dict[str, dict[str, Any]], kind: str) -> dict[str, Any]:
    if name not in known:
        raise InvalidConfiguration(
            f"no {kind} is called '{name}'; {did_you_mean(name, known)} "
            "Others are added in matrix/hardware.yaml"
        )
    return known[name]


def write_probe(storage: Storage, probe: Probe) -> None:
    """Keep a measured speed; it replaces an older one of the same base on the same device."""
    storage.write_json(f"probes/{probe.device}/{probe.base}.json", probe.model_dump())


def read_probes(storage: Storage) -> list[Probe]:
    """All speeds that were measured."""
    return [Probe(**storage.read_json(f"probes/{path}")) for path in storage.walk("probes")]


def nearest_probe(
    probes: Iterable[Probe], device: str, parameters: dict[str, int], base: str
) -> Probe | None:
    """The probe of that device whose base is nearest in size; `parameters` by the base's name."""
    fitting = [p for p in probes if p.device == device and p.base in parameters]
    wanted = parameters[base]
    return min(
        fitting,
        key=lambda p: (max(parameters[p.base], wanted) / min(parameters[p.base], wanted), p.base),
        default=None,
    )


def device_names() -> list[str]:
    """The devices that forecasts know."""
    return list(_facts()["devices"])
