"""What the client of `loraland loadtest` itself takes: CPU time per token, against a stub server.

    python -m benchmarks.loadtest_client --out benchmarks/results/loadtest_client.json

A process of its own sends scripted streams, an event for each token, as fast as it can; 32 clients
read them. Beside our client, httpx's (which openai's uses) with the same reading of events. Prints
one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx2
from aiohttp import web

from benchmarks.report import Figures, report
from loraland.loadtest.client import Client
from loraland.loadtest.course import Course
from loraland.loadtest.driver import Ask, drive
from loraland.loadtest.events import EventReader
from loraland.loadtest.mix import Mix
from loraland.loadtest.outcome import Outcome
from loraland.loadtest.schedule import Planned, plan, random_tokens, whenever_free

CLIENTS, PROMPT, NEW = 32, 100, 64


def serve(told: Connection) -> None:
    """Answer every request with `NEW` tokens; tells its port first."""
    asyncio.run(_serve(told))


async def _serve(told: Connection) -> None:
    head = {"id": "cmpl-" + "0" * 32, "object": "text_completion", "created": 1, "model": "stub"}
    choice = {"index": 0, "logprobs": None}
    piece = _event(head | {"choices": [choice | {"text": " word", "finish_reason": None}]})
    end = _event(head | {"choices": [choice | {"text": "", "finish_reason": "length"}]})
    counts = {"prompt_tokens": PROMPT, "completion_tokens": NEW, "total_tokens": PROMPT + NEW}
    last = _event(head | {"choices": [], "usage": counts}) + b"data: [DONE]\n\n"

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(NEW):
            await response.write(piece)
            await asyncio.sleep(0)  # so that answers alternate, a token each
        await response.write(end)
        await response.write(last)
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    told.send(runner.addresses[0][1])
    await asyncio.Event().wait()


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class HttpxClient:
    """The same request by httpx, for comparison."""

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=CLIENTS)
        self._url, self._http = url, httpx2.AsyncClient(limits=limits, timeout=None)

    async def ask(self, planned: Planned, due_s: float) -> Outcome:
        """Read an answer to its end."""
        body = {"model": planned.model, "prompt": planned.prompt, "max_tokens": NEW, "stream": True}
        events, tokens = EventReader(), 0
        async with self._http.stream("POST", f"{self._url}/v1/completions", json=body) as response:
            async for chunk in response.aiter_raw():
                tokens += sum(told.text for told in events.push(chunk))
        now_s = time.perf_counter()
        return Outcome(
            planned.number, planned.model, due_s, due_s, now_s, now_s, generated_tokens=tokens
        )


async def measure(ask: Ask, requests: int) -> tuple[float, float]:
    """CPU microseconds of this process for each token, and tokens per second."""
    schedule: Iterator[Planned] = plan(
        whenever_free(), Mix.of(["stub"]), random_tokens(PROMPT, NEW, 49_000), 0
    )
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    run = await drive(ask, schedule, Course(clients=CLIENTS, requests=requests))
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    assert {one.error for one in run.outcomes} == {None}
    tokens = sum(one.generated_tokens for one in run.outcomes)
    assert tokens == requests * NEW
    return cpu_s * 1e6 / tokens, tokens / wall_s


async def rounds(url: str, count: int, requests: int, figures: Figures) -> None:
    """Both clients, in turns, after one unmeasured wave each."""
    async with Client(url) as ours:
        ways: dict[str, Ask] = {"ours": ours.ask, "httpx": HttpxClient(url).ask}
        for ask in ways.values():
            await measure(ask, CLIENTS)
        for number in range(count):
            for name in sorted(ways, reverse=bool(number % 2)):
                cpu_us, tps = await measure(ways[name], requests)
                figures.note(f"{name}_cpu_us_per_token", cpu_us)
                figures.note(f"{name}_tps", tps)


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=512, help="for each measurement")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    figures = Figures()
    try:
        url = f"http://127.0.0.1:{ours.recv()}"
        asyncio.run(rounds(url, options.rounds, options.requests, figures))
    finally:
        server.terminate()
        server.join()
    ratios = {"httpx_over_ours_cpu": ("httpx_cpu_us_per_token", "ours_cpu_us_per_token")}
    setting = f"{CLIENTS} clients, {PROMPT}+{NEW} tokens, an event for each token"
    report("loadtest_client", {"setting": setting, **figures.summary(ratios, options.rounds)},
           options.out)  # fmt: skip


if __name__ == "__main__":
    main()
