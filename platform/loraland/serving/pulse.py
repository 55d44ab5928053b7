"""Whether a model answers: one real token, at the start and after every pass that failed.

A process that lives, and a model that was loaded, may still compute nothing: out of memory, a
broken device, a kernel that does not run here. Knows an engine; nothing of Serve.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from typing import Any

from loraland.engine.protocol import Engine, Finished, Request, Sampling
from loraland.errors import EngineBusy, EngineFailed

FIRST_S = 300.0  # for the first token of all: kernels are compiled, graphs captured
AGAIN_S = 20.0  # for one later; below the time that Serve gives a health check


class Pulse:
    """The pulse of one engine. Lives on its event loop."""

    def __init__(self, engine: Engine, prompt_ids: tuple[int, ...]) -> None:
        """Ask `engine` for a token of its base after `prompt_ids`."""
        self._engine, self._prompt_ids = engine, prompt_ids
        self._felt: int | None = None  # passes that had failed when it was last felt

    async def check(self) -> None:
        """Returns when the model is known to answer. Raises EngineStopped, EngineFailed.

        An engine whose queue is full answers others; it is felt the next time.
        """
        failed = self._engine.stats().failed_passes
        if self._felt == failed:
            self._check_open()
            return
        limit_s = FIRST_S if self._felt is None else AGAIN_S
        try:
            async with asyncio.timeout(limit_s):
                await one_token(self._engine, self._prompt_ids)
        except EngineBusy:
            return
        except TimeoutError:
            raise EngineFailed(f"the model gave no token within {limit_s:g} seconds") from None
        self._felt = failed

    def _check_open(self) -> None:
        check: Any = self._engine
        check.check_open()


async def one_token(
    engine: Engine, prompt_ids: tuple[int, ...], adapter: str | None = None
) -> None:
    """Have a token computed, so that an adapter is on the device afterwards.

    Raises what `Engine.submit` raises, EngineFailed when none came.
    """
    request = Request(f"pulse-{uuid.uuid4().hex}", prompt_ids, adapter, Sampling(max_new_tokens=1))
    events: Any = engine.submit(request)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished) and not event.generated_tokens:
                raise EngineFailed("the model ended without a token")
