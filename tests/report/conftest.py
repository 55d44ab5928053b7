"""A small study with every state a cell can be in, and the same with hostile text everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from loraland.evaluation.leaderboard import Overlay
from loraland.matrix.space import Space
from loraland.report.content import Content, gather
from loraland.storage import Storage
from tests.report.fabricated import HOSTILE, fabricate, space_of

BASES = ["phi-2", "gemma-2b", "mistral-7b-instruct"]
TASKS = ["boolq", "viggo", "drop", "mmlu"]


@pytest.fixture(scope="session")
def space() -> Space:
    return space_of(BASES, TASKS)


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory, space: Space) -> Storage:
    """Ten of twelve cells are finished; tests only read it."""
    storage = Storage.open(str(tmp_path_factory.mktemp("studied")))
    fabricate(storage, space)
    return storage


@pytest.fixture(scope="session")
def content(studied: Storage, space: Space) -> Content:
    overlay = Overlay("report tuned", {("phi-2", "boolq"): 0.875})
    return gather(space, studied, max_samples=12, overlays=[overlay])


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """Prompts, answers, messages, marks and the description try to leave their places."""
    storage = Storage.open(str(tmp_path_factory.mktemp("hostile")))
    space = space_of(BASES[:2], TASKS[:2], description=HOSTILE)
    fabricate(storage, space, items=8, text=HOSTILE)
    return gather(space, storage, overlays=[Overlay(HOSTILE, {("phi-2", "boolq"): 0.5})])


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory, content: Content) -> Path:
    from loraland.report.page import render_html

    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(content), encoding="utf-8")
    return path
