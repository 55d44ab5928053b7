"""A small made-up model in a storage, and a store on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from loraland.cellar.database import open_database, url_of
from loraland.cellar.following import Follower
from loraland.cellar.host import Host
from loraland.cellar.store import Store
from loraland.palate import artifact
from loraland.palate.cleaning import catalogue_of
from loraland.palate.fitting import FitSettings, fit
from loraland.palate.generator import generate
from loraland.palate.model import PalateModel
from loraland.storage import Storage

PALATES = 6


@pytest.fixture(scope="session")
def model() -> PalateModel:
    """As `following.ensure_model` makes one, but smaller."""
    source = {"kind": "generator", "rows": 1_500, "palates": PALATES, "seed": 3}
    cleaned = catalogue_of(generate(1_500, PALATES, 3).reviews)
    return fit(cleaned.catalogue, FitSettings(k=PALATES), source=source)


@pytest.fixture(scope="session")
def shelf_uri(model: PalateModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage with the model as `wine`; for tests that leave it as it is."""
    root = tmp_path_factory.mktemp("shelf")
    artifact.save(model, Storage.open(str(root)), "wine")
    return str(root)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty SQLite database at the newest step."""
    opened = open_database(url_of(str(tmp_path / "people.db"), Storage.open(str(tmp_path))))
    yield opened
    opened.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture(scope="session")
def follower(shelf_uri: str) -> Follower:
    return Follower(Storage.open(shelf_uri), "wine")


@pytest.fixture
def host(store: Store, follower: Follower) -> Host:
    return Host(store, follower)
