"""The outermost layer: how many requests at once, how long, and errors in one shape.

Tokens, bodies and what people say are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import math

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loraland.cellar.config import CellarLimits
from loraland.errors import BodyTimedOut, GatewayBusy, LoraLandError, RequestTimedOut
from loraland.serving.openai_api import error_body
from loraland.serving.wire import read

logger = logging.getLogger(__name__)


class Door:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, limits: CellarLimits) -> None:
        """Let requests through to `app`."""
        self._app, self._limits = app, limits
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # there are no WebSockets here
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def telling(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                headers.setdefault("x-content-type-options", "nosniff")
            await send(message)

        self._under_way += 1
        try:
            if self._under_way > self._limits.requests:
                raise GatewayBusy("this server holds as many requests as it may; retry in a second")
            async with asyncio.timeout(self._limits.request_seconds):
                await self._app(scope, receive, telling)
        except TimeoutError:
            if not begun:
                late = RequestTimedOut(f"no answer in {self._limits.request_seconds:g} s; retry")
                await error_answer(late)(scope, receive, telling)
        except LoraLandError as error:
            await error_answer(error)(scope, receive, telling)
        except Exception as error:
            logger.error("a request failed unexpectedly", exc_info=error)
            if begun:
                raise
            told = LoraLandError("the server failed unexpectedly; its log has the reason")
            await error_answer(told)(scope, receive, telling)
        finally:
            self._under_way -= 1


async def read_in_time(request: Request, limits: CellarLimits) -> bytes:
    """The body. Raises BadParameter for one that is too large, BodyTimedOut."""
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await read(request, limits.body_bytes)
    except TimeoutError:
        raise BodyTimedOut(f"the body took longer than {limits.body_seconds:g} s") from None


def error_answer(error: LoraLandError) -> JSONResponse:
    """The answer that tells an error."""
    headers = {}
    if error.status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(getattr(error, "retry_after_s", 1.0))))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers)


def add_errors(app: FastAPI) -> None:
    """Make an application tell its errors in this shape."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, LoraLandError)
        if error.status >= 500:
            logger.error("%s failed: %s: %s", request.url.path, error.code, error.message)
        return error_answer(error)

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        told = LoraLandError(
            f"{request.method} {request.url.path[:200]}: {error.detail}; see /docs"
        )
        told.status = error.status_code
        told.code = "not_found" if error.status_code == 404 else "http"
        answer = error_answer(told)
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(LoraLandError, ours)
    app.add_exception_handler(HTTPException, of_http)
