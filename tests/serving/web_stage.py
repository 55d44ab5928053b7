"""The web pages on a stage: a furnished storage, a service with a script, a real HTTP server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import uvicorn
from fastapi import FastAPI

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.engine.protocol import Stats
from loraland.engine.tiers import Resident, Tier
from loraland.errors import EngineFailed, InvalidKey, TrainingDiverged
from loraland.evaluation.samples import Sample, read_samples, row_of, write_samples
from loraland.matrix.cell import Cell
from loraland.matrix.ledger import COLLAPSED, Ledger
from loraland.matrix.space import load_space
from loraland.serving.access.gate import Access
from loraland.serving.access.permission import ANYONE
from loraland.serving.config import Limits
from loraland.serving.directory import Directory
from loraland.serving.orders import Order, Part, TokenSpan
from loraland.serving.routes import create_app
from loraland.serving.site_data import add_site
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from tests.report.fabricated import HOSTILE, finish, version_of

BASE = "smollm2-135m"
KEY = "a-key-that-opens"
OUTCOMES = "WRWRRRWRRWUWWRWRRRWR" * 2  # base, adapter; 20 items
SLOW, BROKEN, EVIL = "SLOW", "BROKEN", "EVIL"  # words of a prompt that ask for such an answer


def furnish(storage: Storage) -> None:
    """The embedded space, finished but for one failed cell, and some cells of the paper's."""
    *finished, failed = load_space("embedded").cells
    for number, cell in enumerate(finished):
        finish(storage, cell, OUTCOMES, marks=(COLLAPSED,) if number == 1 else ())
        _ask_real_items(storage, cell)
        Registry(storage).alias(f"{cell.label}@{version_of(cell)}", "latest")
    error = TrainingDiverged(f"the loss became NaN at update 7 {HOSTILE}")
    Ledger(storage).record_failure(failed, error, attempts=3)
    wanted = {"phi-2", "gemma-2b"}, {"boolq", "viggo", "drop"}
    for cell in load_space("paper").cells:
        if cell.base_name in wanted[0] and cell.task in wanted[1]:
            finish(storage, cell, OUTCOMES, text=HOSTILE if cell.task == "drop" else "")


def _ask_real_items(storage: Storage, cell: Cell) -> None:
    """Give a finished cell the prompts, rows and answers of its task's held-out items."""
    items = load_split(get_task(cell.task), "test", limit=len(OUTCOMES) // 2).items()
    folder = f"samples/{cell.base_name}/{cell.task}"
    for name in storage.names(folder):
        samples, stamp = read_samples(storage, f"{folder}/{name}")
        asked = [
            replace(
                sample,
                prompt=item.prompt,
                target=item.target,
                row=row_of(item),
                output=item.target if sample.score else f"I think {item.target[::-1]}",
                parsed=item.target if sample.score else sample.parsed,
            )
            for sample, item in zip(samples, items, strict=True)
        ]
        write_samples(storage, f"{folder}/{name}", asked, stamp)


class Player:
    """A service: an adapter knows the answers of its judged items, a base rambles."""

    def __init__(self, storage: Storage, pause_s: float = 0.0) -> None:
        self.limits, self.pause_s = Limits(), pause_s
        self.directory = Directory(Registry(storage), [BASE], cache_s=0.0)
        self.orders: list[Order] = []
        self.ended: list[str] = []  # models whose orders were closed before their end
        self.known = {s.prompt: s.target for s in _samples(storage)}

    async def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        self.orders.append(order)
        prompt = str(order.prompts[0])
        if BROKEN in prompt and order.model.task is not None:
            raise EngineFailed("the logits of this row were not numbers")
        tokens, done = 0, False
        try:
            for text in self._answer(order.model, prompt):
                await asyncio.sleep(self.pause_s)
                tokens += 1
                yield {"choice": 0, "text": text}
            done = True
        finally:
            if not done:
                self.ended.append(str(order.model))
        yield {
            "choice": 0,
            "finish_reason": "stop",
            "prompt_tokens": len(prompt) // 4,
            "generated_tokens": tokens,
        }

    def _answer(self, model: ModelName, prompt: str) -> Iterator[str]:
        if EVIL in prompt:
            yield HOSTILE
        elif SLOW in prompt:
            for number in range(100_000):
                yield f" {number}"
        elif model.task is None:
            yield from ("\n", "The", " answer", " is", "\n", "Explanation", ":")
        else:
            target = self.known.get(prompt, "what you asked for")
            yield from (" ", target[:3], target[3:], "\n", "Text: and so on")

    async def tokenize(self, base: str, text: str, special: bool) -> list[TokenSpan]:
        return [TokenSpan(id=n, text=word, start=0, stop=0) for n, word in enumerate(text.split())]


class OneKey:
    """A ring with one key."""

    async def caller(self, text: str) -> Any:
        if text != KEY:
            raise InvalidKey("this key is not known here")
        return ANYONE


def stage(storage: Storage, service: Player, *, keys: bool = False, fleet: bool = True) -> FastAPI:
    """The application with its pages."""
    app = create_app(service, Access(service.limits, OneKey() if keys else None))
    add_site(app, storage, service.directory)
    if fleet:
        _add_fleet(app)
    return app


def _add_fleet(app: FastAPI) -> None:
    turns = iter(range(1_000_000))

    @app.get("/v1/fleet")
    async def fleet() -> dict[str, Any]:
        return fleet_at(next(turns))

    app.router.routes.insert(0, app.router.routes.pop())


def fleet_at(turn: int) -> dict[str, Any]:
    """What two replicas tell at some turn, two seconds apart."""
    stats = Stats(
        requests=100 + 9 * turn, finished=90 + 9 * turn, prompt_tokens=4000 + 800 * turn,
        generated_tokens=2000 + 400 * turn + 60 * (turn % 5), waiting=turn % 4, running=6,
        reused_tokens=1500 + 300 * turn, blocks=2048, free_blocks=1500, slots=2, working_set=3,
        hits=80 + 8 * turn, misses=10 + turn, hit_ttft_ms=50.0 * (80 + 8 * turn),
        miss_ttft_ms=400.0 * (10 + turn),
    )  # fmt: skip
    residents = [
        Resident(f"{BASE}/{task}@{n:012x}", leases=n, size_bytes=9_400_000, tier=tier, slot=slot,
                 hits=40 - n, misses=n, loads=n, load_ms=3.2 * n, pinned=n == 1)
        for n, (task, tier, slot) in enumerate(
            [("dates", Tier.DEVICE, 1), ("topics", Tier.DEVICE, 2), ("sql", Tier.HOST, None)], 1
        )
    ]  # fmt: skip
    replicas = [
        {
            "replica": f"base-{BASE}#{number}",
            "node": "10.0.0.4",
            "device": "cpu",
            "stats": {**stats._asdict(), "ops": {}},
            "adapters": [resident._asdict() for resident in residents[: 3 - number]],
        }
        for number in range(2)
    ]
    at = f"2026-11-25T12:{turn // 30:02d}:{2 * turn % 60:02d}+00:00"
    return {"at": at, "bases": [{"base": BASE, "replicas": replicas}]}


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The URL of a server of the application, in a thread of its own."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join(timeout=20)


def _samples(storage: Storage) -> Iterator[Sample]:
    for path in storage.walk(f"samples/{BASE}"):
        yield from read_samples(storage, f"samples/{BASE}/{path}")[0]
