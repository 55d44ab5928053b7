"""Attention of one token per row over paged keys and values, as two Triton kernels.

Flash-decoding: the keys of a row are dealt out to several programs, so that a few long rows fill a
GPU as well as many short ones; a second kernel puts the parts together. Tables and lengths are read
on the device, so that a graph can capture it. Import this module only where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from loraland.engine.attention import Call
from loraland.engine.spans import Singles

FEWEST = 16  # rows and columns of a product on tensor cores
LEAST_TOKENS = 256  # of a part: fewer cost more to put together than they save; not measured yet
MOST_SPLITS = 32
TILE_BYTES = 8_192  # of keys that a program reads at once: with more, registers spill on sm_80


@triton.jit(do_not_specialize=["width", "window"])  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]  # pragma: no cover
    query, keys, values, table, lengths, out, parts, peaks, sums,
    query_row, query_head, pool_head, width, scaling, softcap, window,
    GROUP: tl.constexpr, MEMBERS: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """A part of the keys of one row, for the query heads that share a key-value head."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32)
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(length - window, 0)
    # Whole tiles from `first` on; each of them holds a key that is seen.
    start, stop = first // TILE, tl.cdiv(length, TILE)
    each = tl.cdiv(stop - start, SPLITS)
    start += split * each
    stop = tl.minimum(start + each, stop)

    member, column = tl.arange(0, MEMBERS), tl.arange(0, COLUMNS)
    heads = head * GROUP + member
    real = (member < GROUP)[:, None] & (column < SIZE)[None, :]
    place = query + row * query_row + heads[:, None] * query_head + column[None, :]
    some_query = tl.load(place, mask=real, other=0.0).to(PRODUCT)
    peak = tl.full((MEMBERS,), float("-inf"), tl.float32)
    total = tl.zeros((MEMBERS,), tl.float32)
    result = tl.zeros((MEMBERS, COLUMNS), tl.float32)
    for tile in tl.range(start, stop, num_stages=3):
        token = tile * TILE + tl.arange(0, TILE)
        seen = (token < length) & (token >= first)
        block = tl.load(table + row * width + token // BLOCK, mask=seen, other=0).to(tl.int64)
        base = head * pool_head + (block * BLOCK + token % BLOCK) * SIZE
        inside = seen[:, None] & (column < SIZE)[None, :]
        key = tl.load(keys + base[:, None] + column[None, :], mask=inside, other=0.0).to(PRODUCT)
        score = tl.dot(some_query, tl.trans(key), input_precision="ieee") * scaling
        if HAS_SOFTCAP:  # softcap * tanh(score / softcap)
            score = softcap * (2.0 * tl.sigmoid(2.0 * score / softcap) - 1.0)
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(peak, tl.max(score, 1))
        weight, kept = tl.exp(score - higher[:, None]), tl.exp(peak - higher)
        value = tl.load(values + base[:, None] + column[None, :], mask=inside, other=0.0)
        rounded = weight.to(value.dtype).to(PRODUCT)
        product = tl.dot(rounded, value.to(PRODUCT), input_precision="ieee")
        result = result * kept[:, None] + product
        total = total * kept + tl.sum(weight, 1)
        peak = higher
    if SPLITS == 1:
        place = out + (row * tl.num_programs(1) * GROUP + heads[:, None]) * SIZE + column[None, :]
        tl.store(place, (result / total[:, None]).to(out.dtype.element_ty), mask=real)
    else:
        part = (row * tl.num_programs(1) * GROUP + heads) * SPLITS + split
        tl.store(peaks + part, peak, mask=member < GROUP)
        tl.store(sums + part, total, mask=member < GROUP)
        if start < stop:
            tl.store(parts + part[:, None] * SIZE + column[None, :], result, mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _join(  # type: ignore[no-untyped-def]  # pragma: no cover
    parts, peaks, sums, out,
    SIZE: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """The parts of one row and query head put together."""
    which = tl.program_id(0).to(tl.int64)
    split, column = tl.arange(0, SPLITS), tl.arange(0, COLUMNS)
    peak = tl.load(peaks + which * SPLITS + split)
    total = tl.load(sums + which * SPLITS + split)
    full = total != 0.0  # the others saw no key and wrote no part; what is not a number goes on
    weight = tl.where(full, tl.exp(peak - tl.max(peak, 0)), 0.0)
    place = parts + (which * SPLITS + split)[:, None] * SIZE + column[None, :]
    part = tl.load(place, mask=full[:, None] & (column < SIZE)[None, :], other=0.0)
    result = tl.sum(part * weight[:, None], 0) / tl.sum(total * weight, 0)
    tl.store(out + which * SIZE + column, result.to(out.dtype.element_ty), mask=column < SIZE)


def attend(
    query: Tensor, pool: Tensor, table: Tensor, lengths: Tensor, call: Call, splits: int
) -> Tensor:
    """query (rows, heads, size), pool (2, kv heads, blocks, block size, size), table (rows, blocks
    of the longest) and lengths (rows,), at least 1. Returns (rows, heads, size) like `query`.

    Sums are kept in fp32. `splits` is a power of two.
    """
    rows, heads, size = query.shape
    kv_heads, block = pool.shape[1], pool.shape[3]
    query = query if query.stride(2) == 1 else query.contiguous()
    out = query.new_empty(rows, heads, size)
    if rows == 0:
        return out
    columns = max(FEWEST, triton.next_power_of_2(size))
    split = (rows, heads, splits) if splits > 1 else (0, 0, 0)
    parts = query.new_empty(*split, size, dtype=torch.float32)
    peaks, sums = (query.new_empty(split, dtype=torch.float32) for _ in range(2))
    group = heads // kv_heads
    _attend[rows, kv_heads, splits](
        query, pool[0], pool[1], table, lengths, out, parts, peaks, sums,
        query.stride(0), query.stride(1), pool.stride(1), table.stride(0),
        call.scaling, call.softcap or 0.0, call.window or 0,
        GROUP=group, MEMBERS=max(FEWEST, triton.next_power_of_2(group)), SIZE=size,
        COLUMNS=columns, BLOCK=block, TILE=tile_of(columns * pool.element_size()), SPLITS=splits,
        HAS_WINDOW=call.window is not None, HAS_SOFTCAP=call.softcap is not None,
        PRODUCT=product_of(pool.dtype),
    )  # fmt: skip
    if splits > 1:
        _join[rows * heads,](parts, peaks, sums, out, SIZE=size, COLUMNS=columns, SPLITS=splits)
    return out


def product_of(dtype: torch.dtype) -> Any:
    """What products are made of: the cache's own type, but Triton's interpreter knows no bf16."""
    if dtype is torch.bfloat16 and triton.knobs.runtime.interpret:
        return tl.float32
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[
        dtype
    ]


def tile_of(key_bytes: int) -> int:
    """Tokens that a program reads at once, a power of two; `key_bytes` of one key, padded."""
    return max(FEWEST, min(64, TILE_BYTES // key_bytes))


def splits_of(programs: int, tokens: int, processors: int) -> int:
    """Into how many parts the keys of a row are cut: enough to give each processor two programs.

    `programs` are rows times key-value heads, `tokens` the most that a row may hold.

    >>> [splits_of(programs, 4096, 132) for programs in (8, 64, 256, 512)]
    [16, 4, 1, 1]
    """
    wanted = max(1, 2 * processors // programs)
    most = max(1, min(MOST_SPLITS, tokens // LEAST_TOKENS, wanted))
    return 1 << (most.bit_length() - 1)


class TritonAttention:
    """`PagedAttention` by the kernels above."""

    name = "triton"
    in_place = True

    def __init__(self, processors: int) -> None:
        """`processors` are the multiprocessors of the device."""
        self._processors = processors
        self._singles: Singles | None = None

    def plan(self, singles: Singles, *, fixed: bool = False) -> None:
        """See `PagedAttention.plan`. Nothing is computed ahead."""
        self._singles = singles

    def run(self, query: Tensor, pool: Tensor, call: Call) -> Tensor:
        """See `PagedAttention.run`."""
        assert self._singles is not None
        table = self._singles.table
        tokens = table.shape[1] * pool.shape[3]
        splits = splits_of(len(query) * pool.shape[1], tokens, self._processors)
        return attend(query, pool, table, self._singles.lengths, call, splits)
