"""FlashInfer is called as its documentation says; where it is installed, it agrees with torch."""

from __future__ import annotations

import random
import sys
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loraland.engine.attention import Call
from loraland.engine.gathered_attention import GatheredAttention
from loraland.engine.spans import Held, Singles

CPU = torch.device("cpu")


class Wrapper:
    """What FlashInfer 0.7 documents of `BatchDecodeWithPagedKVCacheWrapper`, computed by torch."""

    made: list[Wrapper]

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: torch.Tensor | None = None,
        paged_kv_indices_buffer: torch.Tensor | None = None,
        paged_kv_last_page_len_buffer: torch.Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
    ) -> None:
        assert float_workspace_buffer.dtype is torch.uint8 and not float_workspace_buffer.any()
        assert kv_layout == "HND" and backend == "auto" and jit_args is None
        buffers = (
            paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer
        )  # fmt: skip
        assert all((buffer is not None) == use_cuda_graph for buffer in buffers)
        self.buffers, self.use_cuda_graph = buffers, use_cuda_graph
        self.use_tensor_cores, self.plans = use_tensor_cores, 0
        self.made.append(self)

    def plan(
        self,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        pos_encoding_mode: str = "NONE",
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
        sm_scale: float | None = None,
    ) -> None:
        rows = len(last_page_len)
        assert {t.dtype for t in (indptr, indices, last_page_len)} == {torch.int32}
        assert indptr.shape == (rows + 1,) and indptr[0] == 0 and indptr[-1] == len(indices)
        assert indptr.device == last_page_len.device == CPU
        assert bool((indptr.diff() >= 1).all()), "every row has a page"
        assert bool(((last_page_len >= 1) & (last_page_len <= page_size)).all())
        assert num_qo_heads % num_kv_heads == 0 and pos_encoding_mode == "NONE"
        assert self.use_tensor_cores or num_qo_heads // num_kv_heads in (1, 2, 3, 4, 6, 8, 16)
        if self.use_cuda_graph:  # the batch size is fixed, and everything lies in the buffers
            starts, pages, last = self.buffers
            assert starts is not None and pages is not None and last is not None
            assert len(last) == rows and len(starts) == rows + 1 and len(indices) <= len(pages)
            starts.copy_(indptr), last.copy_(last_page_len)
            pages[: len(indices)].copy_(indices)
            indptr, indices, last_page_len = starts, pages, last
        self.pages = indptr, indices, last_page_len
        self.shape = num_qo_heads, num_kv_heads, head_dim, page_size
        self.types = q_data_type, kv_data_type or q_data_type
        self.window = None if window_left == -1 else window_left + 1  # the token itself is seen too
        self.softcap, self.scaling = logits_soft_cap, sm_scale
        self.plans += 1

    def run(
        self, q: torch.Tensor, paged_kv_cache: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        keys, values = paged_kv_cache
        heads, kv_heads, size, block = self.shape
        assert q.shape[1:] == (heads, size) and q.is_contiguous()
        assert keys.shape[1:] == (kv_heads, block, size) and keys.stride() == values.stride()
        assert keys.stride(3) == 1 and (q.dtype, keys.dtype) == self.types
        starts, pages, last = self.pages
        pool = torch.stack([keys, values]).transpose(1, 2)
        found = []
        for row, (first, stop) in enumerate(pairwise(starts)):
            length = int((stop - first - 1) * block + last[row])
            oracle = GatheredAttention()
            oracle.plan(Singles.of([Held(pages[first:stop].tolist(), length)], 0, block, CPU))
            call = Call(0, self.scaling or size**-0.5, self.window, self.softcap or None)
            found.append(oracle.run(q[row : row + 1], pool, call))
        return torch.cat(found)


@pytest.fixture
def flashinfer(monkeypatch):
    from loraland.engine import flashinfer_attention

    Wrapper.made = []
    module = SimpleNamespace(BatchDecodeWithPagedKVCacheWrapper=Wrapper)
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.setattr(flashinfer_attention, "WORKSPACE_BYTES", 64)
    return flashinfer_attention.FlashInferAttention(CPU)


def a_pass(chance, rows, block=16, longest=100):
    lengths = [chance.randint(1, longest) for _ in range(rows)]
    needed = [-(-length // block) for length in lengths]
    places = chance.sample(range(60), sum(needed))
    held = [
        # More blocks than the tokens need: those of tokens to come.
        Held([places.pop() for _ in range(count)] + [59] * chance.randint(0, 2), length)
        for count, length in zip(needed, lengths, strict=True)
    ]
    return Singles.of(held, 0, block, CPU)


def as_wide_as_any(singles):
    """A table of fixed tensors has room for the longest rows."""
    missing = 8 - singles.table.shape[1]
    return singles._replace(table=torch.nn.functional.pad(singles.table, (0, missing)))


def agree(kernel, singles, pool, query, call):
    oracle = GatheredAttention()
    oracle.plan(singles)
    found, expected = kernel.run(query, pool, call), oracle.run(query, pool, call)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


CALLS = [Call(0, 0.125, None, None), Call(1, 0.125, 20, None), Call(2, 0.2, None, 30.0)]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("group", [1, 7])
def test_calls_are_as_documented_and_answers_are_torchs(flashinfer, fixed, group) -> None:
    chance = random.Random(group)
    pool = torch.randn(2, 2, 60, 16, 64)
    for _ in range(4):
        singles, query = a_pass(chance, 3), torch.randn(2 * group, 3, 64).transpose(0, 1)
        singles = as_wide_as_any(singles) if fixed else singles
        flashinfer.plan(singles, fixed=fixed)
        for call in CALLS:
            agree(flashinfer, singles, pool, query, call)
    # A wrapper for each kind of layer, planned once in each pass, whatever number of layers run.
    assert [wrapper.plans for wrapper in Wrapper.made] == [4] * len(CALLS)
    assert all(wrapper.use_cuda_graph == fixed for wrapper in Wrapper.made)
    assert all(wrapper.use_tensor_cores == (group == 7) for wrapper in Wrapper.made)


def test_layers_alike_share_a_plan_and_known_kinds_are_planned_ahead(flashinfer) -> None:
    """What is captured may plan nothing: `run` must find everything planned."""
    singles, pool = a_pass(random.Random(1), 2), torch.randn(2, 1, 60, 16, 64)
    query = torch.randn(2, 4, 64)
    flashinfer.plan(singles, fixed=True)
    for layer in range(3):
        flashinfer.run(query, pool, Call(layer, 0.125, None, None))
    assert [wrapper.plans for wrapper in Wrapper.made] == [1]
    flashinfer.plan(singles, fixed=True)
    assert [wrapper.plans for wrapper in Wrapper.made] == [2]
    flashinfer.run(query, pool, Call(0, 0.125, None, None))
    assert [wrapper.plans for wrapper in Wrapper.made] == [2]


def test_captured_passes_have_wrappers_of_their_own_for_each_size(flashinfer) -> None:
    chance, pool = random.Random(2), torch.randn(2, 1, 60, 16, 64)
    for rows in (1, 2, 1, 2):
        singles, query = a_pass(chance, rows), torch.randn(rows, 2, 64)
        for fixed in (True, False):
            flashinfer.plan(as_wide_as_any(singles) if fixed else singles, fixed=fixed)
            agree(flashinfer, singles, pool, query, CALLS[0])
    assert [wrapper.use_cuda_graph for wrapper in Wrapper.made] == [True, False, True]


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("flashinfer") is None,
    reason="needs a CUDA device and FlashInfer",
)
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("group", [1, 4, 7])
@pytest.mark.parametrize("fixed", [False, True])
@torch.inference_mode()
def test_flashinfer_agrees_with_torch(size: int, group: int, fixed: bool) -> None:
    from loraland.engine.flashinfer_attention import FlashInferAttention

    device, chance = torch.device("cuda"), random.Random(size + group)
    kernel = FlashInferAttention(device)
    pool = torch.randn(2, 2, 60, 16, size, device=device, dtype=torch.bfloat16)
    for _ in range(2):
        given = a_pass(chance, 3)
        given = as_wide_as_any(given) if fixed else given
        singles = given._replace(table=given.table.cuda(), lengths=given.lengths.cuda())
        query = torch.randn(2 * group, 3, size, device=device, dtype=torch.bfloat16)
        kernel.plan(singles, fixed=fixed)
        for call in CALLS:
            oracle = GatheredAttention()
            oracle.plan(singles)
            found = kernel.run(query.transpose(0, 1), pool, call)
            expected = oracle.run(query.transpose(0, 1).contiguous().float(), pool.float(), call)
            torch.testing.assert_close(found.float(), expected, atol=3e-2, rtol=3e-2)
