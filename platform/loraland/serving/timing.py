"""What a client waits for, measured on the way of an order's parts: told to a meter when each ends.

Knows parts and a clock; nothing of engines, metrics or Ray.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal, Protocol

from loraland.engine.tiers import Tier
from loraland.serving.orders import End, Order, Part

Found = Literal["base", "hit", "miss"]  # whether the adapter was on the device, or none was asked


class Meter(Protocol):
    """Where measurements go."""

    def first_token(self, found: Found, ms: float) -> None:
        """Milliseconds from an order's arrival to the first text of all its answers."""
        ...

    def answer(self, model: str, end: End, between_ms: float | None) -> None:
        """An answer ended; `between_ms` is its mean time between tokens, None below two."""
        ...


async def timed(
    order: Order,
    parts: AsyncGenerator[Part, None],
    meter: Meter,
    clock: Callable[[], float] = time.perf_counter,
) -> AsyncGenerator[Part, None]:
    """The parts as they are. Closing it closes `parts`."""
    began, first, begun = clock(), True, dict[int, float]()
    model = str(order.model)
    async with aclosing(parts):
        async for part in parts:
            now = clock()
            if first:
                meter.first_token(_found(order, part), (now - began) * 1000)
                first = False
            since = begun.setdefault(part["choice"], now)
            if "text" not in part:
                more = part["generated_tokens"] - 1
                meter.answer(model, part, (now - since) * 1000 / more if more > 0 else None)
            yield part


def _found(order: Order, part: Part) -> Found:
    if order.model.task is None:
        return "base"
    return "hit" if part.get("tier") == Tier.DEVICE else "miss"
