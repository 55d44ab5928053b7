"""An application over a service that plays a script, behind keys and limits on a clock of ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from loraland.adapters.names import ModelName
from loraland.errors import UnknownModel, did_you_mean
from loraland.serving.access import audit
from loraland.serving.access.gate import Access
from loraland.serving.access.keeper import Keeper
from loraland.serving.access.ring import KeyRing
from loraland.serving.access.store import KeyStore
from loraland.serving.config import Limits
from loraland.serving.routes import create_app
from loraland.storage import Storage


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


class HereLimiter:
    """A keeper in this process."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper, self.lives = keeper, {}

    async def claim(self, claim, allowance):
        reply = await self.keeper.claim(claim, allowance)
        self.lives[claim.id] = reply.life
        return reply

    def settle(self, claim, allowance, tokens):
        life = self.lives.pop(claim.id)
        self.last = asyncio.get_running_loop().create_task(
            self.keeper.settle(claim, allowance, tokens, life)
        )


@dataclass(frozen=True)
class FakeEntry:
    """What the guard reads of an entry of the registry."""

    name: ModelName
    aliases: tuple[str, ...]

    @property
    def card(self) -> Any:
        return SimpleNamespace(
            base=self.name.base, task=self.name.task, version=self.name.version,
            created="2026-11-01T00:00:00+00:00", scores=[],
        )  # fmt: skip


VERSIONS = {"tiny/dates": "0123456789ab", "tiny/secret": "ba9876543210"}


class Names:
    """A directory of one base and two adapters, each with the alias latest."""

    bases = ("tiny",)

    async def resolve(self, text):
        name = ModelName.parse(text)
        if name.task is None and name.base == "tiny":
            return name
        version = VERSIONS.get(name.adapter)
        if version is None or (name.version or version) != version:
            raise UnknownModel(f"no model is called '{text}'; {did_you_mean(text, VERSIONS)}")
        return name.at(version)

    async def entries(self):
        return [
            FakeEntry(ModelName.parse(f"{name}@{version}"), ("latest",))
            for name, version in VERSIONS.items()
        ]


@dataclass
class Script:
    """A service whose answers are given, and slow where a test wants it."""

    limits: Limits = field(default_factory=Limits)
    parts: list[Any] = field(default_factory=list)
    pause_s: float = 0.0  # before each part
    error: Exception | None = None
    directory: Names = field(default_factory=Names)
    orders: list[Any] = field(default_factory=list)
    closed: int = 0

    async def complete(self, order):
        self.orders.append(order)
        try:
            for part in self.parts:
                await asyncio.sleep(self.pause_s)
                yield part
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1


def answer(generated: int = 2, prompt: int = 3) -> list[Any]:
    end = {"choice": 0, "finish_reason": "stop", "prompt_tokens": prompt}
    return [{"choice": 0, "text": "ab"}, end | {"generated_tokens": generated}]


@dataclass
class Shop:
    """The application and all that stands around it."""

    storage: Storage
    clock: Clock
    service: Script
    gateways: int = 1

    def __post_init__(self) -> None:
        self.keys = KeyStore(self.storage)
        self.limiter = HereLimiter(Keeper(self.storage, self.clock, self.clock))
        self.apps = [
            create_app(
                self.service,
                # A ring for which ten seconds pass between requests, so that it knows every key.
                Access(
                    self.service.limits,
                    KeyRing(self.keys, count(step=10).__next__),
                    self.limiter,
                ),
            )
            for _ in range(self.gateways)
        ]
        self.clock.now += 60  # buckets have filled

    def client(self, key: Any = None, gateway: int = 0) -> TestClient:
        headers = {} if key is None else {"authorization": f"Bearer {getattr(key, 'text', key)}"}
        return TestClient(self.apps[gateway], headers=headers, raise_server_exceptions=False)

    def ask(self, key: Any, gateway: int = 0, **fields: Any) -> Any:
        body = {"model": "tiny/dates", "prompt": "hello", "max_tokens": 10} | fields
        return self.client(key, gateway).post("/v1/completions", json=body)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new_shop(tmp_path, clock) -> Callable[..., Shop]:
    def make(gateways: int = 1, **service: Any) -> Shop:
        script = Script(**({"parts": answer()} | service))
        return Shop(Storage.open(str(tmp_path / "storage")), clock, script, gateways)

    return make


@pytest.fixture
def answer_of() -> Callable[..., list[Any]]:
    return answer


@pytest.fixture
def audited(caplog):
    """The audit lines written so far."""
    import json

    caplog.set_level(logging.INFO, audit.logger.name)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(r.message) for r in caplog.records if r.name == audit.logger.name]

    return lines
