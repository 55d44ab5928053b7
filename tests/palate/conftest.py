"""A small made-up world and its model, once per session."""

from __future__ import annotations

import pytest

from loraland.palate.cases import planted_of
from loraland.palate.catalogue import Catalogue, Ints
from loraland.palate.cleaning import catalogue_of
from loraland.palate.fitting import FitSettings, fit
from loraland.palate.generator import World, generate
from loraland.palate.model import PalateModel

PALATES = 6


@pytest.fixture(scope="session")
def world() -> World:
    return generate(rows=1_500, palates=PALATES, seed=3)


@pytest.fixture(scope="session")
def catalogue(world: World) -> Catalogue:
    return catalogue_of(world.reviews).catalogue


@pytest.fixture(scope="session")
def truth(world: World, catalogue: Catalogue) -> Ints:
    """The planted palate of each item."""
    return planted_of(world, catalogue)


@pytest.fixture(scope="session")
def model(catalogue: Catalogue) -> PalateModel:
    return fit(catalogue, FitSettings(k=PALATES)).warm()
