"""What a run over several workers is, when another number of workers goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loraland.adapters.registry import Registry
from loraland.matrix import work as works
from loraland.matrix.cell import Cell
from loraland.matrix.provenance import PACKAGES
from loraland.matrix.run import run_cell, train_on_workers
from loraland.storage import Storage
from loraland.training.loop import train
from loraland.training.parallel import Devices
from loraland.training.recipe import get_recipe

RECIPE = get_recipe("quick", precision="fp32", learning_rate=0.01, examples_seen=16)
CELL = Cell("tiny-mistral-7b", "dates", RECIPE, max_examples=24, max_items=2)


class Lost(Exception):
    """All workers, and who waited for them."""


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the runs that workers were asked to train; the first run is lost."""
    asked: list[str] = []

    def train_parallel(base: str, *examples: Any, seed: int, run_key: str, **rest: Any) -> Any:
        asked.append(run_key)
        if len(asked) == 1:
            raise Lost
        training, validation, recipe, folder = examples
        loaded = works.load_base(base, recipe.precision, "cpu")
        return train(loaded, training, validation, recipe, folder, seed=seed)

    monkeypatch.setattr(works, "train_parallel", train_parallel)
    return asked


def test_other_workers_go_on_with_a_run_and_its_card_names_all(
    tmp_path: Path, keys: list[str]
) -> None:
    storage = Storage.open(str(tmp_path / "s"))
    with pytest.raises(Lost):
        train_on_workers(CELL, storage, print, (Devices(2), "ddp"))
    train_on_workers(CELL, storage, print, (Devices(4), "zero2"))
    found = run_cell(CELL, storage, workers=(Devices(4), "zero2"))
    assert len(set(keys)) == 1  # one run, whoever trains it
    card = Registry(storage).card(found.model)
    assert card.hardware.endswith("trained by 2 workers (ddp), then 4 workers (zero2)")
    again = run_cell(CELL, storage, workers=(Devices(8), "ddp"))
    assert again.model == found.model and not again.trained


def test_a_run_by_workers_is_not_that_of_the_plain_loop(tmp_path: Path, keys: list[str]) -> None:
    storage = Storage.open(str(tmp_path / "s"))
    with pytest.raises(Lost):
        train_on_workers(CELL, storage, print, (Devices(2), "ddp"))
    plain = run_cell(CELL, storage)
    assert plain.run != f"runs/{keys[0]}"
    assert "workers" not in Registry(storage).card(plain.model).hardware


def test_the_library_that_shards_is_among_the_versions_of_a_card() -> None:
    assert "deepspeed" in PACKAGES
