"""The Serve deployment of one base: its adapters kept by Serve's multiplexing, answers streamed.

Serve gives routing affinity and the bound on adapters per replica. It evicts without asking who is
in use; the engine's leases put the removal off until the last answer ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from ray import serve

from loraland import settings
from loraland.adapters.admission import Limits
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.catalogue import Base, get_base
from loraland.bases.inference import prepare_for_inference
from loraland.bases.loading import base_from_folder, load_base
from loraland.engine.canary import COARSE, EXACT
from loraland.engine.making import make_engine
from loraland.engine.settings import EngineLimits
from loraland.serving.config import BaseSettings
from loraland.serving.host import BaseHost
from loraland.serving.metrics import EngineMetrics
from loraland.serving.orders import Order, Part
from loraland.storage import Storage

logger = logging.getLogger(__name__)

METRICS_S = 5.0  # between two reports; Ray's agent exports no more often


class Seat:
    """An adapter's place in Serve's cache of models."""

    def __init__(self, leave: Any) -> None:
        # Serve awaits `__del__` of what it evicts. As an attribute of the instance it is not also
        # the finaliser of the class, which Python would call a second time and not await.
        self.__dict__["__del__"] = leave


class Replica:
    """One copy of a base with its adapters. Methods are called through a Serve handle."""

    def __init__(self, config: BaseSettings, storage: str) -> None:
        """Load the base, which takes seconds to minutes. Raises what `load_base` raises.

        Also InvalidConfiguration for int8 where it cannot be, and BaseUnavailable for a base that
        the engine cannot run.
        """
        base = load_base(entry_of(config), config.precision, device_of(config))
        prepare_for_inference(base, int8=config.int8)
        self._engine = make_engine(
            base,
            limits_of(config),
            kind=config.engine,
            tolerance=COARSE if config.int8 else EXACT,
        )
        self._metrics = EngineMetrics(base.entry.name)
        self._teller: asyncio.Task[None] | None = None
        registry = Registry(Storage.open(storage))
        cache = settings.cache_folder() / "adapters"
        self._host = BaseHost(
            base,
            self._engine,
            registry,
            cache,
            Limits(max_rank=config.max_rank, where="the configuration of this application"),
        )
        # Made here and not as a method, because the bound is a setting of each base.
        self._seat = serve.multiplexed(max_num_models_per_replica=config.max_adapters)(
            _loader(self._host)
        )
        logger.info("serving %s in %s on %s", base.entry.name, base.precision, base.device)

    async def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        """Answer an order; see `BaseHost.complete`."""
        if self._teller is None:  # the constructor has no running loop
            self._teller = asyncio.create_task(self._tell_metrics())
        async with aclosing(self._host.complete(order, self._ready)) as parts:
            async for part in parts:
                yield part

    async def _ready(self, name: ModelName) -> None:
        # Outside of Serve's lock, which holds up every other load, and before it evicts anyone.
        await self._host.prepare(name)
        await self._seat(str(name))

    async def _tell_metrics(self) -> None:
        while True:
            self._metrics.tell(self._engine.stats(), self._engine.residency())
            await asyncio.sleep(METRICS_S)

    async def residency(self) -> list[dict[str, Any]]:
        """The adapters known here; the fields of `Resident`."""
        return [resident._asdict() for resident in self._engine.residency()]

    async def stats(self) -> dict[str, Any]:
        """The engine's counters; the fields of `Stats`."""
        stats = self._engine.stats()._asdict()
        return {**stats, "ops": dict(stats["ops"])}

    async def check_health(self) -> None:
        """Raises EngineStopped when the engine takes no more requests; Serve replaces us."""
        self._engine.check_open()


def _loader(host: BaseHost) -> Any:
    """The function that Serve calls with the name of an adapter that it has no seat for."""

    async def load(name: str) -> Seat:
        await host.engine.load(name, await host.prepare(ModelName.parse(name)))
        return Seat(partial(host.engine.unload, name))

    return load


def limits_of(config: BaseSettings) -> EngineLimits:
    """The bounds of a replica's engine."""
    return EngineLimits(
        rows=config.max_batch,
        pass_tokens=config.pass_tokens,
        waiting=config.max_waiting,
        kv_tokens=config.kv_tokens,
        slots=config.slots,
        max_rank=config.max_rank,
        host_bytes=config.host_bytes,
        eviction=config.eviction,
    )


def entry_of(config: BaseSettings) -> Base:
    """The base that a configuration names. Raises UnknownBase, BaseUnavailable."""
    if config.folder is not None:
        return base_from_folder(config.folder.expanduser(), config.name)
    return get_base(config.name)


def device_of(config: BaseSettings) -> str | None:
    """Where a replica's base goes; None: the first GPU of those that Ray gives it.

    A replica that asked for none may see those of the machine all the same, and must not take one
    from whoever holds it.
    """
    return "cpu" if config.num_gpus == 0 else None
