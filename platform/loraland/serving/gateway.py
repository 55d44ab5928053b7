"""The Serve deployment that faces HTTP: sends each order to a replica of its base.

Where a replica ends before its client has seen anything of an answer, another is asked. Everything
that a replica raises comes out as it was.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from functools import partial

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from loraland.adapters.registry import Registry
from loraland.serving.access.guard import GuardedDirectory
from loraland.serving.access.opening import open_access
from loraland.serving.admin_routes import add_admin_routes
from loraland.serving.config import ServingConfig
from loraland.serving.directory import Directory, ShortMemory
from loraland.serving.fleet_calls import RayFleet
from loraland.serving.fleet_routes import add_fleet_routes
from loraland.serving.intake import Intake
from loraland.serving.log_lines import into_serve_logs
from loraland.serving.orders import BaseFacts, Order, Part, TokenSpan
from loraland.serving.persistence import persistent
from loraland.serving.pins import Pins
from loraland.serving.ray_errors import RAY_ERRORS, plain, plain_errors
from loraland.serving.routes import create_app
from loraland.serving.site_data import add_site
from loraland.serving.sources import Sources
from loraland.storage import Storage

FACTS_S = 60.0  # a redeployed base may have others


class Gateway:
    """A `Service` over Serve handles. Serve calls the method that builds the application."""

    def __init__(
        self, config: ServingConfig, storage: str, replicas: Mapping[str, DeploymentHandle]
    ) -> None:
        """Send orders to `replicas`, by base name; find adapters in the registry at `storage`."""
        into_serve_logs()
        self.limits, self.access = config.limits, open_access(config, storage)
        self._replicas = replicas
        self._storage = Storage.open(storage)
        self._registry = Registry(self._storage)
        self.directory = Directory(self._registry, list(replicas), config.cache_seconds)
        self._sources = Sources(config.sources)
        self._facts = ShortMemory[BaseFacts](self._ask_facts, FACTS_S, failed_s=0)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app, guarded = create_app(self, self.access), GuardedDirectory(self.directory)
        fleet = RayFleet(self._replicas)
        intake = Intake(self._sources, self._registry, list(self._replicas), fleet)
        add_site(app, self._storage, guarded)
        add_fleet_routes(app, fleet, guarded, Pins(self._storage))
        add_admin_routes(app, self._storage, guarded, self.directory, fleet, intake)
        return app

    def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        """See `Service.complete`. Closing it cancels the order at the replica."""
        return persistent(partial(self._attempt, order), whole=order.whole)

    async def _attempt(self, order: Order, number: int) -> AsyncGenerator[Part, None]:
        adapter = "" if order.model.task is None else str(order.model)
        handle = self._replicas[order.model.base].options(
            stream=True,
            multiplexed_model_id=adapter,
            # Straight over gRPC, not through Ray's object store: half the CPU for a message, and
            # there is one for each step of each answer. No public option says so yet.
            _by_reference=False,
        )
        # The attempt before may still be under way there, if only the connection was lost.
        sent = replace(order, id=f"{order.id}.{number}") if number else order
        groups = handle.complete.remote(sent)
        ended = False
        try:
            async for group in groups:
                for part in group:
                    yield part
            ended = True
        except RAY_ERRORS as error:
            ended = True
            raise plain(error) from error
        finally:
            if not ended:
                groups.cancel()

    async def facts(self, base: str) -> BaseFacts:
        """See `Service.facts`."""
        return await self._facts.get(base)

    async def tokenize(self, base: str, text: str, special: bool) -> list[TokenSpan]:
        """See `Service.tokenize`."""
        with plain_errors():
            found: list[TokenSpan] = await self._replicas[base].tokenize.remote(text, special)
            return found

    async def _ask_facts(self, base: str) -> BaseFacts:
        with plain_errors():
            facts: BaseFacts = await self._replicas[base].facts.remote()
            return facts
