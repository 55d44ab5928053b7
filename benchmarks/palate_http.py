"""Recommendations over HTTP at 100,000 wines: what a person waits, by itself and with others.

    python -m benchmarks.palate_http --out benchmarks/results/palate_http.json

A real server process (uvicorn, no Ray) with SQLite on a disk; each answer reads the person's
opinions, ranks all wines and is kept as shown before it is sent. With `--ray` the same application
on Ray Serve, whose proxy is another hop. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.report import report
from loraland.palate import artifact
from loraland.palate.cleaning import catalogue_of
from loraland.palate.fitting import FitSettings, fit
from loraland.palate.generator import generate
from loraland.storage import Storage

REVIEWS = 130_000
WINES = 100_000
PALATES = 12
OPINIONS = 25  # of each person
REQUESTS = 300
CLIENTS = (1, 2, 4)
TARGET_MS = 100.0

SERVER = """
import sys
import uvicorn
from loraland.cellar.config import CellarLimits
from loraland.cellar.database import open_database, url_of
from loraland.cellar.following import Follower
from loraland.cellar.host import Host
from loraland.cellar.routes import create_app
from loraland.cellar.store import Store
from loraland.storage import Storage
storage = Storage.open(sys.argv[1])
host = Host(Store(open_database(url_of(None, storage))), Follower(storage, "wine"))
app = create_app(host, CellarLimits(person_per_minute=10**6, people_per_minute=10**6))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
"""


def main() -> None:
    """Measure, print, and write to --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wines", type=int, default=WINES)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--storage", type=Path, help="a folder that keeps the model for next time")
    parser.add_argument("--ray", action="store_true", help="on Ray Serve, not a plain server")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(options.storage or temporary)
        storage = Storage.open(folder)
        _ensure(storage, options.wines)
        serving = _on_ray if options.ray else _plain
        with serving(folder) as url:
            found = {str(n): measure(url, n, options.requests) for n in CLIENTS}
        items = len(artifact.load(storage, "wine").catalogue)
    report(
        "palate_http",
        {
            "server": "Ray Serve" if options.ray else "uvicorn",
            "database": "SQLite, WAL, flushed at each commit",
            "wines": items,
            "opinions": OPINIONS,
            "clients": found,
            "target_p95_ms": TARGET_MS,
            "load_average": [round(load, 1) for load in os.getloadavg()],  # others ran, too
            "within_target": {
                clients: one["recommend_ms"]["p95"] < TARGET_MS for clients, one in found.items()
            },
        },
        options.out,
    )


def measure(url: str, clients: int, requests: int) -> dict[str, Any]:
    """So many people who ask one after another, at the same time."""
    lists: list[float] = []
    events: list[float] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            caller = Caller(url)
            events.extend(caller.judge(OPINIONS))
            lists.extend(caller.lists(requests // clients))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    took = time.perf_counter() - began
    print(f"{clients} clients: {_figures(lists)}", file=sys.stderr, flush=True)
    return {
        "requests": len(lists),
        "recommend_ms": _figures(lists),
        "event_ms": _figures(events),
        "requests_per_s": round((len(lists) + len(events)) / took, 1),
    }


class Caller:
    """A person over one kept connection."""

    def __init__(self, url: str) -> None:
        """Somebody new."""
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._headers: dict[str, str] = {}
        token = self._call("POST", "/v1/people")[0]["token"]
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def judge(self, count: int) -> list[float]:
        """Milliseconds of each event: every third wine is liked, the others are not."""
        found = []
        for number in range(count):
            [card] = self._call("GET", "/v1/cards?n=1")[0]["cards"]
            kind = "disliked" if number % 3 else "liked"
            sent = {"events": [{"id": str(number), "kind": kind, "item": card["key"]}]}
            found.append(self._call("POST", "/v1/events", sent)[1])
        return found

    def lists(self, count: int) -> list[float]:
        """Milliseconds of each list, with and without a budget, after some to warm up."""
        for _ in range(5):
            self._call("GET", "/v1/recommendations")
        paths = [
            f"/v1/recommendations?n=10{'' if number % 2 else f'&budget={15 + number % 40}'}"
            for number in range(count)
        ]
        return [self._call("GET", path)[1] for path in paths]

    def _call(self, method: str, path: str, body: Any = None) -> tuple[Any, float]:
        began = time.perf_counter()
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, self._headers)
        answer = self._connection.getresponse()
        read = answer.read()
        took_ms = 1000 * (time.perf_counter() - began)
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {read[:300]!r}")
        return json.loads(read), took_ms


def _figures(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99]).tolist()
    return {"p50": round(p50, 2), "p95": round(p95, 2), "p99": round(p99, 2)}


def _ensure(storage: Storage, wines: int) -> None:
    if "wine" in artifact.names(storage):
        return
    cleaned = catalogue_of(generate(int(wines * REVIEWS / WINES), PALATES).reviews)
    catalogue = cleaned.catalogue.take(range(min(wines, len(cleaned.catalogue))))
    artifact.save(fit(catalogue, FitSettings(k=PALATES)), storage, "wine")


@contextmanager
def _plain(folder: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, folder, str(port)])
    try:
        _wait(f"127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait(place: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):  # two minutes at most
        if server.poll() is not None:
            raise RuntimeError("the server ended at once")
        try:
            connection = http.client.HTTPConnection(place, timeout=10)
            connection.request("GET", "/health")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


@contextmanager
def _on_ray(folder: str) -> Iterator[str]:
    from loraland.cellar.app import build
    from loraland.cellar.config import CellarConfig, CellarLimits
    from loraland.cluster import ray_cluster
    from loraland.serving.local import running

    limits = CellarLimits(person_per_minute=10**6, people_per_minute=10**6)
    config = CellarConfig(storage=folder, make_up=False, limits=limits)
    with (
        ray_cluster(own=True),
        running(lambda: build(config), "palate", "127.0.0.1", 0) as url,
    ):
        yield url


if __name__ == "__main__":
    main()
