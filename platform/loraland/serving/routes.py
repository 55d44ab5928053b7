"""The HTTP side: OpenAI's endpoints as a FastAPI application over any `Service`.

Settles names, limits and defaults, then sends an order and gives its parts back, whole or as
server-sent events. A client that leaves ends its order. Prompts, answers and keys are never logged.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from loraland import __version__
from loraland.errors import LoraLandError, UnknownModel
from loraland.serving.access.answers import error_response
from loraland.serving.access.gate import Access, Gate
from loraland.serving.access.guard import GuardedService, may_use
from loraland.serving.access.visit import current_id
from loraland.serving.bodies import read_body
from loraland.serving.compare_routes import add_compare_route
from loraland.serving.directory import ModelList, ServedModel, describe_adapter, describe_base
from loraland.serving.lorax_routes import add_lorax_routes
from loraland.serving.openai_answers import (
    Answer,
    ChatAnswer,
    ChatChunk,
    CompletionAnswer,
    usage_of,
)
from loraland.serving.openai_api import (
    AnyRequest,
    ChatRequest,
    CompletionRequest,
    check_limits,
    error_body,
)
from loraland.serving.openapi import answers, body, describe, errors
from loraland.serving.ordering import order_of
from loraland.serving.orders import End, Order, Part, TokenScore
from loraland.serving.service import Service
from loraland.serving.shapes import ChatShape, CompletionShape, Said, Shape
from loraland.serving.wire import (
    DONE,
    MODEL_HEADER,
    EventStream,
    chain,
    client_left,
    event,
    new_id,
    read,
    unless_client_leaves,
)

logger = logging.getLogger(__name__)

TIER_HEADER = "x-loraland-adapter-tier"  # where the adapter was: `device` is a hit


def create_app(service: Service, access: Access) -> FastAPI:
    """The application; it holds no state of its own. Every route stands behind `access`.

    There is no default: a gateway that forgot to say who may come in would stand open.
    """
    service = GuardedService(service, access)
    app = FastAPI(title="LoRA Land", version=__version__)
    app.add_middleware(Gate, access=access)
    app.add_exception_handler(LoraLandError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    _add_model_routes(app, service)
    _add_answer_routes(app, service)
    add_compare_route(app, service)
    add_lorax_routes(app, service)
    describe(app)
    return app


def _add_model_routes(app: FastAPI, service: Service) -> None:
    directory = service.directory

    @app.get("/health", tags=["Server"], responses=errors())
    async def health() -> dict[str, Any]:
        """Whether the gateway answers; replicas have health checks of their own."""
        return {"status": "ok", "bases": list(directory.bases), "version": __version__}

    @app.get("/v1/models", tags=["OpenAI"], responses=errors(), response_model_exclude_unset=True)
    async def models() -> ModelList:
        """Every base, and every version of every adapter with its aliases and scores."""
        adapters = [describe_adapter(entry) for entry in await directory.entries()]
        bases = [describe_base(name) for name in directory.bases if may_use(name)]
        return ModelList.model_validate({"object": "list", "data": bases + adapters})

    @app.get(
        "/v1/models/{name:path}",
        tags=["OpenAI"],
        responses=errors(),
        response_model_exclude_unset=True,
    )
    async def model(name: str) -> ServedModel:
        """One model, by any of its names."""
        found = await directory.resolve(name)
        if found.task is None:
            return ServedModel.model_validate(describe_base(found.base))
        for entry in await directory.entries():
            if entry.name == found:
                return ServedModel.model_validate(describe_adapter(entry))
        raise UnknownModel(f"'{found}' is not listed yet; ask again in a moment")


def _add_answer_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/completions",
        tags=["OpenAI"],
        openapi_extra=body(app, CompletionRequest),
        responses=answers(app, CompletionAnswer, events=[CompletionAnswer]),
        response_model=None,
    )
    async def completions(request: Request) -> Response:
        """Continue prompts."""
        asked = read_body(CompletionRequest, await read(request, service.limits.body_bytes))
        return await _respond(request, service, asked, CompletionShape(f"cmpl-{new_id()}"))

    @app.post(
        "/v1/chat/completions",
        tags=["OpenAI"],
        openapi_extra=body(app, ChatRequest),
        responses=answers(app, ChatAnswer, events=[ChatChunk]),
        response_model=None,
    )
    async def chat(request: Request) -> Response:
        """Answer a chat, in the base's own template."""
        asked = read_body(ChatRequest, await read(request, service.limits.body_bytes))
        shape = ChatShape(f"chatcmpl-{new_id()}", calls=asked.may_call)
        return await _respond(request, service, asked, shape)


async def _respond(request: Request, service: Service, asked: AnyRequest, shape: Shape) -> Response:
    limits = service.limits
    check_limits(
        asked, prompts=limits.prompts, choices=limits.choices, new_tokens=limits.new_tokens
    )
    order = await _order(service, asked, shape.id)
    shape.model = str(order.model)
    headers = {MODEL_HEADER: shape.model}
    parts = service.complete(order)
    # The first part decides the status: an order that is refused is no stream.
    first = await unless_client_leaves(request, anext(parts))
    if first is None:
        return client_left()
    if "tier" in first:
        headers[TIER_HEADER] = first["tier"]
    if asked.stream:
        events = _events(shape, order, first, parts, asked.wants_usage)
        return EventStream(events, parts, headers)
    answer = await unless_client_leaves(request, _whole(shape, order, first, parts))
    if answer is None:
        return client_left()
    return JSONResponse(answer.model_dump(), headers=headers)


async def _order(service: Service, asked: AnyRequest, order_id: str) -> Order:
    return order_of(
        asked,
        order_id,
        await service.directory.resolve(asked.model),
        asked.prompts,
        most_new_tokens=service.limits.new_tokens,
        max_new_tokens=asked.wished_tokens,
        n=asked.n or 1,
        logprobs=asked.wished_logprobs,
        tools=asked.shown_tools,
        whole=not asked.stream,
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
    shape: Shape, order: Order, first: Part, rest: AsyncGenerator[Part, None]
) -> CompletionAnswer | ChatAnswer:
    tally, texts = _Tally(order), defaultdict[int, list[str]](list)
    scores = defaultdict[int, list[TokenScore]](list)
    async with aclosing(rest):
        async for part in chain(first, rest):
            if "again" in part:
                tally = _Tally(order)
                texts.clear()
                scores.clear()
            elif "text" in part:
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
            async for part in chain(first, rest):
                if "text" in part:
                    said = Said(part["text"], None, part.get("tokens"))
                else:
                    said = Said(None, tally.add(part), None)
                piece = shape.piece(part["choice"], said)
                if piece is not None:
                    yield _event(piece)
        except LoraLandError as error:
            # The status is sent already; an error event is what OpenAI's clients raise on.
            yield event(error_body(error))
            return
        if with_usage:
            last = shape.last()
            tally.attach_usage(last)
            yield _event(last)
        yield DONE


def _event(answer: Answer) -> str:
    left_out = {"usage"} if answer.usage is None else None
    return event(answer.model_dump_json(exclude=left_out))


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LoraLandError)
    if error.status >= 500:
        logger.error("request %s failed: %s: %s", current_id(), error.code, error.message)
    return error_response(error, request.scope)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
    told = LoraLandError(message)
    told.status, told.code = error.status_code, "not_found" if error.status_code == 404 else "http"
    answer = error_response(told, request.scope)
    answer.headers.update(error.headers or {})
    return answer
