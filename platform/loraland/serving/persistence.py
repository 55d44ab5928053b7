"""Asks another replica when one ends before it has said anything that the client has seen.

An answer that is given whole is asked for anew even when half of it had come; a stream only before
its first part. Knows parts and errors; nothing of Ray or HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from loraland.errors import EngineStopped
from loraland.serving.orders import AGAIN, Part

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # in all: a request that brings replicas down brings down no more than so many
PAUSE_S = 0.1  # before another is asked, in which the router hears of the death


async def persistent(
    ask: Callable[[int], AsyncGenerator[Part, None]],
    *,
    whole: bool,
    attempts: int = ATTEMPTS,
    pause_s: float = PAUSE_S,
) -> AsyncGenerator[Part, None]:
    """The parts of `ask(attempt)`; of a later attempt when a replica ended in time for that.

    With `whole`, parts that came before are void at `AGAIN`. Raises what the last attempt raises.
    Closing it closes the attempt under way.
    """
    for attempt in range(attempts):
        begun = False
        try:
            async with aclosing(ask(attempt)) as parts:
                async for part in parts:
                    begun = True
                    yield part
            return
        except EngineStopped as error:
            if attempt + 1 == attempts or (begun and not whole):
                raise
            logger.warning("a replica ended, another is asked (%d): %s", attempt + 2, error.message)
        if begun:
            yield AGAIN
        await asyncio.sleep(pause_s)
