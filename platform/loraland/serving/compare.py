"""Asks several models the same at once, so that they share batches, and merges what they say.

A column that fails ends alone. Times are taken here, where a client waits. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from loraland.errors import LoraLandError
from loraland.serving.compare_api import (
    ColumnAnswer,
    ColumnEnd,
    ColumnError,
    ColumnPiece,
    Comparison,
)
from loraland.serving.openai_answers import usage_of
from loraland.serving.openai_api import error_body
from loraland.serving.openapi import ErrorDetail
from loraland.serving.orders import End, Order
from loraland.serving.service import Service

logger = logging.getLogger(__name__)

ColumnEvent = ColumnPiece | ColumnEnd | ColumnError


async def compared(service: Service, orders: Sequence[Order]) -> AsyncGenerator[ColumnEvent, None]:
    """What all orders' answers grow by, as it comes; each column ends with an end or an error.

    All are submitted before the first event. Closing it cancels those that are under way.
    """
    events: asyncio.Queue[ColumnEvent] = asyncio.Queue()
    columns = [
        asyncio.create_task(_column(service, index, order, events))
        for index, order in enumerate(orders)
    ]
    try:
        under_way = len(columns)
        while under_way:
            event = await events.get()
            under_way -= not isinstance(event, ColumnPiece)
            yield event
    finally:
        for column in columns:
            column.cancel()
        await asyncio.gather(*columns, return_exceptions=True)


async def comparison(service: Service, orders: Sequence[Order]) -> Comparison:
    """All answers, when all have ended."""
    texts: dict[int, list[str]] = {index: [] for index in range(len(orders))}
    ended: dict[int, ColumnAnswer | ColumnError] = {}
    async with aclosing(compared(service, orders)) as events:
        async for event in events:
            if isinstance(event, ColumnPiece):
                texts[event.index].append(event.text)
            elif isinstance(event, ColumnEnd):
                text = "".join(texts[event.index])
                ended[event.index] = ColumnAnswer(**event.model_dump(), text=text)
            else:
                ended[event.index] = event
    return Comparison(answers=[ended[index] for index in range(len(orders))])


async def _column(
    service: Service, index: int, order: Order, events: asyncio.Queue[ColumnEvent]
) -> None:
    model = str(order.model)
    watch, held = _Watch(), ""  # of a column that may begin anew, nothing is told before its end
    try:
        async with aclosing(service.complete(order)) as parts:
            async for part in parts:
                watch.note()
                if "text" in part:
                    held = part["text"] if "again" in part else held + part["text"]
                if held and ("text" not in part or not order.whole):
                    events.put_nowait(ColumnPiece(index=index, model=model, text=held))
                    held = ""
                if "text" not in part:
                    events.put_nowait(_end(index, order, part, watch))
    except LoraLandError as error:
        if error.status >= 500:
            logger.error("a column failed: %s: %s", error.code, error.message)
        events.put_nowait(_failed(index, model, error))
    except Exception as error:
        logger.error("a column failed unexpectedly", exc_info=error)
        told = LoraLandError("the server failed unexpectedly; its log has the reason")
        events.put_nowait(_failed(index, model, told))


class _Watch:
    """When a column began, and when its first and its latest part came."""

    def __init__(self) -> None:
        self._submitted = time.perf_counter()
        self._first: float | None = None
        self._latest = self._submitted

    def note(self) -> None:
        self._latest = time.perf_counter()
        self._first = self._latest if self._first is None else self._first

    @property
    def ttft_ms(self) -> float:
        return ((self._first or self._latest) - self._submitted) * 1000

    def tokens_per_s(self, tokens: int) -> float:
        return tokens / (self._latest - self._submitted)


def _end(index: int, order: Order, end: End, watch: _Watch) -> ColumnEnd:
    return ColumnEnd(
        index=index,
        model=str(order.model),
        finish_reason=end["finish_reason"],
        usage=usage_of(order, {0: end["prompt_tokens"]}, end["generated_tokens"]),
        ttft_ms=watch.ttft_ms,
        tokens_per_s=watch.tokens_per_s(end["generated_tokens"]),
    )


def _failed(index: int, model: str, error: LoraLandError) -> ColumnError:
    detail: dict[str, Any] = error_body(error)["error"]
    return ColumnError(index=index, model=model, error=ErrorDetail(**detail))
