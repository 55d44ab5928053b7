"""Every operation computes the same sum as two plain products per token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loraland.lora.ops import OPS
from loraland.lora.rows import Rows
from loraland.lora.weights import LoraPair

FactorsOf = Callable[..., tuple[Any, Mapping[int, LoraPair]]]
DIFFERENTIABLE = [name for name, op in OPS.items() if op.differentiable]

RANKS = st.lists(st.sampled_from([0, 1, 3, 4, 8, 13, 16]), min_size=1, max_size=6)


def plainly(x: Tensor, pairs: Mapping[int, LoraPair], slots: list[int], out: int) -> Tensor:
    y = torch.zeros(len(slots), out)
    for token, slot in enumerate(slots):
        if slot in pairs:
            a, b, scale = pairs[slot]
            y[token] = scale * (b @ (a @ x[token]))
    return y


@st.composite
def passes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Ranks by slot (some 0: empty, or not on this layer), and the slot of each token."""
    ranks = [0, *draw(RANKS)]
    runs = st.tuples(st.integers(0, len(ranks) - 1), st.integers(1, 5))
    slots = [slot for slot, tokens in draw(st.lists(runs, max_size=8)) for _ in range(tokens)]
    return ranks, slots


@pytest.mark.parametrize("name", OPS)
@given(case=passes())
@settings(max_examples=25, deadline=None)
def test_every_operation_agrees_with_plain_products(
    factors_of: FactorsOf, name: str, case: tuple[list[int], list[int]]
) -> None:
    ranks, slots = case
    factors, pairs = factors_of(ranks, width=16)
    rows, x = Rows.of(slots, "cpu"), torch.randn(len(slots), 24)
    expected = plainly(x, pairs, slots, 16)
    with torch.inference_mode():
        delta = OPS[name].delta(x, factors, rows)
        y = before = torch.randn(len(slots), 16)
        expected_sum = before + expected
        OPS[name].add(y, x, factors, rows)
    torch.testing.assert_close(delta, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y, expected_sum, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@given(case=passes())
@settings(max_examples=15, deadline=None)
def test_differentiable_operations_give_the_loop_s_gradients(
    factors_of: FactorsOf, name: str, case: tuple[list[int], list[int]]
) -> None:
    ranks, slots = case
    if not any(ranks) or not any(ranks[slot] for slot in slots):
        return  # nobody to train: the layer asks no operation then
    direction = torch.randn(len(slots), 16)
    x_values = torch.randn(len(slots), 24)
    gradients = []
    for op in (OPS["loop"], OPS[name]):
        factors, _ = factors_of(ranks, width=16, trainable=True)
        x = x_values.clone().requires_grad_()
        (op.delta(x, factors, Rows.of(slots, "cpu")) * direction).sum().backward()
        pairs = factors.slots.values()
        gradients.append([x.grad, *(side.grad for pair in pairs for side in pair[:2])])
    for expected, found in zip(*gradients, strict=True):
        # A slot without tokens gets no gradient from the loop, and zeros from the stacks.
        expected = torch.zeros_like(found) if expected is None and found is not None else expected
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_the_formula(factors_of: FactorsOf, name: str) -> None:
    factors, pairs = factors_of([0, 4, 8], trainable=True)
    slots = [1, 0, 2, 2, 1]
    x = torch.randn(5, 24, requires_grad=True)
    # The gradient of a plain sum is expanded from one number, which is not contiguous.
    OPS[name].delta(x, factors, Rows.of(slots, "cpu")).sum().backward()
    assert x.grad is not None
    ones = torch.ones(16)
    for token, slot in enumerate(slots):
        expected = torch.zeros(24)
        if slot:
            a, b, scale = pairs[slot]
            expected = scale * (a.t() @ (b.t() @ ones))
        torch.testing.assert_close(x.grad[token], expected, atol=1e-4, rtol=1e-4)


def test_tokens_of_one_row_do_not_depend_on_the_others(factors_of: FactorsOf) -> None:
    factors, _ = factors_of([0, 4, 8, 1])
    x = torch.randn(6, 24)
    x[3] = float("nan")
    clean = x.clone()
    clean[3] = 0.0
    for name, op in OPS.items():
        damaged = op.delta(x, factors, Rows.of([1, 2, 0, 3, 3, 2], "cpu"))
        whole = op.delta(clean, factors, Rows.of([1, 2, 0, 3, 3, 2], "cpu"))
        kept = [0, 1, 2, 4, 5]
        torch.testing.assert_close(damaged[kept], whole[kept], msg=name)
