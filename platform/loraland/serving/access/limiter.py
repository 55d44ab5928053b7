"""One keeper for all gateways: a named Ray actor, and how a gateway asks it.

Ray restarts the actor, on another node if need be; until then nothing limited passes. It begins
with empty buckets, and gateways tell it again what is under way. It ends by itself once no gateway
has called for a while. Asking twice under one id counts once, so calls are repeated safely.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from loraland.errors import LimitsUnavailable
from loraland.serving.access.books import Allowance, Claim, Reply
from loraland.serving.access.keeper import Keeper
from loraland.storage import Storage

logger = logging.getLogger(__name__)

NAMESPACE = "loraland"
ANSWER_S = 10.0  # that a request waits for its limits, also while the actor is restarted
BEAT_S, ALONE_S = 60.0, 900.0  # a gateway calls at least so often; then there is none any more


class KeeperActor:
    """A `Keeper` as a Ray actor; every method is one of its."""

    def __init__(self, storage: str) -> None:
        """Count for all gateways of this storage."""
        self._keeper = Keeper(Storage.open(storage))
        self._called = time.monotonic()
        self._watching: asyncio.Task[None] | None = None

    async def claim(self, claim: Claim, allowance: Allowance) -> Reply:
        """See `Keeper.claim`."""
        await self.beat()
        return await self._keeper.claim(claim, allowance)

    async def settle(self, claim: Claim, allowance: Allowance, tokens: int, life: str) -> None:
        """See `Keeper.settle`."""
        await self._keeper.settle(claim, allowance, tokens, life)

    async def restore(self, claims: list[tuple[Claim, Allowance]]) -> None:
        """See `Keeper.restore`."""
        await self._keeper.restore(claims)

    async def beat(self) -> None:
        """A gateway lives."""
        self._called = time.monotonic()
        if self._watching is None:  # the constructor has no running loop
            self._watching = asyncio.create_task(self._leave_when_alone())

    async def _leave_when_alone(self) -> None:
        while time.monotonic() < self._called + ALONE_S:
            await asyncio.sleep(BEAT_S)
        ray.kill(ray.get_runtime_context().current_actor)


class RayLimiter:
    """Asks the actor of a storage, and starts it where there is none."""

    def __init__(self, storage: str, options: dict[str, Any] | None = None) -> None:
        """`options` are of the actor, such as its runtime environment."""
        self._storage, self._options = storage, options or {}
        self._actor: Any = self._find()
        self._life: str | None = None
        self._held: dict[str, tuple[Claim, Allowance, str]] = {}  # with the life that holds it
        self._tasks: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None

    async def claim(self, claim: Claim, allowance: Allowance) -> Reply:
        """See `books.Limiter`."""
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        try:
            async with asyncio.timeout(ANSWER_S):
                reply: Reply = await self._call("claim", claim, allowance)
                if await self._reminded(reply.life):  # what it said, it said without knowing
                    await self._call("settle", claim, allowance, 0, reply.life)
                    reply = await self._call("claim", claim, allowance)
        except (TimeoutError, RayActorError, RayTaskError) as error:
            logger.error("limits cannot be asked for: %s", type(error).__name__)
            # It may be held there all the same; were it not settled, it would count until it ends.
            self._later(self._settle(claim, allowance, 0, self._life or ""))
            raise LimitsUnavailable(
                "the limits of this key cannot be checked for the moment; retry in a few seconds"
            ) from error
        except asyncio.CancelledError:  # the client left
            self._later(self._settle(claim, allowance, 0, self._life or ""))
            raise
        if reply.refused is None:
            self._held[claim.id] = (claim, allowance, reply.life)
        return reply

    def settle(self, claim: Claim, allowance: Allowance, tokens: int) -> None:
        """See `books.Limiter`."""
        *_, life = self._held.pop(claim.id, (claim, allowance, self._life or ""))
        self._later(self._settle(claim, allowance, tokens, life))

    async def _reminded(self, life: str) -> bool:
        """Tell an actor that has lost its memory what it had admitted; whether it had."""
        before, self._life = self._life, life
        if before in (None, life):
            return False
        held = [(claim, allowance) for claim, allowance, _ in self._held.values()]
        self._held = {c.id: (c, allowance, life) for c, allowance in held}
        await self._call("restore", held)
        return True

    async def _settle(self, *ending: Any) -> None:
        try:
            await self._call("settle", *ending)
        except (RayActorError, RayTaskError) as error:
            # What was held counts whole when its time is over, and new books begin empty.
            logger.warning("a claim was not settled: %s", type(error).__name__)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self._actor, method).remote(*args)
        except RayActorError:  # ended for good, such as by hand; another is started
            self._actor = await asyncio.to_thread(self._find)
            return await getattr(self._actor, method).remote(*args)

    async def _beat(self) -> None:
        while True:
            try:
                await self._call("beat")
            except (RayActorError, RayTaskError) as error:
                logger.warning("the limits' actor does not answer: %s", type(error).__name__)
            await asyncio.sleep(BEAT_S)

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # a loop keeps no task alive
        task.add_done_callback(self._tasks.discard)

    def _find(self) -> Any:
        return (
            ray.remote(KeeperActor)
            .options(
                name=actor_name(self._storage),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=3,
                num_cpus=0,
                **self._options,
            )
            .remote(self._storage)
        )


def actor_name(storage: str) -> str:
    """The actor that counts for the keys of a storage."""
    return f"limits-{hashlib.sha256(storage.encode()).hexdigest()[:16]}"
