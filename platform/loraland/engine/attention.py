"""The arithmetic of attention over keys and values that the paged cache hands out.

Knows tensors only; nothing of blocks, rows or passes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Call(NamedTuple):
    """What a layer asks of attention beside its tensors."""

    layer: int
    scaling: float
    window: int | None  # keys that a query sees, itself included; None is all
    softcap: float | None  # scores go through softcap * tanh(score / softcap)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, call: Call) -> Tensor:
    """(batch, heads, queries, size); key and value (batch, 1 or heads, keys, size).

    `mask` is added to the scores; None means causal, queries and keys aligned.
    """
    shape = (-1, query.shape[1], -1, -1)
    key, value = key.expand(shape), value.expand(shape)
    if call.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=call.scaling
        )
    scores = query @ key.transpose(2, 3) * call.scaling
    scores = call.softcap * torch.tanh(scores / call.softcap)
    if mask is None:
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    else:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scaling: float
) -> Tensor:
    """The same by two batched products, in which a CPU beats its fused attention by a third.

    query (batch, queries, size), key and value (batch, keys, size), hidden (batch, 1, keys) is
    added to the scores. Returns (batch, queries, size).
    """
    scores = torch.baddbmm(hidden, query * scaling, key.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), value)
