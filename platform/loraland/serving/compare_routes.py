"""POST /v1/compare over any `Service`: all names are settled first, then all models asked at once.

A client that leaves ends all orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from loraland.serving.bodies import read_body
from loraland.serving.compare import ColumnEvent, compared, comparison
from loraland.serving.compare_api import (
    ANSWER_TOKENS,
    ColumnEnd,
    ColumnError,
    ColumnPiece,
    CompareRequest,
    Comparison,
    check_limits,
)
from loraland.serving.openapi import answers, body
from loraland.serving.ordering import order_of
from loraland.serving.orders import Order
from loraland.serving.service import Service
from loraland.serving.wire import (
    DONE,
    EventStream,
    client_left,
    event,
    new_id,
    read,
    unless_client_leaves,
)


def add_compare_route(app: FastAPI, service: Service) -> None:
    """Add the endpoint to an application."""

    @app.post(
        "/v1/compare",
        tags=["Comparison"],
        openapi_extra=body(app, CompareRequest),
        responses=answers(app, Comparison, events=[ColumnPiece, ColumnEnd, ColumnError]),
        response_model=None,
    )
    async def compare(request: Request) -> Response:
        """Ask 2 to 8 models the same, in the same batch; a model that fails costs no other."""
        asked = read_body(CompareRequest, await read(request, service.limits.body_bytes))
        check_limits(asked, service.limits.new_tokens)
        orders = await _orders(service, asked)
        if asked.stream:
            parts = compared(service, orders)
            return EventStream(_told(parts), parts)
        answer = await unless_client_leaves(request, comparison(service, orders))
        return client_left() if answer is None else JSONResponse(answer.model_dump())


async def _orders(service: Service, asked: CompareRequest) -> list[Order]:
    """An order for each model. Raises what the first unknown name raises."""
    names = await asyncio.gather(*map(service.directory.resolve, asked.models))
    limits = service.limits
    return [
        order_of(
            asked,
            f"cmpr-{new_id()}",
            name,
            (asked.asked,),
            most_new_tokens=limits.new_tokens,
            max_new_tokens=asked.wished_tokens or min(ANSWER_TOKENS, limits.new_tokens),
            whole=not asked.stream,
        )
        for name in names
    ]


async def _told(parts: AsyncGenerator[ColumnEvent, None]) -> AsyncGenerator[str, None]:
    async with aclosing(parts):
        async for part in parts:
            yield event(part.model_dump_json())
    yield DONE
