"""The Serve deployment of one base: its adapters kept by Serve's multiplexing, answers streamed.

Serve gives routing affinity and the bound on adapters per replica. It evicts without asking who is
in use; the engine's leases put the removal off until the last answer ends, and a pin for good. A
replica takes requests once its model has given a token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from ray import serve
from ray.util import get_node_ip_address

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
from loraland.errors import LoraLandError
from loraland.serving.config import BaseSettings
from loraland.serving.examination import Examiner
from loraland.serving.facts import facts_of
from loraland.serving.fleet import Verb
from loraland.serving.grouping import grouped
from loraland.serving.host import BaseHost
from loraland.serving.keeping import Keeping
from loraland.serving.log_lines import into_serve_logs
from loraland.serving.metrics import AnswerMetrics, EngineMetrics
from loraland.serving.orders import BaseFacts, Order, Part, TokenSpan
from loraland.serving.pins import Pins
from loraland.serving.pulse import Pulse, one_token
from loraland.serving.seats import Seats
from loraland.serving.timing import timed
from loraland.storage import Storage

logger = logging.getLogger(__name__)

# Between two messages of an answer that is given whole: few, and yet the gateway knows what was
# made when a client leaves.
WHOLE_S = 1.0
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
        into_serve_logs()
        prepare_for_inference(base, int8=config.int8)
        self._engine = make_engine(
            base,
            limits_of(config),
            kind=config.engine,
            tolerance=COARSE if config.int8 else EXACT,
        )
        self._facts = facts_of(base, self._engine.context_tokens, config)
        self._metrics, self._meter = EngineMetrics(base.entry.name), AnswerMetrics(base.entry.name)
        self._within_s = config.stream_ms / 1000
        store = Storage.open(storage)
        limits = Limits(max_rank=config.max_rank, where="the configuration of this application")
        self._host = BaseHost(
            base, self._engine, Registry(store), settings.cache_folder() / "adapters", limits
        )
        self._examiner = Examiner(base, self._engine, limits)
        self._prompt_ids = self._host.encode("Hello")
        self._pulse = Pulse(self._engine, self._prompt_ids)
        self._seats = Seats(self._engine)
        # Made here and not as a method, because the bound is a setting of each base.
        self._seat = serve.multiplexed(max_num_models_per_replica=config.max_adapters)(
            _loader(self._host, self._seats)
        )
        self._keeping = Keeping(self._seats, Pins(store), base.entry.name, self._load)
        self._upkeep: list[asyncio.Task[None]] = []  # begun by the first health check
        logger.info("serving %s in %s on %s", base.entry.name, base.precision, base.device)

    async def complete(self, order: Order) -> AsyncGenerator[list[Part], None]:
        """Answer an order, several parts at a time; see `BaseHost.complete`."""
        parts = timed(order, self._host.complete(order, self._ready), self._meter)
        within_s = max(self._within_s, WHOLE_S) if order.whole else self._within_s
        async with aclosing(grouped(parts, within_s)) as groups:
            async for group in groups:
                yield group

    async def _ready(self, name: ModelName) -> None:
        # Outside of Serve's lock, which holds up every other load, and before it evicts anyone.
        folder = await self._host.prepare(name)
        await self._seat(str(name))
        # It may have been unloaded by hand since it got its seat; else this changes nothing.
        await self._engine.load(str(name), folder)

    async def _load(self, name: ModelName) -> None:
        """Bring an adapter onto the device, by a token computed with it."""
        await self._ready(name)
        await one_token(self._engine, self._prompt_ids, str(name))

    async def _tell_metrics(self) -> None:
        while True:
            self._metrics.tell(self._engine.stats(), self._engine.residency())
            await asyncio.sleep(METRICS_S)

    async def report(self) -> dict[str, Any]:
        """What `fleet.ReplicaView` tells of this replica."""
        return {
            "replica": _replica_id(),
            "node": get_node_ip_address(),
            "device": self._facts["device"],
            "stats": await self.stats(),
            "adapters": await self.residency(),
        }

    async def obey(self, verb: Verb, name: ModelName, replica: str | None) -> dict[str, Any] | None:
        """Do something with an adapter, as `fleet.Fleet.order` says; None if another was meant."""
        me = _replica_id()
        if replica not in (None, me):
            return None
        try:
            await self._keeping.obey(verb, name)
        except LoraLandError as error:
            return {"replica": me, "error": {"code": error.code, "message": error.message}}
        held = [one for one in await self.residency() if one["version"] == str(name)]
        return {"replica": me, "adapter": held[0]} if held else {"replica": me}

    async def examine(self, files: Mapping[str, bytes]) -> None:
        """Hold an adapter that is not published against this base; see `Examiner.examine`."""
        await self._examiner.examine(files)

    async def facts(self) -> BaseFacts:
        """The base and its limits; they never change."""
        return self._facts

    async def tokenize(self, text: str, special: bool) -> list[TokenSpan]:
        """The tokens of a text; see `BaseHost.tokenize`."""
        return await self._host.tokenize(text, special)

    async def residency(self) -> list[dict[str, Any]]:
        """The adapters known here; the fields of `Resident`."""
        return [resident._asdict() for resident in self._engine.residency()]

    async def stats(self) -> dict[str, Any]:
        """The engine's counters; the fields of `Stats`."""
        stats = self._engine.stats()._asdict()
        return {**stats, "ops": dict(stats["ops"])}

    async def check_health(self) -> None:
        """Raises when the model gives no token; Serve replaces us. Its first call is the last of
        our start: until it returns, nobody is sent to us.
        """
        await self._pulse.check()
        if not self._upkeep:  # the constructor has no running loop
            self._upkeep = [
                asyncio.create_task(self._tell_metrics()),
                asyncio.create_task(self._keeping.forever()),
            ]


def _replica_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)


def _loader(host: BaseHost, seats: Seats) -> Any:
    """The function that Serve calls with the name of an adapter that it has no seat for."""

    async def load(name: str) -> Seat:
        await host.engine.load(name, await host.prepare(ModelName.parse(name)))
        seats.take(name)
        return Seat(partial(seats.leave, name))

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
        cuda_graphs=config.cuda_graphs,
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
