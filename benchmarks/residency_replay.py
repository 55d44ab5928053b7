"""Which policy keeps the right adapters: traces of requests replayed against the table.

No model and no clock: loads take what `Adapter` says they take. Prints one JSON line: per trace and
policy the share of requests that found their adapter on the device, and the milliseconds of loading
that a request had to wait for; beside them the most hits that any policy could have (Belady), and
the CPU time that planning one step takes on this machine.

    python -m benchmarks.residency_replay --adapters 200 --slots 16
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

from loraland.engine.eviction import POLICIES
from loraland.engine.residency import Residency, Tier
from loraland.matrix.provenance import git_state, hardware, package_versions

RANKS = (4, 8, 16, 32, 64)
BYTES_PER_RANK = 230_400  # q and v of the embedded base in fp32: 30 layers x 1,920 x 4
READ_MS, READ_BYTES_PER_MS = 4.0, 400_000  # opening and checking a file, then the disk
COPY_MS, COPY_BYTES_PER_MS = 0.5, 4_000_000  # from host memory into a slot


class Adapter(NamedTuple):
    """What a load of one adapter takes."""

    version: str
    size_bytes: int

    @property
    def read_ms(self) -> float:
        """From disk into host memory."""
        return READ_MS + self.size_bytes / READ_BYTES_PER_MS

    @property
    def copy_ms(self) -> float:
        """From host memory into a slot."""
        return COPY_MS + self.size_bytes / COPY_BYTES_PER_MS


class Outcome(NamedTuple):
    """What a trace met, over all its requests."""

    device_hits: float  # share
    host_hits: float  # share found in host memory
    load_ms: float  # mean


def make_adapters(count: int, seed: int) -> list[Adapter]:
    """Adapters of mixed ranks; their order says nothing of their size."""
    draw = random.Random(seed)
    return [Adapter(f"v{n}", BYTES_PER_RANK * draw.choice(RANKS)) for n in range(count)]


def make_trace(kind: str, count: int, requests: int, seed: int) -> list[int]:
    """Indices of adapters: `uniform`, `zipf` (exponent 1), or `drift`.

    Drift is Zipf whose popular adapters change ten times on the way.
    """
    draw = random.Random(seed)
    weights = [1.0 if kind == "uniform" else 1.0 / (place + 1) for place in range(count)]
    trace = draw.choices(range(count), weights, k=requests)
    if kind != "drift":
        return trace
    moves = [draw.randrange(count) for _ in range(10)]
    return [(one + moves[n * 10 // requests]) % count for n, one in enumerate(trace)]


def replay(trace: Sequence[int], adapters: Sequence[Adapter], residency: Residency) -> Outcome:
    """One request after another, each from its lease to its release."""
    for adapter in adapters:
        residency.add(adapter.version, Tier.DISK, adapter.size_bytes, 0.0)
    reads = copies = 0
    waited_ms = 0.0
    for now, index in enumerate(trace, start=1):
        version, size_bytes = adapters[index]
        residency.lease(version, now)
        while loads := residency.plan_loads([version], now):
            (load,) = loads
            read = load.to_tier is Tier.HOST
            load_ms = adapters[index].read_ms if read else adapters[index].copy_ms
            residency.begin(load)
            residency.commit(load, size_bytes, load_ms, now)
            reads, copies, waited_ms = reads + read, copies + (not read), waited_ms + load_ms
        residency.mark_running(version)
        residency.mark_idle(version)
        residency.release(version, now)
    residency.check()
    return Outcome(
        device_hits=round(1 - copies / len(trace), 4),
        host_hits=round((copies - reads) / len(trace), 4),
        load_ms=round(waited_ms / len(trace), 3),
    )


def most_hits(trace: Sequence[int], slots: int) -> float:
    """The share of hits when the one needed last leaves (Belady, IBM Systems Journal 5(2), 1966).

    What a device without a way around its slots can reach at most.
    """
    following = [len(trace) + n for n in range(len(trace))]
    seen: dict[int, int] = {}
    for n in range(len(trace) - 1, -1, -1):
        following[n] = seen.get(trace[n], following[n])
        seen[trace[n]] = n
    held: dict[int, int] = {}  # adapter -> its next use
    by_next: list[tuple[int, int]] = []
    hits = 0
    for n, one in enumerate(trace):
        hits += one in held
        if one not in held and len(held) == slots:
            while held.get(by_next[0][1]) != -by_next[0][0]:
                heapq.heappop(by_next)  # used since
            del held[heapq.heappop(by_next)[1]]
        held[one] = following[n]
        heapq.heappush(by_next, (-following[n], one))
    return round(hits / len(trace), 4)


def plan_us(adapters: Sequence[Adapter], slots: int, host_bytes: int) -> float:
    """CPU microseconds that `plan_loads` and `prefetch` take when all wait and one slot is idle.

    The median of 50.
    """
    residency = Residency(slots=slots, host_bytes=host_bytes)
    line = [adapter.version for adapter in adapters]
    for adapter in adapters:
        residency.add(adapter.version, Tier.DISK, adapter.size_bytes, 0.0)
        residency.lease(adapter.version, 0.0)
    for _ in range(2):
        for load in residency.plan_loads(line, 0.0):
            residency.begin(load)
            residency.commit(load, 1, 1.0, 0.0)
    for version in [row.version for row in residency.table() if row.slot is not None][1:]:
        residency.mark_running(version)
    line = line[slots:] + line[:slots]
    times = []
    for _ in range(50):
        start = time.process_time()
        residency.plan_loads(line, 0.0)
        residency.prefetch(line, 0.0)
        times.append(time.process_time() - start)
    return round(sorted(times)[25] * 1e6, 1)


def main() -> None:
    """Read the command line, replay, print."""
    parser = argparse.ArgumentParser(description="Replay traces of requests against the policies.")
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--host-share", type=float, default=0.3, help="of the bytes of all")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    adapters = make_adapters(asked.adapters, asked.seed)
    host_bytes = int(asked.host_share * sum(adapter.size_bytes for adapter in adapters))
    results: dict[str, dict[str, object]] = {}
    for kind, name in itertools.product(("zipf", "drift", "uniform"), POLICIES):
        trace = make_trace(kind, asked.adapters, asked.requests, asked.seed + 1)
        table = Residency(slots=asked.slots, host_bytes=host_bytes, policy=POLICIES[name])
        results.setdefault(kind, {"most_hits": most_hits(trace, asked.slots)})
        results[kind][name] = replay(trace, adapters, table)._asdict()
    commit, dirty = git_state()
    line = {
        "benchmark": "residency_replay",
        **vars(asked),
        "results": results,
        "plan_us": plan_us(adapters, asked.slots, host_bytes),
        "hardware": hardware(),
        "versions": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
