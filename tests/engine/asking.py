"""What the engines' tests ask, and what transformers answers to it."""

from __future__ import annotations

import asyncio

import torch

from loraland.engine.protocol import Finished, Request, Sampling

PROMPTS = [(5, 9, 77, 130), (60,), (33, 44, 55, 66, 77, 88, 99, 111, 122), (200, 201)]


def ask(number, prompt, adapter=None, **sampling):
    return Request(
        f"r{number}", tuple(prompt), adapter, Sampling(**({"max_new_tokens": 8} | sampling))
    )


async def collect(stream):
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    assert [event.index for event in events[:-1]] == list(range(len(events) - 1))
    return [event.id for event in events[:-1]], events[-1]


async def gather(engine, requests):
    return await asyncio.gather(*[collect(engine.submit(request)) for request in requests])


def expected(model, prompt, tokens=8):
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()
