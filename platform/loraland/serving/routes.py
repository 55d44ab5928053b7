"""The HTTP side: OpenAI's endpoints as a FastAPI application over any `Service`.

Settles names, limits and defaults, then sends an order and gives its parts back, whole or as
server-sent events. A client that leaves ends its order. Prompts, answers and keys are never logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from loraland import __version__
from loraland.errors import LoraLandError, UnknownModel
from loraland.serving.config import Limits
from loraland.serving.directory import Directory, describe_adapter, describe_base
from loraland.serving.openai_api import (
    Answer,
    AnyRequest,
    BadParameter,
    ChatAnswer,
    ChatRequest,
    CompletionAnswer,
    CompletionRequest,
    check_limits,
    error_body,
    read_body,
    usage_of,
)
from loraland.serving.orders import End, Order, Part, TokenScore
from loraland.serving.shapes import ChatShape, CompletionShape, Said, Shape

logger = logging.getLogger(__name__)
T = TypeVar("T")

MODEL_HEADER = "x-loraland-model"
RETRY_AFTER_S = 1  # a batch of short answers takes about this long
CLIENT_LEFT = 499  # nobody reads this status; it is for the access log


class Service(Protocol):
    """What the routes stand on."""

    directory: Directory
    limits: Limits

    def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        """The parts of an order as a replica sends them. Raises LoraLandError."""
        ...


def create_app(service: Service) -> FastAPI:
    """The application; it holds no state of its own."""
    app = FastAPI(title="LoRA Land", version=__version__)
    app.add_exception_handler(LoraLandError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_surprise)
    _add_model_routes(app, service)
    _add_answer_routes(app, service)
    return app


def _add_model_routes(app: FastAPI, service: Service) -> None:
    directory = service.directory

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the gateway answers; replicas have health checks of their own."""
        return {"status": "ok", "bases": list(directory.bases), "version": __version__}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Every base, and every version of every adapter with its aliases and scores."""
        adapters = [describe_adapter(entry) for entry in await directory.entries()]
        bases = [describe_base(name) for name in directory.bases]
        return {"object": "list", "data": bases + adapters}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model, by any of its names."""
        found = await directory.resolve(name)
        if found.task is None:
            return describe_base(found.base)
        for entry in await directory.entries():
            if entry.name == found:
                return describe_adapter(entry)
        raise UnknownModel(f"'{found}' is not listed yet; ask again in a moment")


def _add_answer_routes(app: FastAPI, service: Service) -> None:
    def body(kind: type[BaseModel]) -> dict[str, Any]:
        content = {"application/json": {"schema": kind.model_json_schema()}}
        return {"requestBody": {"required": True, "content": content}}

    @app.post("/v1/completions", openapi_extra=body(CompletionRequest), response_model=None)
    async def completions(request: Request) -> Response:
        """Continue prompts."""
        asked = read_body(CompletionRequest, await _read(request, service.limits.body_bytes))
        return await _respond(request, service, asked, CompletionShape(f"cmpl-{_new_id()}"))

    @app.post("/v1/chat/completions", openapi_extra=body(ChatRequest), response_model=None)
    async def chat(request: Request) -> Response:
        """Answer a chat, in the base's own template."""
        asked = read_body(ChatRequest, await _read(request, service.limits.body_bytes))
        return await _respond(request, service, asked, ChatShape(f"chatcmpl-{_new_id()}"))


async def _respond(request: Request, service: Service, asked: AnyRequest, shape: Shape) -> Response:
    limits = service.limits
    check_limits(
        asked, prompts=limits.prompts, choices=limits.choices, new_tokens=limits.new_tokens
    )
    order = await _order(service, asked, shape.id)
    shape.model = str(order.model)
    headers = {MODEL_HEADER: shape.model}
    parts = service.complete(order)
    if asked.stream:
        # The first part decides the status: an order that is refused is no stream.
        first = await _unless_client_leaves(request, anext(parts))
        if first is None:
            return Response(status_code=CLIENT_LEFT)
        events = _events(shape, order, first, parts, asked.wants_usage)
        return EventStream(events, parts, headers)
    answer = await _unless_client_leaves(request, _whole(shape, order, parts))
    if answer is None:
        return Response(status_code=CLIENT_LEFT)
    return JSONResponse(answer.model_dump(), headers=headers)


class EventStream(StreamingResponse):
    """Server-sent events which end their order however they end: also before the first was sent."""

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        parts: AsyncGenerator[Part, None],
        headers: dict[str, str],
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


async def _order(service: Service, asked: AnyRequest, order_id: str) -> Order:
    return Order(
        id=order_id,
        model=await service.directory.resolve(asked.model),
        prompts=asked.prompts,
        n=asked.n or 1,
        max_new_tokens=asked.wished_tokens,
        most_new_tokens=service.limits.new_tokens,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k or 0,
        seed=asked.seed,
        stop=asked.stops,
        min_p=asked.min_p or 0.0,
        repetition_penalty=asked.repetition_penalty or 1.0,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logprobs=asked.wished_logprobs,
        grammar=asked.grammar,
    )


class _Tally:
    """What the ends of an order's answers add up to."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.reasons: dict[int, str] = {}
        self._prompt_tokens: dict[int, int] = {}
        self._generated = 0

    def add(self, end: End) -> str:
        """Count the end of a choice; its finish reason."""
        self.reasons[end["choice"]] = end["finish_reason"]
        self._prompt_tokens[end["choice"]] = end["prompt_tokens"]
        self._generated += end["generated_tokens"]
        return end["finish_reason"]

    def attach_usage(self, answer: Answer) -> None:
        """Write the usage into an answer."""
        answer.usage = usage_of(self._order, self._prompt_tokens, self._generated)


async def _whole(
    shape: Shape, order: Order, parts: AsyncGenerator[Part, None]
) -> CompletionAnswer | ChatAnswer:
    tally, texts = _Tally(order), defaultdict[int, list[str]](list)
    scores = defaultdict[int, list[TokenScore]](list)
    async with aclosing(parts):
        async for part in parts:
            if "text" in part:
                texts[part["choice"]].append(part["text"])
                scores[part["choice"]] += part.get("tokens", [])
            else:
                tally.add(part)
    scored = order.logprobs is not None
    answer = shape.whole(
        [
            Said("".join(texts[c]), tally.reasons[c], scores[c] if scored else None)
            for c in range(len(order.prompts) * order.n)
        ]
    )
    tally.attach_usage(answer)
    return answer


async def _events(
    shape: Shape,
    order: Order,
    first: Part,
    rest: AsyncGenerator[Part, None],
    with_usage: bool,
) -> AsyncGenerator[str, None]:
    tally = _Tally(order)
    async with aclosing(rest):
        try:
            async for part in _chain(first, rest):
                if "text" in part:
                    said = Said(part["text"], None, part.get("tokens"))
                else:
                    said = Said(None, tally.add(part), None)
                yield _event(shape.piece(part["choice"], said))
        except LoraLandError as error:
            # The status is sent already; an error event is what OpenAI's clients raise on.
            yield f"data: {json.dumps(error_body(error))}\n\n"
            return
        if with_usage:
            last = shape.last()
            tally.attach_usage(last)
            yield _event(last)
        yield "data: [DONE]\n\n"


async def _chain(first: Part, rest: AsyncIterator[Part]) -> AsyncIterator[Part]:
    yield first
    async for part in rest:
        yield part


def _event(answer: Answer) -> str:
    left_out = {"usage"} if answer.usage is None else None
    return f"data: {answer.model_dump_json(exclude=left_out)}\n\n"


async def _unless_client_leaves(request: Request, work: Awaitable[T]) -> T | None:
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


async def _read(request: Request, most_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most_bytes:
            raise BadParameter(f"the body is larger than {most_bytes} bytes; send less")
    return bytes(content)


def _new_id() -> str:
    return uuid.uuid4().hex


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LoraLandError)
    if error.status >= 500:
        logger.error("a request failed: %s: %s", error.code, error.message)
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.status in (429, 503) else None
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
    told = LoraLandError(message)
    told.status, told.code = error.status_code, "not_found" if error.status_code == 404 else "http"
    return JSONResponse(error_body(told), status_code=error.status_code, headers=error.headers)


async def _on_surprise(_: Request, error: Exception) -> JSONResponse:
    logger.error("a request failed unexpectedly", exc_info=error)
    told = LoraLandError("the server failed unexpectedly; its log has the reason")
    return JSONResponse(error_body(told), status_code=told.status)
