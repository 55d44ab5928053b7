"""From wishes to a load test: what the server has, what is asked of it, how it ends.

Where a wish does not fit another or the server, the error says so before load is sent.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loraland.errors import EndpointRefused, InvalidConfiguration
from loraland.loadtest.against import AgainstBase, against_base
from loraland.loadtest.client import Client
from loraland.loadtest.cliff import Point, shares_of, working_sets
from loraland.loadtest.course import MOST_REQUESTS, Course, check_rate
from loraland.loadtest.mix import Mix
from loraland.loadtest.report import document
from loraland.loadtest.run import LoadTest, Measured, Schedule, Watch, pairs_of
from loraland.loadtest.schedule import (
    Wordings,
    plan,
    plan_trace,
    poisson,
    random_tokens,
    whenever_free,
)
from loraland.loadtest.server import Listed, listed, slots_of
from loraland.loadtest.trace import TraceRow, read_trace
from loraland.loadtest.wordings import task_wordings, vocabulary_of

CLIENTS, REQUESTS, NEW_TOKENS, WARM_UP = 32, 256, 64, 32  # defaults
MOST_SPEED = 10_000.0
LISTED_TRIES, LISTED_PAUSE_S = 20, 0.5  # until a server must know a new adapter


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody wants of a load test, as `loraland loadtest --help` explains it."""

    url: str
    base: str | None = None
    adapters: int | None = None
    models: tuple[str, ...] = ()
    zipf: float = 0.0
    rate: float | None = None
    clients: int | None = None
    requests: int | None = None
    seconds: float | None = None
    warm_up: int | None = None
    prompt_tokens: int = 100
    new_tokens: int | None = None
    vocabulary: int | None = None
    task: str | None = None
    trace: Path | None = None
    speed: float = 1.0
    seed: int = 0
    timeout_s: float = 300.0
    against_base: bool = False
    rounds: int = 1
    cliff: str | None = None
    slots: int | None = None
    cold: bool = False
    synthetic: int | None = None

    def __post_init__(self) -> None:
        if mistakes := list(self._conflicts()):
            raise InvalidConfiguration("; ".join(mistakes))

    def _conflicts(self) -> Iterator[str]:
        loops = [self.rate is not None, self.clients is not None, self.trace is not None]
        if sum(loops) > 1:
            yield "give one of rate (open loop), clients (closed loop) and trace"
        if self.task is not None and self.trace is not None:
            yield "a trace has lengths of its own; leave task out"
        if self.cliff is not None and (self.against_base or self.trace or self.rounds > 1):
            yield "a cliff is measured without against_base, trace and rounds"
        if bool(self.models) + (self.adapters is not None) + (self.synthetic is not None) > 1:
            yield "give one of models, adapters and synthetic"
        if not 0 < self.speed <= MOST_SPEED:
            yield f"speed is {self.speed:g}; give more than 0, at most {MOST_SPEED:g}"
        if not self.url.startswith(("http://", "https://")):
            yield "the server's URL begins with http:// or https://"

    def course(self) -> Course:
        """Loop, ends and limits. Raises InvalidConfiguration."""
        open_loop = self.rate is not None or self.trace is not None
        requests = self.requests
        if requests is None and self.seconds is None:
            requests = REQUESTS if self.trace is None else MOST_REQUESTS
        return Course(
            clients=None if open_loop else self.clients or CLIENTS,
            requests=requests,
            seconds=self.seconds,
            warm_up=self._warm_up(requests) if self.warm_up is None else self.warm_up,
            timeout_s=self.timeout_s,
        )

    def _warm_up(self, requests: int | None) -> int:
        """By default a quarter of the requests, at most WARM_UP; none of a trace."""
        if self.trace is not None:
            return 0
        return WARM_UP if requests is None else min(WARM_UP, requests // 4)


class Found(NamedTuple):
    """What a load test gave."""

    setting: dict[str, Any]
    runs: list[Measured]
    points: list[Point]
    against: AgainstBase | None
    interrupted: bool

    def document(self, wishes: Wishes) -> dict[str, Any]:
        """The report as JSON values."""
        return document(
            wishes.url,
            self.setting,
            runs=self.runs,
            against=self.against,
            points=self.points,
            interrupted=self.interrupted,
        )


def base_of(wishes: Wishes, key: str | None) -> str:
    """The base that a server will be tested on. Raises what `Client.look` raises, UnknownModel."""

    async def look() -> str:
        async with Client(wishes.url, key) as client:
            return (await _listed(client)).base(wishes.base)

    return wishes.base or asyncio.run(look())


def run_command(
    wishes: Wishes,
    key: str | None,
    synthetic: tuple[str, ...],
    on_run: Callable[[str], None],
    on_outcome: Callable[[bool], None],
) -> Found:
    """Do what is wished; `synthetic` adapters were made for it. SIGINT ends it with what there is.

    `on_run` is told each run, `on_outcome` whether a request failed. Raises InvalidConfiguration,
    UnknownModel, EndpointUnavailable, EndpointRefused, EndpointGarbled, and errors of a task.
    """

    async def run() -> Found:
        watch = Watch(on_run=on_run, on_outcome=lambda one: on_outcome(one.error is not None))
        loop = asyncio.get_running_loop()

        def stop() -> None:
            watch.stop.set()
            loop.remove_signal_handler(signal.SIGINT)  # the second one ends the process

        with suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
            loop.add_signal_handler(signal.SIGINT, stop)
        async with Client(wishes.url, key, wishes.timeout_s) as client:
            return await _run(wishes, client, synthetic, watch)

    return asyncio.run(run())


async def _run(wishes: Wishes, client: Client, synthetic: tuple[str, ...], watch: Watch) -> Found:
    course = wishes.course()  # mistakes of the wishes are told before the server is asked
    shares = None if wishes.cliff is None else shares_of(wishes.cliff)
    rows = None if wishes.trace is None else read_trace(wishes.trace)
    shown = await _listed(client)
    base = shown.base(wishes.base)
    if synthetic:
        await _wait_for(client, synthetic[0])
    mix = Mix.of(_models(wishes, shown, base, synthetic, rows), wishes.zipf)
    schedule = _schedule(wishes, base, rows)
    test = LoadTest(client, mix, schedule, course, wishes.seed, watch)
    setting = _setting(wishes, base, mix, course)
    runs, points = list[Measured](), list[Point]()
    if shares is not None:
        slots = wishes.slots or await _slots(client, base)
        sets = working_sets(shares, slots, len(mix.models))
        setting |= {"slots": slots}
        points = await test.cliff(sets, wishes.cold)
    else:
        if not wishes.cold:
            await test.touch(mix)
        runs = await test.rounds(wishes.rounds, base if wishes.against_base else None)
    against = against_base(*pairs_of(runs)) if wishes.against_base else None
    return Found(setting, runs, points, against, watch.stop.is_set())


async def _listed(client: Client) -> Listed:
    body = await client.look("/v1/models")
    if body is None:
        raise EndpointRefused("the server has no /v1/models; is the URL its root?")
    return listed(body)


async def _slots(client: Client, base: str) -> int:
    slots = slots_of(await client.look("/v1/fleet"), base)
    if slots is None:
        raise InvalidConfiguration("the server does not tell its slots; give them with --slots")
    return slots


async def _wait_for(client: Client, name: str) -> None:
    for _ in range(LISTED_TRIES):
        if await client.look(f"/v1/models/{name}") is not None:
            return
        await asyncio.sleep(LISTED_PAUSE_S)
    raise InvalidConfiguration(
        f"the server does not see '{name}', which was just published; set LORALAND_STORAGE to "
        "the storage that the server uses"
    )


def _models(
    wishes: Wishes,
    shown: Listed,
    base: str,
    synthetic: tuple[str, ...],
    rows: list[TraceRow] | None,
) -> tuple[str, ...]:
    """The models to ask, the most popular first. Raises InvalidConfiguration."""
    if rows is not None:
        return tuple(dict.fromkeys(_named(base)(row.adapter) for row in rows))
    if wishes.models or synthetic:
        return wishes.models or synthetic
    if wishes.adapters == 0:
        return (base,)
    there = shown.of(base)
    wanted = len(there) if wishes.adapters is None else wishes.adapters
    if not there or wanted > len(there):
        raise InvalidConfiguration(
            f"the server has {len(there)} adapters for {base}; make some with --synthetic "
            f"{wanted or 25}, or test the base alone with --adapters 0"
        )
    return there[:wanted]


def _schedule(wishes: Wishes, base: str, rows: list[TraceRow] | None) -> Schedule:
    vocabulary = wishes.vocabulary or vocabulary_of(base)
    if rows is not None:
        return lambda _, seed: plan_trace(rows, _named(base), vocabulary, seed, wishes.speed)
    wordings = _wordings(wishes, base, vocabulary)
    if wishes.rate is None:
        return lambda mix, seed: plan(whenever_free(), mix, wordings, seed)
    rate = check_rate(wishes.rate)
    return lambda mix, seed: plan(poisson(rate, seed), mix, wordings, seed)


def _wordings(wishes: Wishes, base: str, vocabulary: int) -> Wordings:
    if wishes.task is not None:
        return task_wordings(wishes.task, base, wishes.new_tokens)
    return random_tokens(wishes.prompt_tokens, wishes.new_tokens or NEW_TOKENS, vocabulary)


def _named(base: str) -> Callable[[str], str]:
    def name(adapter: str) -> str:
        if adapter in ("", base):
            return base
        return adapter if "/" in adapter else f"{base}/{adapter}"

    return name


def _setting(wishes: Wishes, base: str, mix: Mix, course: Course) -> dict[str, Any]:
    """What was asked for, as it came out."""
    left_out = {"url", "models", "adapters", "trace", "base"}
    asked = {name: value for name, value in asdict(wishes).items() if name not in left_out}
    trace = None if wishes.trace is None else wishes.trace.name
    return {**asked, **asdict(course), "base": base, "models": list(mix.models), "trace": trace}
