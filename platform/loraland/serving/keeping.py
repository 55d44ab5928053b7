"""Does with adapters on one replica what admins want, and keeps to the pins in storage.

A replica that has just started, or missed an order, comes to what storage says within
`RECONCILE_S` seconds. Told how to load; knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from loraland.adapters.names import ModelName
from loraland.errors import LoraLandError
from loraland.serving.fleet import Verb
from loraland.serving.pins import Pins
from loraland.serving.seats import Seats

logger = logging.getLogger(__name__)

RECONCILE_S = 60.0


class Keeping:
    """The adapters that one replica is told to hold. Lives on its event loop."""

    def __init__(
        self, seats: Seats, pins: Pins, base: str, load: Callable[[ModelName], Awaitable[None]]
    ) -> None:
        """`load` brings a version onto the device. Raises LoraLandError."""
        self._seats, self._pins, self._base, self._load = seats, pins, base, load
        self._turn = asyncio.Lock()  # orders and what storage says do not overtake each other

    async def obey(self, verb: Verb, name: ModelName) -> None:
        """Carry out an order. Raises what loading and pinning raise."""
        if verb == "load":
            await self._load(name)
            return
        async with self._turn:
            if verb == "pin":
                await self._pin(name)
            elif verb == "unpin":
                await self._seats.unpin(str(name))
            else:
                await self._seats.unload(str(name))

    async def forever(self) -> None:
        """Reconcile again and again; what fails is tried the next time."""
        while True:
            try:
                await self.reconcile()
            except OSError as error:
                logger.warning("pins cannot be read: %s", error)
            await asyncio.sleep(RECONCILE_S)

    async def reconcile(self) -> None:
        """Pin what storage says, unpin what it does not. Raises OSError when it cannot be read."""
        async with self._turn:
            wanted = {
                str(name): name for name in await asyncio.to_thread(self._pins.of, self._base)
            }
            for version in self._seats.pinned - wanted.keys():
                await self._seats.unpin(version)
            for version in wanted.keys() - self._seats.pinned:
                try:
                    await self._pin(wanted[version])
                except LoraLandError as error:
                    logger.warning("'%s' cannot be pinned: %s", version, error.message)

    async def _pin(self, name: ModelName) -> None:
        await self._load(name)
        self._seats.pin(str(name))
