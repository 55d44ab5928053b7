"""What an admin may change in the registry of a running application: aliases, new adapters.

An alias moves after its new version has been loaded everywhere, so that nobody waits for it; this
gateway follows at once, others within `cache_seconds`. Needs an admin key where keys are needed.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, Field

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import EngineStopped, UnknownModel, error_of
from loraland.evaluation.promote import promote
from loraland.evaluation.promotion import Decision, Gate, Over
from loraland.serving.access.visit import require_admin
from loraland.serving.bodies import Body, read_body
from loraland.serving.directory import Directory
from loraland.serving.fleet import Fleet
from loraland.serving.fleet_routes import carried_out
from loraland.serving.intake import Intake
from loraland.serving.openapi import body, errors
from loraland.serving.site_data import Names
from loraland.serving.wire import read
from loraland.storage import Storage

BODY_BYTES = 64 << 10
Share = Annotated[float, Field(ge=0)]
ADMIN = [Depends(require_admin)]


class AliasRequest(Body):
    """PUT /v1/aliases/BASE/TASK/ALIAS."""

    version: str = Field(max_length=64)
    # On all replicas before it moves. A version that one of them refuses is not moved to.
    load: bool = True


class AliasMoved(BaseModel):
    """Where an alias points now."""

    alias: str
    model: str
    previous: str | None  # version that it named before
    followed_within_seconds: float  # by other gateways; by this one it was at once


class PromotionRequest(Body):
    """POST /v1/promotions: the fields of `loraland promote`."""

    model: str = Field(max_length=256)
    alias: str = Field(default="prod", max_length=64)
    over: Over = "auto"
    margin: float = Field(default=0.0, ge=-1, lt=1)
    tolerances: dict[str, Share] = Field(default_factory=dict)
    tasks: dict[str, Share] = Field(default_factory=dict)


class Promoted(BaseModel):
    """A decision. A version that was refused is told with the reasons, and no error."""

    model: str
    alias: str
    moved: bool
    record: str | None
    decision: Decision | None  # None: the alias named that version already


class IntakeRequest(Body):
    """POST /v1/adapters."""

    source: str = Field(min_length=1, max_length=1000)
    aliases: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=16)


class TakenIn(BaseModel):
    """An adapter that is in the registry now."""

    model: str
    aliases: list[str]


def add_admin_routes(
    app: FastAPI,
    storage: Storage,
    names: Names,
    directory: Directory,
    fleet: Fleet,
    intake: Intake,
) -> None:
    """Add them to an application.

    `names` are those that the caller may use, `directory` the gateway's own memory to refresh.
    """
    registry, deciding = Registry(storage), asyncio.Lock()

    @app.put(
        "/v1/aliases/{base}/{task}/{alias}",
        tags=["Registry"],
        openapi_extra=body(app, AliasRequest),
        responses=errors(),
        dependencies=ADMIN,
    )
    async def move_alias(base: str, task: str, alias: str, request: Request) -> AliasMoved:
        """Make or move an alias; requests under way keep the version that they began with."""
        asked = read_body(AliasRequest, await read(request, BODY_BYTES))
        wanted = ModelName.parse(f"{base}/{task}@{asked.version}")
        pointer = ModelName(base, task, alias)  # also checks the alias
        model = await names.resolve(str(wanted))
        if asked.load:
            await _load_everywhere(fleet, model)
        before = await asyncio.to_thread(registry.find, pointer)
        await asyncio.to_thread(registry.alias, model, alias)
        directory.forget()
        return AliasMoved(
            alias=alias,
            model=str(model),
            previous=before.version if before else None,
            followed_within_seconds=directory.cache_s,
        )

    @app.post(
        "/v1/promotions",
        tags=["Registry"],
        openapi_extra=body(app, PromotionRequest),
        responses=errors(),
        dependencies=ADMIN,
    )
    async def promotion(request: Request) -> Promoted:
        """Move an alias to a version if its stored answers pass the gate; kept with evidence."""
        asked = read_body(PromotionRequest, await read(request, BODY_BYTES))
        model = await names.resolve(asked.model)
        if model.task is None:
            raise UnknownModel(f"'{model}' is a base; name an adapter as BASE/TASK@VERSION")
        gate = Gate(**asked.model_dump(exclude={"model"}))
        async with deciding:
            done = await asyncio.to_thread(promote, str(model), storage, gate)
        directory.forget()
        return Promoted(
            model=str(done.model),
            alias=done.alias,
            moved=done.moved,
            record=done.record,
            decision=done.decision,
        )

    @app.post(
        "/v1/adapters",
        tags=["Registry"],
        openapi_extra=body(app, IntakeRequest),
        responses=errors(),
        dependencies=ADMIN,
    )
    async def take_in(request: Request) -> TakenIn:
        """Bring an adapter in from a folder, the hub or a bucket, if `sources` allow that place."""
        asked = read_body(IntakeRequest, await read(request, BODY_BYTES))
        model = await intake.bring_in(asked.source, asked.aliases)
        directory.forget()
        return TakenIn(model=str(model), aliases=asked.aliases)


async def _load_everywhere(fleet: Fleet, model: ModelName) -> None:
    """Raises what a replica raised; where no replica runs, nobody could be served by either."""
    try:
        done = await carried_out(fleet, "load", model)
    except EngineStopped:
        return
    for one in done.replicas:
        if one.error is not None:
            raise error_of(one.error["code"], one.error["message"])
