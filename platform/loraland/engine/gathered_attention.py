"""Attention of one token per row over paged keys and values, in plain torch.

Copies the blocks of every row into one piece, as wide as the table, and masks what a row does not
have. The oracle of the kernels, and what a GPU without them uses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from loraland.engine.attention import Call, attention
from loraland.engine.spans import Singles


class GatheredAttention:
    """`PagedAttention` by `index_select` and `scaled_dot_product_attention`."""

    name = "gathered"
    in_place = False

    def __init__(self) -> None:
        self._singles: Singles | None = None
        self._fixed = False
        self._masks: dict[int | None, Tensor] = {}  # by window, of the present pass

    def plan(self, singles: Singles, *, fixed: bool = False) -> None:
        """See `PagedAttention.plan`."""
        self._singles, self._fixed = singles, fixed
        self._masks.clear()

    def run(self, query: Tensor, pool: Tensor, call: Call) -> Tensor:
        """See `PagedAttention.run`."""
        assert self._singles is not None
        (rows, _, size), table = query.shape, self._singles.table
        held = pool.index_select(2, table.flatten())  # (2, kv heads, rows * blocks, block, size)
        keys, values = held.view(2, pool.shape[1], rows, -1, size).transpose(1, 2)
        shared = query.view(rows, pool.shape[1], -1, size)  # (rows, kv heads, per kv head, size)
        mask = self._mask(call.window, keys.shape[2], query.dtype)
        return attention(shared, keys, values, mask, call).reshape(query.shape)

    def _mask(self, window: int | None, keys: int, dtype: torch.dtype) -> Tensor:
        """(rows, 1, 1, keys): added to the scores. A graph must make its own, from the lengths."""
        if self._fixed or window not in self._masks:
            assert self._singles is not None
            lengths = self._singles.lengths[:, None]
            place = torch.arange(keys, device=lengths.device)[None]
            hidden = place >= lengths
            if window is not None:
                hidden |= place < lengths - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=lengths.device)
            self._masks[window] = mask.masked_fill_(hidden, -math.inf)[:, None, None]
        return self._masks[window]
