"""Synthetic adapters: versions of their own, one function, admitted, and gone afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from loraland.adapters.admission import Limits, admit
from loraland.adapters.folder import WEIGHTS
from loraland.adapters.made_up import write_random_adapter
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.engine.canary import EXACT, require_canary
from loraland.errors import AdapterRejected, InvalidConfiguration
from loraland.loadtest.synthetic import CANARY_PROMPT, synthetic_adapters
from loraland.lora.weights import linears_of
from loraland.storage import Storage
from loraland.training.effect import measure_canary

LINEARS = {"layers.0.q_proj": (6, 8), "layers.0.v_proj": (6, 4), "lm_head": (6, 9)}


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> LoadedBase:
    return load_tiny("llama", tiny_folders["llama"])


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Storage.open(str(tmp_path / "storage")))


def test_twins_differ_in_their_bytes_and_compute_exactly_the_same(tmp_path):
    products, contents = [], set()
    for twin in range(40):
        folder = tmp_path / str(twin)
        write_random_adapter(folder, LINEARS, rank=4, seed=1, twin=twin)
        contents.add((folder / WEIGHTS).read_bytes())
        found = load_file(folder / WEIGHTS)
        name = "base_model.model.layers.0.q_proj.lora_"
        products.append(found[f"{name}B.weight"] @ found[f"{name}A.weight"])
        assert len(found) == 4
    assert len(contents) == 40
    assert all(np.array_equal(product, products[0]) for product in products)


def test_another_seed_is_another_function(tmp_path):
    for seed in (1, 2):
        write_random_adapter(tmp_path / str(seed), LINEARS, rank=4, seed=seed)
    first, second = (load_file(tmp_path / str(seed) / WEIGHTS) for seed in (1, 2))
    assert all(not np.allclose(first[name], second[name]) for name in first)


def test_more_twins_than_there_are_and_layers_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="twin 100 of rank 2"):
        write_random_adapter(tmp_path / "a", LINEARS, rank=2, seed=0, twin=100)
    with pytest.raises(AdapterRejected, match="no layer called k_proj"):
        write_random_adapter(tmp_path / "b", LINEARS, rank=2, seed=0, targets=["k_proj"])
    assert list(tmp_path.iterdir()) == []


def test_they_pass_admission_and_their_canary_holds_for_each(registry, base, tmp_path):
    with synthetic_adapters(registry, base, 3) as names:
        assert [name.task for name in names] == ["loadtest-000", "loadtest-001", "loadtest-002"]
        assert len({name.version for name in names}) == 3
        for name in names:
            folder = registry.fetch(name, tmp_path / "copies")
            admit(
                folder, base=base.entry.name, base_fingerprint=base.fingerprint, limits=Limits(),
                precision=base.precision, linears=linears_of(base.model),
            )  # fmt: skip
            card = registry.card(name)
            again = measure_canary(base, folder, CANARY_PROMPT)
            assert again.top_ids == card.canary.top_ids
            require_canary(str(name), card.canary, again.logits, EXACT)
            assert registry.find(ModelName(name.base, name.task)) == name  # latest
    assert registry.list() == []


def test_they_are_removed_also_when_the_test_fails_and_kept_when_that_is_wished(registry, base):
    with pytest.raises(ZeroDivisionError), synthetic_adapters(registry, base, 2):
        raise ZeroDivisionError
    assert registry.list() == []
    with synthetic_adapters(registry, base, 2, keep=True) as names:
        pass
    assert [entry.name for entry in registry.list()] == names
    with synthetic_adapters(registry, base, 2) as again:  # cleans up after a killed one
        assert again == names
    assert registry.list() == []


def test_a_real_adapter_of_that_name_keeps_its_latest(registry, base):
    with (
        synthetic_adapters(registry, base, 1, seed=1) as [real],
        synthetic_adapters(registry, base, 1, seed=2) as [other],
    ):
        assert other.version != real.version
        assert registry.aliases(real.base, real.task) == {"latest": real.version}


@pytest.mark.parametrize(("count", "rank"), [(0, 8), (1001, 8), (2, 3), (2, 1000)])
def test_numbers_out_of_range_are_refused_before_anything_is_written(registry, base, count, rank):
    with (
        pytest.raises(InvalidConfiguration, match="give"),
        synthetic_adapters(registry, base, count, rank=rank),
    ):
        pytest.fail("it went on")
    assert registry.list() == []
