"""Generated tokens per second through HTTP beside the engine alone, in one run on one machine.

    python -m benchmarks.http_overhead --rounds 2 --out benchmarks/results/http_overhead.json

The embedded base in fp32, 25 adapters of rank 8 on q_proj and v_proj, 32 closed-loop clients, 100
tokens of prompt and at most 64 of answer, greedy. The engine alone is asked in this process; the
client of `loraland loadtest` sends the same schedule over HTTP to the application on this machine.
Both are warm, and take turns; the ratio is the median of the rounds'. Beside it stand which
process used how much CPU, and how many passes of the model a token took: requests that come over
HTTP come one by one, and their batches fill later. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil

from benchmarks.report import Figures, report
from loraland import settings
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.inference import prepare_for_inference
from loraland.bases.loading import load_base
from loraland.cluster import ray_cluster
from loraland.engine.making import make_engine
from loraland.engine.protocol import Engine, Finished, Request, Sampling, Token
from loraland.engine.text import stop_token_ids
from loraland.loadtest.client import Client
from loraland.loadtest.course import Course
from loraland.loadtest.driver import Ask, drive
from loraland.loadtest.mix import Mix
from loraland.loadtest.outcome import Outcome
from loraland.loadtest.report import plain
from loraland.loadtest.schedule import Planned, plan, random_tokens, whenever_free
from loraland.loadtest.summary import figures
from loraland.loadtest.synthetic import synthetic_adapters
from loraland.serving.config import BaseSettings
from loraland.serving.local import running_app
from loraland.serving.replica import limits_of
from loraland.storage import Storage

BASE, CLIENTS, PROMPT, NEW, ADAPTERS, RANK = "smollm2-135m", 32, 100, 64, 25, 8
ROLES = {
    "ray::ServeReplica:lora-land:gateway": "gateway",
    f"ray::ServeReplica:lora-land:base-{BASE}": "replica",
    "ray::ProxyActor": "proxy",
    "raylet": "raylet",
    "gcs_server": "gcs",
}


class Alone:
    """The engine in this process, with the server's settings, asked as the client asks."""

    def __init__(self, names: list[ModelName], registry: Registry, place: Path) -> None:
        self.base = load_base(BASE, "fp32", "cpu")
        prepare_for_inference(self.base)
        self._stops = stop_token_ids(self.base.tokenizer, self.base.model)
        self._folders = {str(name): registry.fetch(name, place) for name in names}
        self._engine: Engine | None = None

    async def start(self) -> None:
        """Make the engine and load every adapter."""
        self._engine = make_engine(self.base, limits_of(BaseSettings(name=BASE, precision="fp32")))
        for name, folder in self._folders.items():
            await self._engine.load(name, folder)

    async def ask(self, planned: Planned, due_s: float) -> Outcome:
        """One request. Raises what the engine raises."""
        assert self._engine is not None and not isinstance(planned.prompt, str)
        sampling = Sampling(max_new_tokens=planned.new_tokens, stop_token_ids=self._stops)
        request = Request(f"r{time.monotonic_ns()}", planned.prompt, planned.model, sampling)
        first_s, tokens = None, 0
        async for event in self._engine.submit(request):
            if isinstance(event, Token) and first_s is None:
                first_s = time.perf_counter()
            elif isinstance(event, Finished):
                tokens = event.generated_tokens
        now_s = time.perf_counter()
        return Outcome(
            planned.number, planned.model, due_s, due_s, now_s, first_s or now_s,
            prompt_tokens=PROMPT, generated_tokens=tokens, asked_tokens=planned.new_tokens,
        )  # fmt: skip

    async def passes(self) -> int:
        """Passes of the model so far."""
        assert self._engine is not None
        return self._engine.stats().passes

    async def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None:
            await self._engine.close()


class Way(NamedTuple):
    """One of the two."""

    ask: Ask
    passes: Callable[[], Awaitable[int]]


async def passes_there(url: str) -> int:
    """Passes of the model so far, on all replicas of the server at `url`."""
    await asyncio.sleep(1.5)  # it answers from what it knew a second ago
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/fleet") as answer:
        bases = (await answer.json())["bases"]
    return sum(one["stats"]["passes"] for base in bases for one in base["replicas"])


class Bench:
    """Rounds over both ways."""

    def __init__(self, mix: Mix, vocabulary: int, requests: int) -> None:
        self._mix, self._words = mix, random_tokens(PROMPT, NEW, vocabulary)
        self._requests = requests
        self.figures = Figures()
        self.last: dict[str, Any] = {}
        self.cpu_s: dict[str, dict[str, float]] = {}
        self.tokens: dict[str, int] = defaultdict(int)
        self.passes: dict[str, int] = defaultdict(int)

    def _schedule(self, seed: int) -> Iterator[Planned]:
        return plan(whenever_free(), self._mix, self._words, seed)

    async def warm(self, ask: Ask, seed: int) -> None:
        """Every adapter once, then a wave of all kinds of rows."""
        touch = (Planned(n, None, name, (7, 8, 9), 1) for n, name in enumerate(self._mix.models))
        await drive(ask, touch, Course(clients=8, requests=len(self._mix.models)))
        await drive(ask, self._schedule(seed), Course(clients=CLIENTS, requests=CLIENTS))

    async def run(self, name: str, way: Way, seed: int) -> None:
        """One measurement."""
        before, passes = cpu_seconds(), await way.passes()
        course = Course(clients=CLIENTS, requests=self._requests)
        found = figures(await drive(way.ask, self._schedule(seed), course))
        self.passes[name] += await way.passes() - passes
        if found.errors:
            sys.exit(f"{name}: {found.errors}")
        spent = {role: s - before.get(role, 0.0) for role, s in cpu_seconds().items()}
        total = self.cpu_s.setdefault(name, defaultdict(float))
        for role, seconds in spent.items():
            total[role] += seconds
        self.tokens[name] += found.generated_tokens
        self.figures.note(f"{name}_tps", found.tokens_per_s)
        self.last[name] = plain(found)


def cpu_seconds() -> dict[str, float]:
    """CPU seconds since their start of this process and of those it started, by role."""
    found: dict[str, float] = defaultdict(float)
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            times, command = process.cpu_times(), " ".join(process.cmdline()[:1])
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        known = (role for start, role in ROLES.items() if start in command)
        role = "self" if process == me else next(known, "other")
        found[role] += times.user + times.system
    return found


async def measure(bench: Bench, alone: Alone, url: str, rounds: int) -> None:
    """All rounds; in each alone, http, http, alone, so that a drift hits both."""
    await alone.start()
    try:
        async with Client(url) as client:
            ways = {
                "alone": Way(alone.ask, alone.passes),
                "http": Way(client.ask, partial(passes_there, url)),
            }
            for name, way in ways.items():
                print(f"warming {name}", file=sys.stderr, flush=True)
                await bench.warm(way.ask, seed=-1)
            for number in range(rounds):
                for turn, name in enumerate(("alone", "http", "http", "alone")):
                    # Both are asked the same two schedules.
                    await bench.run(name, ways[name], 2 * number + turn // 2)
    finally:
        await alone.close()


def summary(bench: Bench, rounds: int) -> dict[str, Any]:
    """What the line says."""
    latencies = {
        name: {key: last[key] for key in ("ttft", "per_token", "pause", "total", "client")}
        for name, last in bench.last.items()
    }
    total = {name: sum(s.values()) / bench.tokens[name] for name, s in bench.cpu_s.items()}
    ms_per_token = {
        name: {role: round(s * 1000 / bench.tokens[name], 3) for role, s in sorted(spent.items())}
        for name, spent in bench.cpu_s.items()
    }
    return {
        "setting": f"{BASE} fp32, {CLIENTS} closed-loop clients, {PROMPT}+{NEW} tokens, greedy, "
        f"{ADAPTERS} adapters of rank {RANK} on q_proj and v_proj",
        **bench.figures.summary({"http_over_alone": ("http_tps", "alone_tps")}, rounds),
        # What is left of the engine's throughput where CPU alone bounds it, as on this machine;
        # other users of the machine disturb it less than they disturb tokens per second.
        "cpu_alone_over_http": round(total["alone"] / total["http"], 3),
        "cpu_ms_per_token": ms_per_token,
        "tokens_per_pass": {
            name: round(bench.tokens[name] / passes, 2) for name, passes in bench.passes.items()
        },
        "latencies_of_last_round": latencies,
    }


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=64, help="for each measurement")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as place:
        os.environ[settings.STORAGE] = place  # of the replicas, which this process starts
        # Ray's workers give way to others, this process does not; here both are to be alike.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own name)
        registry = Registry(Storage.open(place))
        plain_base = load_base(BASE, "fp32", "cpu")
        with synthetic_adapters(registry, plain_base, ADAPTERS, rank=RANK, keep=True) as names:
            del plain_base
            alone = Alone(names, registry, Path(place) / "copies")
            vocabulary = alone.base.model.config.vocab_size
            bench = Bench(Mix.of([str(name) for name in names]), vocabulary, options.requests)
            with (
                ray_cluster(own=True),
                running_app(BASE, "fp32", "127.0.0.1", 0, (float(cores), 0.0)) as url,
            ):
                asyncio.run(measure(bench, alone, url, options.rounds))
    found = summary(bench, options.rounds)
    report("http_overhead", {**found, "course": asdict(Course(CLIENTS, options.requests))},
           options.out)  # fmt: skip


if __name__ == "__main__":
    main()
