"""HTTP as every endpoint uses it: bodies within a limit, server-sent events, clients that leave."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from loraland.serving.bodies import BadParameter

T = TypeVar("T")

MODEL_HEADER = "x-loraland-model"
DONE = "data: [DONE]\n\n"


def client_left() -> Response:
    """What is answered to nobody; its status is for the access log."""
    return Response(status_code=499)


class EventStream(StreamingResponse):
    """Server-sent events which end their order however they end: also before the first was sent."""

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        parts: AsyncGenerator[Any, None],
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send `events`, which are made of `parts`."""
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events, self._parts = events, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them all, or as many as the client stays for."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._parts.aclose()


def event(data: Any) -> str:
    """One server-sent event: JSON as text, or what becomes JSON."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


async def chain(first: T, rest: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The first part, which was looked at before, and the others."""
    yield first
    async for part in rest:
        yield part


async def unless_client_leaves(request: Request, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None when the client hung up first; `work` is cancelled then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def read(request: Request, most_bytes: int) -> bytes:
    """The body of a request. Raises BadParameter for one that is too large."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most_bytes:
            raise BadParameter(f"the body is larger than {most_bytes} bytes; send less")
    return bytes(content)


def new_id() -> str:
    """An id that nobody else has."""
    return uuid.uuid4().hex
