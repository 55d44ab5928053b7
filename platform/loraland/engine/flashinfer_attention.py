"""Attention of one token per row over paged keys and values, by FlashInfer where it is installed.

FlashInfer takes pages of any size and any strides, windows and soft caps, and plans ahead for a
graph; flash-attn 2 wants pages of 256 tokens. A wrapper of it serves all layers of one kind.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loraland.engine.attention import Call
from loraland.engine.spans import Singles

WORKSPACE_BYTES = 128 << 20  # what FlashInfer recommends; one for all wrappers, used in turn
TENSOR_CORES_FROM = 4  # query heads of a key-value head; its other kernels take few such groups


class _Kind(NamedTuple):
    """What a wrapper is planned for; layers alike share one."""

    heads: int
    kv_heads: int
    size: int
    block: int  # tokens
    window: int | None
    softcap: float | None
    scaling: float
    dtype: torch.dtype


class _Pages(NamedTuple):
    """The rows of a pass as FlashInfer wants them, int32."""

    starts: Tensor  # (rows + 1,), on the host: where each row's pages begin
    pages: Tensor  # (all pages,), on the device
    last: Tensor  # (rows,), on the host: tokens in each row's last page


class FlashInferAttention:
    """`PagedAttention` by `BatchDecodeWithPagedKVCacheWrapper`."""

    name = "flashinfer"
    in_place = True

    def __init__(self, device: torch.device) -> None:
        """Raises ImportError when FlashInfer is not installed."""
        self._wrapper_class: Any = import_module("flashinfer").BatchDecodeWithPagedKVCacheWrapper
        self._device = device
        self._workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        # By kind, and by rows where they are captured; 0 rows: any number, not captured.
        self._wrappers: dict[tuple[_Kind, int], Any] = {}
        self._known: dict[_Kind, None] = {}  # of all layers so far, in their order
        self._planned: dict[_Kind, Any] = {}  # for the present pass
        self._singles: Singles | None = None
        self._pages: dict[int, _Pages] = {}  # of the present pass, by block size
        self._fixed = False

    def plan(self, singles: Singles, *, fixed: bool = False) -> None:
        """See `PagedAttention.plan`. Plans for all kinds of layers that were seen before."""
        self._singles, self._fixed = singles, fixed
        self._pages.clear()
        self._planned = {kind: self._plan(kind) for kind in self._known}

    def run(self, query: Tensor, pool: Tensor, call: Call) -> Tensor:
        """See `PagedAttention.run`. A kind of layer that is new is planned for here."""
        (_, heads, size), (_, kv_heads, _, block, _) = query.shape, pool.shape
        kind = _Kind(heads, kv_heads, size, block, call.window, call.softcap, call.scaling,
                     query.dtype)  # fmt: skip
        wrapper = self._planned.get(kind)
        if wrapper is None:
            wrapper = self._planned[kind] = self._plan(kind)
            self._known[kind] = None
        keys, values = pool.transpose(1, 2)  # (blocks, kv heads, block size, size) each: 'HND'
        found: Tensor = wrapper.run(query.contiguous(), (keys, values))
        return found

    def _plan(self, kind: _Kind) -> Any:
        assert self._singles is not None
        if kind.block not in self._pages:
            self._pages[kind.block] = _pages(self._singles, kind.block, self._device)
        wrapper = self._wrapper(kind)
        wrapper.plan(
            *self._pages[kind.block], kind.heads, kind.kv_heads, kind.size, kind.block,
            pos_encoding_mode="NONE",  # queries and keys are rotated already
            window_left=-1 if kind.window is None else kind.window - 1,
            logits_soft_cap=kind.softcap,
            q_data_type=kind.dtype,
            kv_data_type=kind.dtype,
            sm_scale=kind.scaling,
        )  # fmt: skip
        return wrapper

    def _wrapper(self, kind: _Kind) -> Any:
        assert self._singles is not None
        rows = len(self._singles.held) if self._fixed else 0
        if (kind, rows) not in self._wrappers:
            self._wrappers[kind, rows] = self._wrapper_class(
                self._workspace,
                kv_layout="HND",
                use_tensor_cores=kind.heads // kind.kv_heads >= TENSOR_CORES_FROM,
                **(self._buffers(rows) if rows else {}),
            )
        return self._wrappers[kind, rows]

    def _buffers(self, rows: int) -> dict[str, Any]:
        """What a captured wrapper copies its plans into, as large as they may become."""
        assert self._singles is not None

        def room(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=self._device)

        return {
            "use_cuda_graph": True,
            "paged_kv_indptr_buffer": room(rows + 1),
            "paged_kv_indices_buffer": room(self._singles.table.numel()),
            "paged_kv_last_page_len_buffer": room(rows),
        }


def _pages(singles: Singles, block: int, device: torch.device) -> _Pages:
    starts, last = [0], []
    pages: list[int] = []
    for blocks, length in singles.held:
        count = -(-length // block)
        pages += blocks[:count]
        starts.append(len(pages))
        last.append(length - (count - 1) * block)
    starts_, pages_, last_ = (torch.tensor(n, dtype=torch.int32) for n in (starts, pages, last))
    return _Pages(starts_, pages_.to(device), last_)
