"""Shared fixtures: each test gets its own places, and nothing reaches a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports these libraries: no telemetry, no hub.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
    cache = Path(os.environ.get("LORALAND_TEST_CACHE") or tmp_path_factory.mktemp("embedded"))
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
