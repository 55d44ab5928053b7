"""What runs: the replicas of each base, with what each tells of itself, in one answer.

Told which replicas there should be and which have answered; a replica that is there and does not
answer is listed as such. Knows no Ray and no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, Field

from loraland.adapters.names import ModelName

Verb = Literal["load", "pin", "unpin", "unload"]
ANSWER_S = 2.0  # that a replica has to tell of itself
VERB_S = 120.0  # to do something with an adapter, which may have to be fetched


class Spot(NamedTuple):
    """A replica as the cluster knows it, whether it answers or not."""

    replica: str
    node: str | None  # address of its machine
    state: str  # "starting", "running", "stopping", ...


class ReplicaView(BaseModel):
    """One replica. Of one that did not answer, only what the cluster knows."""

    replica: str
    node: str | None = None
    state: str = "running"
    device: str | None = None
    stats: dict[str, Any] | None = None  # the fields of `engine.protocol.Stats`
    adapters: list[dict[str, Any]] | None = None  # the fields of `engine.tiers.Resident`
    error: str | None = None  # why there is no more of it


class BaseView(BaseModel):
    """One base."""

    base: str
    replicas: list[ReplicaView]


class FleetView(BaseModel):
    """The whole application."""

    at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    bases: list[BaseView]


class Fleet(Protocol):
    """The replicas of an application, all of them at once."""

    async def view(self) -> FleetView:
        """All replicas of all bases. Waits `ANSWER_S` at most, and never fails for a replica."""
        ...

    async def order(self, verb: Verb, name: ModelName, replica: str | None) -> list[dict[str, Any]]:
        """Do something with a version on every replica of its base, or on one.

        What each tells: `replica`, and `adapter` (the fields of `Resident`; absent when it holds
        none) or `error` (code and message). Those that have not answered after `VERB_S` are absent.
        """
        ...

    async def examine(self, base: str, files: Mapping[str, bytes]) -> None:
        """Have a replica hold an adapter against its card. Raises AdapterRejected."""
        ...


def merged(base: str, spots: Iterable[Spot], told: Sequence[dict[str, Any]]) -> BaseView:
    """What the cluster knows of a base's replicas, and what those that answered tell."""
    answers = {one["replica"]: one for one in told}
    known = {spot.replica: spot for spot in spots}
    views = [
        ReplicaView(**{"state": known[one].state if one in known else "running", **answers[one]})
        for one in answers
    ]
    views += [_silent(spot) for one, spot in known.items() if one not in answers]
    return BaseView(base=base, replicas=sorted(views, key=lambda view: view.replica))


def _silent(spot: Spot) -> ReplicaView:
    if spot.state == "running":
        error = f"did not answer within {ANSWER_S:g} seconds"
    else:
        error = f"takes no requests: {spot.state}"
    return ReplicaView(replica=spot.replica, node=spot.node, state=spot.state, error=error)
