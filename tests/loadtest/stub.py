"""A server that answers by a script: known delays, errors, disconnects, garbage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


def event(**fields):
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def pieces(model, tokens, prompt=3):
    """The events of a whole answer of `tokens` tokens."""
    texts = [event(model=model, choices=[{"text": "x", "finish_reason": None}])] * tokens
    end = event(model=model, choices=[{"text": "", "finish_reason": "length"}])
    counts = {"prompt_tokens": prompt, "completion_tokens": tokens}
    return [*texts, end, event(model=model, choices=[], usage=counts), b"data: [DONE]\n\n"]


class Stub:
    """Keeps what it was asked; `script` gives a response for a body."""

    def __init__(self, script=None, listing=None, fleet=None):
        self.script = script or (lambda body: pieces(body["model"], body["max_tokens"]))
        self.listing, self.fleet = listing, fleet
        self.bodies, self.headers, self.under_way, self.most_at_once = [], [], 0, 0

    async def answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            return await self._answer(request, self.script(body))
        finally:
            self.under_way -= 1

    async def _answer(self, request, script):
        if isinstance(script, tuple):  # a status and a body
            return web.Response(status=script[0], body=script[1])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        for step in script:
            if isinstance(step, dict):
                response.headers.update(step)
                continue
            if not response.prepared:
                await response.prepare(request)
            if step == "hang up":
                request.transport.abort()
                return response
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                await response.write(step)
        return response

    async def listed(self, request):
        return web.json_response(self.listing)

    async def model(self, request):
        ids = [one["id"] for one in self.listing["data"]]
        status = 200 if request.match_info["name"] in ids else 404
        return web.json_response({}, status=status)

    async def fleets(self, request):
        return web.json_response(self.fleet, status=404 if self.fleet is None else 200)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The address of this server, for as long as it is there."""
        app = web.Application()
        app.router.add_post("/v1/completions", self.answer)
        app.router.add_get("/v1/models", self.listed)
        app.router.add_get("/v1/models/{name:.+}", self.model)
        app.router.add_get("/v1/fleet", self.fleets)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
