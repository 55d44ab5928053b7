"""Where the real rows are, when this machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loraland import settings


@pytest.fixture
def real_tasks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder <task>/{train,test}.parquet of real rows, set as the data folder."""
    named = os.environ.get("LORALAND_TEST_DATA")
    folder = Path(named) / "tasks" if named else None
    if folder is None or not folder.is_dir():
        pytest.skip("LORALAND_TEST_DATA names no folder with tasks/<task>/{train,test}.parquet")
    monkeypatch.setenv(settings.DATA, str(folder))
    return folder
