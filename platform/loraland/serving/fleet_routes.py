"""GET /v1/fleet, and what an admin may do with an adapter on its replicas.

Every replica of the base is asked; one that fails or keeps silent is told beside the others. All of
it but reading needs an admin key where keys are needed.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel

from loraland.adapters.names import ModelName
from loraland.errors import EngineStopped, InvalidName, UnknownReplica, error_of
from loraland.serving.access.visit import require_admin
from loraland.serving.fleet import Fleet, FleetView, Verb
from loraland.serving.openapi import errors
from loraland.serving.pins import Pins
from loraland.serving.site_data import Names

ADAPTER = "/v1/adapters/{base}/{task}@{version}"


class Told(BaseModel):
    """What one replica did."""

    replica: str
    adapter: dict[str, Any] | None = None  # fields of `Resident`; None when it holds none now
    error: dict[str, str] | None = None  # code and message


class Done(BaseModel):
    """What came of it on all replicas that answered."""

    model: str
    done: Verb
    replicas: list[Told]


def add_fleet_routes(app: FastAPI, fleet: Fleet, directory: Names, pins: Pins) -> None:
    """Add them to an application; `directory` decides which versions there are."""

    @app.get("/v1/fleet", tags=["Fleet"], responses=errors(), response_model_exclude_none=True)
    async def view() -> FleetView:
        """Every replica with its counters and adapters, asked now."""
        return await fleet.view()

    async def carry_out(verb: Verb, name: ModelName, replica: str | None = None) -> Done:
        return await carried_out(fleet, verb, name, replica)

    @app.post(f"{ADAPTER}/load", tags=["Fleet"], responses=errors(), dependencies=ADMIN)
    async def load(base: str, task: str, version: str, replica: Replica = None) -> Done:
        """Put a version on the device of all replicas, or of one, before anyone asks for it."""
        return await carry_out("load", await _known(directory, base, task, version), replica)

    @app.post(f"{ADAPTER}/unload", tags=["Fleet"], responses=errors(), dependencies=ADMIN)
    async def unload(base: str, task: str, version: str, replica: Replica = None) -> Done:
        """Free what it takes once its last answer has ended; a request for it loads it again."""
        name = _named(base, task, version)
        if replica is None:
            await asyncio.to_thread(pins.remove, name)
        return await carry_out("unload", name, replica)

    @app.post(f"{ADAPTER}/pin", tags=["Fleet"], responses=errors(), dependencies=ADMIN)
    async def pin(base: str, task: str, version: str) -> Done:
        """Keep it on the device of every replica, also of those to come."""
        name = await _known(directory, base, task, version)
        await asyncio.to_thread(pins.add, name)
        try:
            return await carry_out("pin", name)
        except EngineStopped:
            raise  # no replica answers: those to come will find it in storage
        except Exception:
            await asyncio.to_thread(pins.remove, name)
            raise

    @app.post(f"{ADAPTER}/unpin", tags=["Fleet"], responses=errors(), dependencies=ADMIN)
    async def unpin(base: str, task: str, version: str) -> Done:
        """Let it leave the device like any other."""
        name = _named(base, task, version)
        await asyncio.to_thread(pins.remove, name)
        return await carry_out("unpin", name)


async def carried_out(
    fleet: Fleet, verb: Verb, name: ModelName, replica: str | None = None
) -> Done:
    """What came of a verb. Raises what replicas raised when it came to nothing on any of them.

    Also UnknownReplica when the one that was named does not answer, EngineStopped when none does.
    """
    told = [Told(**one) for one in await fleet.order(verb, name, replica)]
    if not told and replica is not None:
        raise UnknownReplica(
            f"no replica of {name.base} answers to '{replica[:100]}'; GET /v1/fleet lists them"
        )
    if not told:
        raise EngineStopped(f"no replica of {name.base} answers now; retry when one runs")
    failures = [one.error for one in told if one.error is not None]
    if len(failures) == len(told):
        raise error_of(failures[0]["code"], failures[0]["message"])
    return Done(model=str(name), done=verb, replicas=told)


Replica = Annotated[str | None, Query(max_length=100, description="one, by its id in /v1/fleet")]
ADMIN = [Depends(require_admin)]


def _named(base: str, task: str, version: str) -> ModelName:
    name = ModelName.parse(f"{base}/{task}@{version}")
    if name.version is None:
        raise InvalidName(f"'{name}' names no version; write BASE/TASK@VERSION")
    return name


async def _known(directory: Names, base: str, task: str, version: str) -> ModelName:
    return await directory.resolve(str(_named(base, task, version)))
