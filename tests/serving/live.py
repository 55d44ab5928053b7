"""A whole application in this process: real engines of tiny bases behind a real HTTP server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from loraland.adapters.admission import Limits as AdapterLimits
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.inference import prepare_for_inference
from loraland.bases.loading import LoadedBase
from loraland.engine.making import make_engine
from loraland.serving.access.gate import Access
from loraland.serving.access.guard import GuardedDirectory
from loraland.serving.admin_routes import add_admin_routes
from loraland.serving.config import BaseSettings, Limits
from loraland.serving.directory import Directory
from loraland.serving.facts import facts_of
from loraland.serving.fleet import BaseView, FleetView, ReplicaView, Verb
from loraland.serving.fleet_routes import add_fleet_routes
from loraland.serving.host import BaseHost
from loraland.serving.intake import Intake
from loraland.serving.orders import BaseFacts, Order, Part, TokenSpan
from loraland.serving.pins import Pins
from loraland.serving.replica import limits_of
from loraland.serving.routes import create_app
from loraland.serving.site_data import add_site
from loraland.serving.sources import Sources
from loraland.storage import Storage


class Live:
    """A `Service`, and a `Fleet`, whose replicas are hosts in this process."""

    def __init__(
        self, bases: Mapping[str, LoadedBase], storage: str, cache: Path, limits: Limits
    ) -> None:
        self.storage = Storage.open(storage)
        self.registry = registry = Registry(self.storage)
        self.limits = limits
        self.directory = Directory(registry, list(bases), cache_s=0.2)
        self._facts: dict[str, BaseFacts] = {}
        self._hosts: dict[str, BaseHost] = {}
        for name, base in bases.items():
            settings = BaseSettings(name=name, max_rank=8, max_batch=8, max_waiting=256)
            prepare_for_inference(base)
            engine = make_engine(base, limits_of(settings))
            self._facts[name] = facts_of(base, engine.context_tokens, settings)
            self._hosts[name] = BaseHost(
                base, engine, registry, cache / name, AdapterLimits(max_rank=settings.max_rank)
            )

    async def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        host = self._hosts[order.model.base]

        async def ready(name: ModelName) -> None:
            await host.engine.load(str(name), await host.prepare(name))

        async with aclosing(host.complete(order, ready)) as parts:
            async for part in parts:
                yield part

    async def facts(self, base: str) -> BaseFacts:
        return self._facts[base]

    async def tokenize(self, base: str, text: str, special: bool) -> list[TokenSpan]:
        return await self._hosts[base].tokenize(text, special)

    async def view(self) -> FleetView:
        """See `Fleet`: each base has one replica of its name."""
        views = [
            BaseView(base=name, replicas=[ReplicaView(replica=name, stats=self._stats(name))])
            for name in self._hosts
        ]
        return FleetView(bases=views)

    def _stats(self, base: str) -> dict[str, Any]:
        stats = self._hosts[base].engine.stats()
        return {**stats._asdict(), "ops": dict(stats.ops)}

    async def order(self, verb: Verb, name: ModelName, replica: str | None) -> list[dict[str, Any]]:
        """See `Fleet`. Nothing is pinned here."""
        host = self._hosts[name.base]
        if replica not in (None, name.base):
            return []
        if verb == "load":
            await host.engine.load(str(name), await host.prepare(name))
        if verb == "unload":
            await host.engine.unload(str(name))
        return [{"replica": name.base}]

    async def examine(self, base: str, files: Mapping[str, bytes]) -> None:
        """See `Fleet`. No source is allowed here, so nothing comes as far as this."""
        raise AssertionError("an adapter was let in")

    async def close(self) -> None:
        for host in self._hosts.values():
            await host.engine.close()


def whole_app(service: Live) -> FastAPI:
    """Every route that a gateway has."""
    app, names = create_app(service, Access(service.limits)), GuardedDirectory(service.directory)
    intake = Intake(Sources(()), service.registry, list(service.directory.bases), service)
    add_site(app, service.storage, names)
    add_fleet_routes(app, service, names, Pins(service.storage))
    add_admin_routes(app, service.storage, names, service.directory, service, intake)
    return app


@contextmanager
def live(service: Live) -> Iterator[str]:
    """The address of a server of `service`, on an event loop of its own; both end with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(
        whole_app(service), host="127.0.0.1", port=port, log_level="warning", lifespan="off"
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        try:
            await server.serve()
        finally:
            await service.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended at once"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
