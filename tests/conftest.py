"""Shared fixtures: each test gets its own places, and nothing reaches a network."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

# Before anything imports these libraries: no telemetry, no hub.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)  # before xdist, which reads the groups first of all others
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Of several processes one runs all tests on Ray, whose ports are fixed; others go by file."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
        group = "ray" if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    yield


@pytest.fixture(autouse=True)
def own_places(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Storage and cache of a test's own.

    The copy of the embedded base is shared, because it is large.
    """
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LORALAND_STORAGE", str(home / "storage"))
    monkeypatch.setenv("LORALAND_CACHE", str(home / "cache"))
    monkeypatch.delenv("LORALAND_DATA", raising=False)
    yield


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a random tiny model of each architecture."""
    from loraland.bases.tiny import write_tiny

    root = tmp_path_factory.mktemp("tiny")
    kinds = ("llama", "mistral", "phi", "gemma")
    return {kind: write_tiny(kind, root / f"tiny-{kind}") for kind in kinds}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data samples, or a skip that says what is missing."""
    named = os.environ.get("LORALAND_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("LORALAND_TEST_DATA does not name a folder of real data samples")
    return Path(named)


@pytest.fixture(scope="session")
def embedded_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the dequantised embedded base; made once per test session."""
    from importlib import metadata

    from loraland.bases import embedded

    try:
        metadata.distribution(embedded.PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip(f"the embedded base is not installed: {embedded.INSTALL}")
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all processes: whoever is first makes the copy
    cache = Path(os.environ.get("LORALAND_TEST_CACHE") or root / "embedded")
    before = os.environ.get("LORALAND_CACHE")
    os.environ["LORALAND_CACHE"] = str(cache)
    try:
        embedded.folder()
    finally:
        if before is None:
            del os.environ["LORALAND_CACHE"]
        else:
            os.environ["LORALAND_CACHE"] = before
    return cache


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local Ray cluster with dashboard and job server, one for the whole session.

    Yields what `ray.init` returns; its dashboard_url is an address without a scheme.
    """
    import ray

    # Workers keep the environment of this moment: none of a developer's own places.
    places = pytest.MonkeyPatch()
    places.setenv("LORALAND_STORAGE", str(tmp_path_factory.mktemp("ray") / "storage"))
    places.setenv("LORALAND_CACHE", str(tmp_path_factory.mktemp("ray") / "cache"))
    places.delenv("LORALAND_DATA", raising=False)
    context = ray.init(
        address="local", num_cpus=2, include_dashboard=True, dashboard_port=0, log_to_driver=False
    )
    yield context
    ray.shutdown()
    places.undo()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server of this test run, with an empty bucket `shelf`."""
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    host, port = server.get_host_and_port()
    address = f"{host}:{port}"
    boto3.client("s3", endpoint_url=f"http://{address}", region_name="us-east-1").create_bucket(
        Bucket="shelf"
    )
    yield address
    server.stop()
    patch.undo()


@pytest.fixture(params=["local", "s3"])
def storage_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty storage: a folder, or a prefix on the S3 server."""
    if request.param == "local":
        return str(tmp_path / "storage")
    address = request.getfixturevalue("s3_endpoint")
    prefix = uuid.uuid4().hex
    return f"s3://shelf/{prefix}?endpoint_override={address}&scheme=http&region=us-east-1"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one headless Chromium for the whole session, or a skip that says why not.

    It is not asked for through Playwright's own launcher, because that keeps an event loop running
    as long as the browser lives, and other tests start loops of their own.
    """
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on the path; on Debian: apt-get install chromium")
    home = tmp_path_factory.mktemp("chromium")
    switches = (
        "headless hide-scrollbars no-sandbox disable-gpu disable-quic no-first-run disable-sync "
    )
    switches += "disable-background-networking disable-component-update remote-debugging-port=0"
    command = [program, *(f"--{switch}" for switch in switches.split()), f"--user-data-dir={home}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place = home / "DevToolsActivePort"
    for _ in range(600):  # a minute at most
        if place.exists() and place.read_text().count("\n"):
            break
        assert process.poll() is None, f"{program} ended at once"
        time.sleep(0.1)
    port, path = place.read_text().split("\n")[:2]
    yield f"ws://127.0.0.1:{port}{path}"
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture
def browser(chromium: str) -> Iterator[Any]:
    """Playwright's view of the session's Chromium; what a test opens is closed after it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        connected = playwright.chromium.connect_over_cdp(chromium)
        yield connected
        for context in connected.contexts:
            context.close()
