"""The step that adds shares in place has the values and the gradients of plain products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from loraland.bases.products import has_onednn
from loraland.lora import trained
from loraland.lora.bank import LoraBank
from loraland.lora.ops import loop
from loraland.lora.rows import Rows
from loraland.lora.trained import add_shares
from loraland.lora.weights import AdapterWeights, LoraPair
from loraland.training.products import FrozenLinear

FactorsOf = Callable[..., tuple[Any, Any]]


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("slots", [[1, 1, 2, 0, 3, 3], [2], [1, 2, 1, 1, 2, 0], [0, 3, 3, 3]])
def test_values_and_gradients_are_those_of_the_loop(
    factors_of: FactorsOf, monkeypatch: pytest.MonkeyPatch, slots: list[int], onednn: bool
) -> None:
    monkeypatch.setattr(trained, "_ONEDNN", onednn and has_onednn())
    factors, _ = factors_of([0, 8, 3, 1], trainable=True)
    rows = Rows.of(slots, "cpu")
    segments = [part for part in rows.segments if part.slot]
    x, y = torch.randn(len(slots), 24), torch.randn(len(slots), 16)
    weights = torch.randn(len(slots), 16)
    sides = [side for pair in factors.slots.values() for side in (pair.a, pair.b)]
    found = []
    for ours in (True, False):
        inputs = [value.clone().requires_grad_() for value in (x, y)]
        before = inputs[1] * 1.0
        if ours:
            total = add_shares(before, inputs[0], factors, segments)
        else:
            total = before + loop(inputs[0], factors, rows)
        gradients = torch.autograd.grad((total * weights).sum(), inputs + sides, allow_unused=True)
        found.append([total.detach(), *gradients])
    for ours_, theirs in zip(*found, strict=True):
        assert (ours_ is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours_, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_a_first_layer_whose_input_needs_no_gradient_learns_too(
    pair_of: Callable[..., LoraPair], kind: str
) -> None:
    if kind == "frozen" and not has_onednn():
        pytest.skip("this torch has no oneDNN products")
    torch.manual_seed(0)
    plain = nn.Linear(8, 12).requires_grad_(False)
    model = nn.Sequential(FrozenLinear(plain) if kind == "frozen" else plain)
    pair = pair_of(4, 8, 12, 1)
    bank = LoraBank(model, slots=1, max_rank=8, trainable=True)
    bank.write(1, AdapterWeights.of({"0": pair}))
    bank.bind(Rows.of([1] * 6, "cpu"))
    x = torch.randn(2, 3, 8)
    y = model(x)
    torch.testing.assert_close(y, plain(x) + pair.scale * (x @ pair.a.t() @ pair.b.t()))
    y.sum().backward()
    [_, b] = bank.parameters_of(1)
    expected = pair.scale * (x @ pair.a.t()).sum((0, 1)).expand(12, 4)
    torch.testing.assert_close(b.grad, expected, atol=1e-4, rtol=1e-4)
