"""Which products a run is trained on: in its key, on its card, and never mixed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from loraland.adapters.registry import Registry
from loraland.bases import expansion
from loraland.bases.products import has_onednn
from loraland.bases.tiny import load_tiny
from loraland.errors import NotEnoughMemory
from loraland.matrix.arithmetic import products_on, training_products
from loraland.matrix.cell import Cell
from loraland.matrix.run import run_cell, run_fused
from loraland.storage import Storage
from loraland.training import products
from loraland.training.products import FrozenLinear
from loraland.training.recipe import get_recipe

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN products")

RECIPE = get_recipe("quick", precision="fp32", learning_rate=0.01, examples_seen=16, dropout=0.0)


def cell(task: str = "dates") -> Cell:
    return Cell("tiny-mistral-7b", task, RECIPE, max_examples=24, max_items=2)


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch):
    """Makes this machine one on which MKL is slow, or one on which it is not."""
    monkeypatch.setattr(products, "SMALLEST", 1)

    def be(slow: bool) -> None:
        monkeypatch.setattr(products, "_mkl_is_slow", lambda: slow)

    return be


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the products that went through oneDNN, gradients among them."""
    rows: list[int] = []
    plain = products.onednn

    def counting(x: torch.Tensor, *rest: object) -> torch.Tensor:
        rows.append(x.shape[0])
        return plain(x, *rest)

    monkeypatch.setattr(products, "onednn", counting)
    return rows


@pytest.mark.parametrize("fused", [False, True])
def test_cells_are_trained_on_the_products_that_are_fast_here(
    tmp_path: Path, kind, multiplied: list[int], fused: bool
) -> None:
    storage = Storage.open(str(tmp_path / "s"))

    def run() -> str:
        if not fused:
            return run_cell(cell(), storage).model
        [(_, found)] = run_fused([cell()], storage, slots=2)
        return found.model

    kind(slow=False)
    plain = run()
    assert not multiplied
    kind(slow=True)
    fast = run()
    assert multiplied
    assert len(storage.names("runs")) == 2  # another key: never one in place of the other
    cards = [Registry(storage).card(name) for name in (plain, fast)]
    assert ["oneDNN" in card.hardware for card in cards] == [False, True]
    seen = len(multiplied)
    assert run() == fast and len(multiplied) == seen  # it is known, and not trained again


def test_a_run_that_was_begun_on_another_kind_of_machine_is_not_gone_on_with(
    tmp_path: Path, kind
) -> None:
    storage = Storage.open(str(tmp_path / "s"))
    recipe = RECIPE.model_copy(update={"checkpoint_every": 1, "evaluate_every": 1})
    asked = dataclasses.replace(cell(), recipe=recipe)

    class Killed(Exception):
        pass

    def kill(event) -> None:
        if event.stage == "train":
            raise Killed

    kind(slow=False)
    with pytest.raises(Killed):
        run_cell(asked, storage, kill)
    steps: list[int] = []
    kind(slow=True)
    run_cell(asked, storage, lambda e: steps.append(e.done) if e.stage == "train" else None)
    assert steps[0] == 1


def test_workers_and_gpus_keep_torch_s_products(kind) -> None:
    kind(slow=True)
    assert products_on("cpu", "plain") == products_on("cpu", "fused") == "onednn"
    assert products_on("cpu", "parallel") == products_on("cuda", "plain") == "torch"
    kind(slow=False)
    assert products_on("cpu", "plain") == "torch"


def test_memory_that_is_free_by_chance_does_not_decide_how_a_run_is_rounded(
    tiny_folders: dict[str, Path], kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind(slow=True)
    base = load_tiny("llama", tiny_folders["llama"], "nf4")
    before = dict(base.model.named_modules())
    with training_products(base):
        assert any(isinstance(module, FrozenLinear) for module in base.model.modules())

    class Full:
        available = 0

    monkeypatch.setattr(expansion.psutil, "virtual_memory", lambda: Full)
    with pytest.raises(NotEnoughMemory, match="4-bit weights written out"), training_products(base):
        raise AssertionError("nothing is trained")
    after = dict(base.model.named_modules())
    assert all(after[name] is module for name, module in before.items())
