"""The outermost layer of the application: every request passes here first and ends here.

Finds out who asks, refuses what `policy` closes and what a key's limits do not allow, bounds
headers, time and the number of requests, and writes the audit line. Knows routes only by their
paths, so that no route can be forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import NamedTuple

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loraland.errors import (
    BodyTimedOut,
    GatewayBusy,
    HeadersTooLarge,
    InvalidKey,
    LoraLandError,
    RequestTimedOut,
)
from loraland.serving.access import audit, policy, visit
from loraland.serving.access.answers import error_response, limit_headers, refusal
from loraland.serving.access.books import Claim, Limiter
from loraland.serving.access.permission import ANYONE, Caller
from loraland.serving.access.ring import REFUSED, KeyRing
from loraland.serving.access.visit import Visit
from loraland.serving.config import Limits

logger = logging.getLogger(__name__)

ID_HEADER = "x-loraland-request-id"
LATE_S = 5.0  # after the time of a request, for answers to end by themselves with a typed error


class Access(NamedTuple):
    """What the gate and the guard of one gateway go by."""

    limits: Limits
    keys: KeyRing | None = None  # None: no keys are needed
    limiter: Limiter | None = None  # needed where a key has limits
    loopback: bool = False  # without keys: only this machine can call

    def claim(self, key: str, *, requests: int = 0, tokens: int = 0, running: int = 0) -> Claim:
        """A claim that ends by itself when the longest request would have."""
        lasts_s = self.limits.request_seconds + 2 * LATE_S
        return Claim(uuid.uuid4().hex, key, requests, tokens, running, lasts_s)


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Let requests through to `app` as `access` says."""
        self._app, self._access = app, access
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await self._visited(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # there are no WebSockets here, and none opens by accident
            await send({"type": "websocket.close", "code": 1008})

    async def _visited(self, scope: Scope, receive: Receive, send: Send) -> None:
        now = Visit.of(scope["method"], Headers(scope=scope))
        wires = _Wires(now, receive, send, self._access.limits.body_seconds)
        token = visit.enter(now)
        try:
            await self._answer(scope, wires, now)
        finally:
            visit.leave(token)
            # A request that was refused here has matched no route.
            path = policy.listed(get_route_path(scope))
            audit.record(now, getattr(scope.get("route"), "path", path))

    async def _answer(self, scope: Scope, wires: _Wires, now: Visit) -> None:
        try:
            async with asyncio.timeout(self._access.limits.request_seconds + LATE_S):
                await self._admitted(scope, wires, now)
        except TimeoutError:
            if not wires.begun:
                await self._refuse(_too_late(self._access.limits), scope, wires)
        except LoraLandError as error:
            await self._refuse(error, scope, wires)
        except Exception as error:
            if now.left:
                return
            logger.error("request %s failed unexpectedly", now.request_id, exc_info=error)
            told = LoraLandError("the server failed unexpectedly; its log has the reason")
            now.error = told.code
            if wires.begun:
                raise  # the connection is cut, so that nobody takes the answer for whole
            await error_response(told, scope)(scope, wires.receive, wires.send)

    async def _refuse(self, error: LoraLandError, scope: Scope, wires: _Wires) -> None:
        if error.status >= 500:
            logger.error("request %s failed: %s: %s", visit.current_id(), error.code, error.message)
        await error_response(error, scope)(scope, wires.receive, wires.send)

    async def _admitted(self, scope: Scope, wires: _Wires, now: Visit) -> None:
        headers = Headers(scope=scope)
        need = policy.need_of(now.method, get_route_path(scope))
        _check_size(scope, self._access.limits.header_bytes)
        if need is policy.Need.NOTHING:
            await self._app(scope, wires.receive, wires.send)
            return
        if self._under_way >= self._access.limits.requests:
            raise GatewayBusy("this gateway holds as many requests as it may; retry in a second")
        self._under_way += 1
        try:
            now.caller = await self._caller(headers)
            policy.require(need, now.caller)
            await self._limited(now.caller, scope, wires, now)
        finally:
            self._under_way -= 1

    async def _caller(self, headers: Headers) -> Caller:
        if self._access.keys is None:
            host, origin = headers.get("host"), headers.get("origin")
            policy.require_local(host, origin, by_name=self._access.loopback)
            return ANYONE
        given = headers.getlist("authorization")
        kind, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if kind.lower() != "bearer":
            raise InvalidKey(REFUSED)
        return await self._access.keys.caller(text.strip())

    async def _limited(self, caller: Caller, scope: Scope, wires: _Wires, now: Visit) -> None:
        limiter = self._access.limiter
        if caller.key is None or limiter is None or not caller.allowance.counts_requests:
            await self._app(scope, wires.receive, wires.send)
            return
        claim = self._access.claim(caller.key, requests=1, running=1)
        now.reply = await limiter.claim(claim, caller.allowance)
        if now.reply.refused is not None:
            raise refusal(now.reply)
        try:
            await self._app(scope, wires.receive, wires.send)
        finally:
            limiter.settle(claim, caller.allowance, 0)


class _Wires:
    """The two ends of a connection, watched."""

    def __init__(self, now: Visit, receive: Receive, send: Send, body_s: float) -> None:
        self._visit, self._receive, self._send = now, receive, send
        self._body_until: float | None = time.monotonic() + body_s  # None: it has come whole
        self.begun = self._done = False

    async def receive(self) -> Message:
        """The next message. Raises BodyTimedOut for a body that takes too long."""
        if self._body_until is None:
            message = await self._receive()
        else:
            left = max(0.0, self._body_until - time.monotonic())
            try:
                async with asyncio.timeout(left):
                    message = await self._receive()
            except TimeoutError:
                raise BodyTimedOut("the request did not come whole in time; send it anew") from None
        if message["type"] == "http.disconnect":
            self._visit.left = self._visit.left or not self._done
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_until = None
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on, with the request's id and what is left of the limits."""
        if message["type"] == "http.response.start":
            self.begun, self._visit.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers[ID_HEADER] = self._visit.request_id
            if self._visit.reply is not None:
                headers.update(limit_headers(self._visit.reply))
        try:
            await self._send(message)
        except OSError:  # how a server says that nobody listens any more
            self._visit.left = True
            raise
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._done = True


def _check_size(scope: Scope, most: int) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    size += len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size > most:
        raise HeadersTooLarge(f"address and headers are {size} bytes, at most {most} are read")


def _too_late(limits: Limits) -> RequestTimedOut:
    return RequestTimedOut(
        f"no answer within {limits.request_seconds:g} seconds, and the work on it has ended; ask "
        "for fewer tokens, or raise limits.request_seconds"
    )
