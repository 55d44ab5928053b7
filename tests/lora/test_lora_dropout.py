"""Dropout by streams: a mask belongs to its row, whatever else is in the pass."""

from __future__ import annotations

import pytest
import torch

from loraland.lora.dropout import Span, drop


def test_a_mask_does_not_depend_on_company_or_place() -> None:
    x = torch.ones(4, 16)
    alone = drop(x, [Span(0, 4, 1, 0.5, "7/0/3")], "up")
    beside = drop(torch.ones(9, 16), [Span(0, 5, 2, 0.1, "8"), Span(5, 9, 1, 0.5, "7/0/3")], "up")
    assert torch.equal(beside[5:], alone)
    assert 0 < int((alone == 0).sum()) < alone.numel()


def test_streams_and_layers_have_masks_of_their_own() -> None:
    x = torch.ones(8, 32)
    masks = [
        drop(x, [Span(0, 8, 1, 0.5, stream)], layer)
        for stream, layer in [("a", "up"), ("b", "up"), ("a", "down")]
    ]
    assert not any(torch.equal(masks[i], masks[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_what_is_kept_grows_so_that_the_mean_stays() -> None:
    x = torch.ones(100, 200)
    y = drop(x, [Span(0, 100, 1, 0.25, "s")], "up")
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float(y.mean()) - 1) < 0.02


def test_tokens_outside_the_spans_stay_and_gradients_follow_the_mask() -> None:
    x = torch.ones(4, 8, requires_grad=True)
    y = drop(x, [Span(1, 3, 1, 0.5, "s")], "up")
    assert torch.equal(y[[0, 3]], torch.ones(2, 8))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert drop(x, [], "up") is x
