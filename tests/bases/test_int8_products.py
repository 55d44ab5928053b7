from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loraland.bases import int8_products
from loraland.bases.int8_products import (
    FULL_WEIGHTS,
    NARROW_WEIGHTS,
    PRODUCTS,
    ProductName,
    best_product,
    weight_levels,
)
from loraland.errors import InvalidConfiguration


def works(name: ProductName) -> bool:
    try:
        weight_levels(name)
    except InvalidConfiguration:
        return False
    return True


WORKING = [name for name in PRODUCTS if works(name)]


@settings(deadline=None)
@given(
    name=st.sampled_from(WORKING),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 80), st.integers(1, 70)),
    seed=st.integers(0, 2**16),
)
def test_products_agree_with_the_sum_of_integers(
    name: ProductName, shape: tuple[int, int, int], seed: int
) -> None:
    count, inputs, outputs = shape
    draw = torch.Generator().manual_seed(seed)
    levels = weight_levels(name)
    weight = torch.randint(-levels, levels + 1, (outputs, inputs), generator=draw).to(torch.int8)
    steps = torch.randint(-127, 128, (count, inputs), generator=draw)
    scales = torch.rand(outputs, generator=draw) + 0.1
    expected = (steps @ weight.long().t()).double() * scales.double() / 127
    found = PRODUCTS[name](weight, scales)(steps.float() / 127)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in WORKING if name != "plain"])
def test_a_row_is_the_same_to_the_bit_whoever_shares_the_batch(name: ProductName) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-63, 64, (192, 576), generator=draw).to(torch.int8)
    multiply = PRODUCTS[name](weight, torch.rand(192, generator=draw))
    rows = torch.rand(70, 576, generator=draw) * 2 - 1
    whole = multiply(rows)
    for count in (1, 2, 7, 33):
        assert torch.equal(multiply(rows[:count]), whole[:count])
    assert torch.equal(multiply(rows.flip(0)).flip(0), whole)


@pytest.mark.parametrize("name", WORKING)
def test_packing_leaves_the_engine_of_quantised_tensors_as_it_was(name: ProductName) -> None:
    before = torch.backends.quantized.engine
    PRODUCTS[name](torch.ones(8, 8, dtype=torch.int8), torch.ones(8))
    assert torch.backends.quantized.engine == before


def saturating(levels: int) -> int8_products.Pack:
    """A product as CPUs without VNNI compute it: pairs are added in 16 bits."""

    def pack(weight: torch.Tensor, scales: torch.Tensor) -> int8_products.Packed:
        def multiply(rows: torch.Tensor) -> torch.Tensor:
            bytes_ = (rows * 127).round() + 128
            pairs = (bytes_[:, None] * weight.float()).unflatten(-1, (-1, 2)).sum(-1)
            sums = pairs.clamp(-levels, levels).sum(-1) - 128 * weight.float().sum(-1)
            return sums * scales / 127

        return multiply

    return pack


def test_a_cpu_that_saturates_gets_narrow_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRODUCTS, "onednn", saturating(2**15 - 1))
    weight_levels.cache_clear()
    try:
        assert weight_levels("onednn") == NARROW_WEIGHTS
    finally:
        weight_levels.cache_clear()


def test_a_product_that_is_never_exact_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRODUCTS, "onednn", saturating(2**10))
    weight_levels.cache_clear()
    try:
        with pytest.raises(InvalidConfiguration, match="wrong sums"):
            weight_levels("onednn")
    finally:
        weight_levels.cache_clear()


def absent(weight: torch.Tensor, scales: torch.Tensor) -> int8_products.Packed:
    raise RuntimeError("no such operator")


def test_without_any_product_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fbgemm", "onednn"):
        monkeypatch.setitem(PRODUCTS, name, absent)
    weight_levels.cache_clear()
    try:
        with pytest.raises(InvalidConfiguration, match="compute in fp32"):
            best_product()
    finally:
        weight_levels.cache_clear()


def test_onednn_stands_in_where_fbgemm_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    if not works("onednn"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setitem(PRODUCTS, "fbgemm", absent)
    weight_levels.cache_clear()
    try:
        assert best_product() == "onednn"
    finally:
        weight_levels.cache_clear()


def test_the_plain_product_uses_all_levels() -> None:
    assert weight_levels("plain") == FULL_WEIGHTS
