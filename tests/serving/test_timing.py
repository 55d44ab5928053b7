"""What clients wait for, measured from parts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count

import pytest

from loraland.adapters.names import ModelName
from loraland.serving.orders import Order
from loraland.serving.timing import timed

ORDER = Order(
    id="o", model=ModelName.parse("tiny/dates@0123456789ab"), prompts=("a",), n=2,
    max_new_tokens=4, most_new_tokens=4, temperature=0.0, top_p=1.0, top_k=0, seed=None, stop=(),
)  # fmt: skip


class Meter:
    def __init__(self):
        self.first, self.answers = [], []

    def first_token(self, found, ms):
        self.first.append((found, ms))

    def answer(self, model, end, between_ms):
        self.answers.append((model, end["choice"], between_ms))


def end(choice, tokens):
    return {"choice": choice, "finish_reason": "stop", "generated_tokens": tokens}


def measure(order, *parts):
    async def run():
        async def source():
            for part in parts:
                yield part

        meter, ticks = Meter(), count()  # a second each time it is looked at
        seen = [part async for part in timed(order, source(), meter, lambda: float(next(ticks)))]
        assert seen == list(parts)
        return meter

    return asyncio.run(run())


@pytest.mark.parametrize(("tier", "found"), [("device", "hit"), ("host", "miss")])
def test_first_token_once_an_order_and_the_mean_between_tokens_once_an_answer(tier, found):
    meter = measure(
        ORDER,
        {"choice": 1, "text": "a", "tier": tier},
        {"choice": 0, "text": "a"},
        {"choice": 1, "text": "b"},
        end(1, 4),
        end(0, 1),
    )
    assert meter.first == [(found, 1000.0)]
    assert meter.answers == [(str(ORDER.model), 1, 1000.0), (str(ORDER.model), 0, None)]


def test_the_base_is_neither_hit_nor_miss():
    meter = measure(replace(ORDER, model=ModelName("tiny")), end(0, 0))
    assert meter.first == [("base", 1000.0)]
    assert meter.answers == [("tiny", 0, None)]
