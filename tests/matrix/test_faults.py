"""A space on several nodes, with everything that can go wrong: afterwards `run` completes it.

The cluster, the driver and the trials are real processes; what is killed is killed with SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from loraland.adapters.registry import Registry
from loraland.matrix.ledger import Ledger
from loraland.matrix.run import run_cell
from loraland.matrix.space import Space, parse_space
from loraland.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "name": "faults",
    "bases": ["tiny-mistral-7b", "tiny-phi-2"],
    "tasks": ["viggo", "glue_stsb"],
    "data": "rehearsal",
    "recipe": "report",
    "changes": {
        "precision": "fp32", "learning_rate": 0.01, "warmup_share": 0.0, "examples_seen": 480,
        "examples_per_update": 4, "micro_batch_examples": 4, "gradient_checkpointing": False,
        "evaluate_every": 40, "checkpoint_every": 10, "patience": 100,
    },
    "max_examples": 24,
    "max_items": 2,
    "resources": {"*": {"cpus": 1, "gpus": 0}},
    "retry_collapsed": False,
}  # fmt: skip
TEXT = yaml.safe_dump(SPACE)


@pytest.fixture(scope="module")
def space() -> Space:
    return parse_space(TEXT, "faults.yaml")


@pytest.fixture(scope="module")
def expected(space: Space, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The versions of an undisturbed run, by cell."""
    storage = Storage.open(str(tmp_path_factory.mktemp("whole")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a trial has, or sums come in another order
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LORALAND_CACHE", str(tmp_path_factory.mktemp("cache")))
            return {cell.id: run_cell(cell, storage).model for cell in space.cells}
    finally:
        torch.set_num_threads(threads)


class Machines:
    """A head and two nodes of one core each, as processes of this test."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def trials(self) -> list[psutil.Process]:
        """The processes that run a trial."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if "ImplicitFunc" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.cluster.shutdown()


class Driver:
    """`loraland matrix run`, as a user would type it."""

    def __init__(self, machines: Machines, uri: str, place: Path) -> None:
        (place / "faults.yaml").write_text(TEXT)
        environment = os.environ | {
            "RAY_ADDRESS": machines.cluster.address,
            "LORALAND_STORAGE": uri,
            "LORALAND_CACHE": str(place / "cache"),
        }
        self.log = (place / f"driver-{time.monotonic()}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loraland.cli", "matrix", "run", str(place / "faults.yaml")],
            cwd=ROOT, env=environment, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait(self) -> int:
        return self.process.wait(timeout=400)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-6000:]


def until(condition: Callable[[], Any], driver: Driver) -> None:
    for _ in range(2000):
        if condition():
            return
        assert driver.process.poll() is None, driver.said()
        time.sleep(0.1)
    raise AssertionError(f"it never came to that:\n{driver.said()}")


def half_way(uri: str, space: Space) -> Callable[[], bool]:
    """Whether a cell is done, and another one in training with a checkpoint."""
    storage = Storage.open(uri)

    def look() -> bool:
        done = len(space.cells) - len(Ledger(storage).left(space.cells))
        checkpoints = [path for path in storage.walk("runs") if "/checkpoint/" in path]
        return done >= 1 and bool(checkpoints)

    return look


def require_whole(uri: str, space: Space, expected: dict[str, str]) -> None:
    """Every cell once, with the adapter of an undisturbed run, and nothing half there."""
    storage = Storage.open(uri)
    records = Ledger(storage).results(space.cells)
    assert {cell_id: record.model for cell_id, record in records.items()} == expected
    assert sorted(str(e.name) for e in Registry(storage).list()) == sorted(expected.values())
    assert not [path for path in storage.walk("runs") if "/checkpoint/" in path]


def test_killed_driver(machines: Machines, space: Space, expected: Any, tmp_path: Path) -> None:
    uri = str(tmp_path / "storage")
    driver = Driver(machines, uri, tmp_path)
    until(half_way(uri, space), driver)
    driver.process.send_signal(signal.SIGKILL)
    driver.wait()
    before = len(space.cells) - len(Ledger(Storage.open(uri)).left(space.cells))
    assert before < len(space.cells)
    again = Driver(machines, uri, tmp_path)
    assert again.wait() == 0, again.said()
    redone = re.findall(r"^tiny\S+ done$", again.said(), re.MULTILINE)
    assert len(redone) <= len(space.cells) - before  # the others were left alone
    require_whole(uri, space, expected)


def test_killed_worker(machines: Machines, space: Space, expected: Any, tmp_path: Path) -> None:
    uri = str(tmp_path / "storage")
    driver = Driver(machines, uri, tmp_path)
    until(half_way(uri, space), driver)
    machines.trials()[0].send_signal(signal.SIGKILL)
    assert driver.wait() == 0, driver.said()
    require_whole(uri, space, expected)


def test_lost_node(machines: Machines, space: Space, expected: Any, tmp_path: Path) -> None:
    uri = str(tmp_path / "storage")
    driver = Driver(machines, uri, tmp_path)
    until(half_way(uri, space), driver)
    machines.cluster.remove_node(machines.nodes[1], allow_graceful=False)
    assert driver.wait() == 0, driver.said()
    require_whole(uri, space, expected)


def test_full_disk(machines: Machines, space: Space, expected: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        uri = str(disk / "storage")
        driver = Driver(machines, uri, tmp_path)
        until(half_way(uri, space), driver)
        with (
            (disk / "filler").open("wb", buffering=0) as filler,
            pytest.raises(OSError, match="No space"),
        ):
            while True:
                filler.write(bytes(4096))
        assert driver.wait() != 0, driver.said()
        assert "Traceback" not in driver.said()
        (disk / "filler").unlink()
        again = Driver(machines, uri, tmp_path)
        assert again.wait() == 0, again.said()
        require_whole(uri, space, expected)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


class Wire:
    """A way to a server that can be cut and mended."""

    def __init__(self, target: str) -> None:
        self._host, port = target.rsplit(":", 1)
        self._port, self._is_cut = int(port), False
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        started = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            server = self._loop.run_until_complete(
                asyncio.start_server(self._carry, "127.0.0.1", 0)
            )
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            self._loop.run_forever()

        threading.Thread(target=serve, daemon=True).start()
        assert started.wait(10)

    def cut(self) -> None:
        self._is_cut = True
        self._loop.call_soon_threadsafe(lambda: [w.transport.abort() for w in self._writers])

    def mend(self) -> None:
        self._is_cut = False

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, far_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()
                self._writers.discard(sink)

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


@contextmanager
def cut_for(wire: Wire, seconds: float) -> Iterator[None]:
    wire.cut()
    time.sleep(seconds)
    wire.mend()
    yield


@pytest.mark.parametrize("seconds", [1.0, 60.0], ids=["a moment", "a minute"])
def test_storage_lost_for_a_while(
    machines: Machines,
    space: Space,
    expected: Any,
    tmp_path: Path,
    s3_endpoint: str,
    seconds: float,
) -> None:
    wire = Wire(s3_endpoint)
    uri = (
        f"s3://shelf/lost-{seconds:.0f}?endpoint_override=127.0.0.1:{wire.port}"
        "&scheme=http&region=us-east-1"
    )
    driver = Driver(machines, uri, tmp_path)
    until(half_way(uri, space), driver)
    with cut_for(wire, seconds):
        driver.wait()  # it may have come through, or have given up with a word on it
    assert "Traceback" not in driver.said()
    again = Driver(machines, uri, tmp_path)
    assert again.wait() == 0, again.said()
    require_whole(uri, space, expected)
