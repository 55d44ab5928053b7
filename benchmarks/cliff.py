"""Time to first token, hits and misses apart, as the working set grows past the slots.

    python -m benchmarks.cliff --out benchmarks/results/cliff.json --plot docs/cliff.svg

The embedded base in fp32, requests of 100 tokens of prompt and 16 of answer that arrive at random
(Poisson) below what the machine can take, for adapters of rank 8. A hit finds its adapter in a slot
when it is submitted. Host memory holds all adapters, or none (each miss reads a file). Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.random_adapters import write_random_adapters
from benchmarks.report import report
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.bases.products import speed_up
from loraland.engine.batched import BatchedEngine
from loraland.engine.protocol import Request, Sampling, Token
from loraland.engine.settings import EngineLimits
from loraland.engine.tiers import Tier
from loraland.loadtest.cliff import Line
from loraland.loadtest.cliff_svg import Panel, draw

SLOTS, RANK, PROMPT, NEW = 8, 8, 100, 16
SHARES = (0.5, 1, 2, 4)  # of the slots


async def measure(
    base: LoadedBase,
    folders: dict[str, Path],
    working_set: int,
    zipf: bool,
    host_bytes: int,
    *,
    requests: int,
    rate: float,
) -> dict[str, Any]:
    """One point of the curve, on an engine of its own."""
    names = list(folders)[:working_set]
    chance = random.Random(working_set)
    weights = [1 / rank for rank in range(1, working_set + 1)] if zipf else [1.0] * working_set
    asked = chance.choices(names, weights, k=requests)
    engine = BatchedEngine.of(base, EngineLimits(slots=SLOTS, host_bytes=host_bytes))
    times: dict[bool, list[float]] = {True: [], False: []}
    steps: list[float] = []  # between two tokens of a row

    async def one(number: int, adapter: str) -> None:
        prompt = tuple(chance.randrange(3, 49_000) for _ in range(PROMPT))
        tiers = {resident.version: resident.tier for resident in engine.residency()}
        begun = before = time.perf_counter()
        request = Request(f"r{number}", prompt, adapter, Sampling(max_new_tokens=NEW))
        async for event in engine.submit(request):
            now = time.perf_counter()
            if isinstance(event, Token) and event.index > 0:
                steps.append((now - before) * 1000)
            elif isinstance(event, Token) and number >= SLOTS:  # first ones find an empty house
                times[tiers[adapter] is Tier.DEVICE].append((now - begun) * 1000)
            before = now

    try:
        for name in names:
            await engine.load(name, folders[name])
        under_way = []
        for number, adapter in enumerate(asked):
            under_way.append(asyncio.create_task(one(number, adapter)))
            await asyncio.sleep(chance.expovariate(rate))
        await asyncio.gather(*under_way)
        residents, stats = engine.residency(), engine.stats()
    finally:
        await engine.close()
    loads = [r.load_ms + (r.read_ms if host_bytes == 0 else 0) for r in residents if r.loads]
    return {
        "share_of_slots": working_set / SLOTS,
        "popularity": "zipf" if zipf else "uniform",
        "host": "none" if host_bytes == 0 else "all",
        "hit": _figures(times[True]),
        "miss": _figures(times[False]),
        "step_ms": round(statistics.median(steps), 1),
        "load_ms": round(statistics.median(loads), 1) if loads else None,
        "evictions": sum(resident.evictions for resident in residents),
        "pass_tokens": round(stats.pass_tokens / max(1, stats.passes), 1),
    }


def _figures(ms: list[float]) -> dict[str, Any]:
    if not ms:
        return {"requests": 0}
    ordered = sorted(ms)
    return {
        "requests": len(ms),
        "p50_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
    }


def panels(points: list[dict[str, Any]]) -> list[Panel]:
    """Median time to first token over the working set, hits and misses apart."""
    drawn = []
    for popularity in ("uniform", "zipf"):
        lines = []
        for host, place in (("all", "from host memory"), ("none", "from disk")):
            chosen = [p for p in points if p["popularity"] == popularity and p["host"] == host]
            for kind in ("hit", "miss"):
                curve = [
                    (p["share_of_slots"], p[kind]["p50_ms"]) for p in chosen if p[kind]["requests"]
                ]
                lines.append(Line(f"{kind}, {place}", kind, host == "none", tuple(curve)))
        drawn.append(Panel(popularity, lines))
    return drawn


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=48, help="for each point")
    parser.add_argument("--rate", type=float, default=2.5, help="requests a second")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    base = load_base(find_base("smollm2-135m"), "fp32")
    speed_up(base)
    points = []
    with tempfile.TemporaryDirectory() as place:
        count = int(max(SHARES) * SLOTS)
        folders = write_random_adapters(base.model, Path(place), count, rank=RANK)
        for host_bytes in (1 << 30, 0):
            for zipf in (False, True):
                for share in SHARES:
                    point = asyncio.run(
                        measure(
                            base, folders, int(share * SLOTS), zipf, host_bytes,
                            requests=options.requests, rate=options.rate,
                        )
                    )  # fmt: skip
                    print(point, file=sys.stderr, flush=True)
                    points.append(point)
    found = {
        "setting": f"smollm2-135m fp32, {SLOTS} slots, rank {RANK}, {PROMPT}+{NEW} tokens, "
        f"{options.rate} requests a second, {options.requests} each",
        "points": points,
    }
    report("cliff", found, options.out)
    if options.plot:
        options.plot.write_text(draw(panels(points), "first token, median ms"))


if __name__ == "__main__":
    main()
