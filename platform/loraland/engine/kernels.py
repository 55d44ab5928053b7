"""The contract of attention over paged keys and values, and which implementation a model gets.

On a GPU one of three attends for all rows that generate: FlashInfer, a Triton kernel of ours, or
plain torch. `kernel_choice` says which; here it is looked up what there is, and each candidate is
tried on one row before it is trusted. Knows shapes and devices; nothing of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from loraland.engine.attention import Call
from loraland.engine.kernel_choice import Conditions, Heads, candidates
from loraland.engine.spans import Held, Singles

logger = logging.getLogger(__name__)


class PagedAttention(Protocol):
    """Attention of one token per row over the keys and values of its blocks."""

    @property
    def name(self) -> str:
        """Of the implementation, as it appears in the statistics."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether only the tokens that a row has are read, however wide the table is."""
        ...

    def plan(self, singles: Singles, *, fixed: bool = False) -> None:
        """Say what the layers of the next pass attend to; once per pass, never within a graph.

        `fixed`: table and lengths are the same tensors at every plan for so many rows, and a graph
        that was captured with them is about to be captured or replayed.
        """
        ...

    def run(self, query: Tensor, pool: Tensor, call: Call) -> Tensor:
        """Attend in one layer: query (rows, heads, size), pool (2, kv heads, blocks, block size,
        size). The tokens of the pass are in the pool already. Returns (rows, heads, size).

        A row never sees the numbers of another, not even multiplied by zero.
        """
        ...


def kernel_for(
    heads: Sequence[Heads], block_size: int, device: torch.device, dtype: torch.dtype
) -> PagedAttention | None:
    """The best implementation that works here for layers of these heads; None on a CPU."""
    if device.type != "cuda":
        return None
    given = Conditions(
        heads=tuple(heads),
        dtype=str(dtype).removeprefix("torch."),
        capability=torch.cuda.get_device_capability(device),
        has_triton=find_spec("triton") is not None,
        has_flashinfer=find_spec("flashinfer") is not None,
    )
    return first_that_works(candidates(given), heads, block_size, device, dtype)


def first_that_works(
    names: Sequence[str],
    heads: Sequence[Heads],
    block_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> PagedAttention:
    """The first of the named implementations that answers for one row of every kind of heads."""
    for name in names[:-1]:
        try:
            for shape in sorted(set(heads)):
                _try(make_kernel(name, device), shape, block_size, device, dtype)
            return make_kernel(name, device)
        except Exception as error:  # a compiler is missing, a version does not fit, ...
            logger.warning(
                "paged attention by %s does not work here, the next one is taken: %s: %s",
                name, type(error).__name__, error,
            )  # fmt: skip
    return make_kernel(names[-1], device)


def make_kernel(name: str, device: torch.device) -> PagedAttention:
    """An implementation by its name. Raises ImportError for a library that is not installed."""
    if name == "flashinfer":
        from loraland.engine.flashinfer_attention import FlashInferAttention

        return FlashInferAttention(device)
    if name == "triton":
        from loraland.engine.triton_attention import TritonAttention

        return TritonAttention(torch.cuda.get_device_properties(device).multi_processor_count)
    from loraland.engine.gathered_attention import GatheredAttention

    return GatheredAttention()


@torch.inference_mode()
def _try(
    kernel: PagedAttention, heads: Heads, block_size: int, device: torch.device, dtype: torch.dtype
) -> None:
    """One row with one token: attention over one key is its value."""
    pool = torch.ones(2, heads.kv, 1, block_size, heads.size, device=device, dtype=dtype)
    query = torch.ones(1, heads.query, heads.size, device=device, dtype=dtype)
    kernel.plan(Singles.of([Held([0], 1)], 0, block_size, device))
    found = kernel.run(query, pool, Call(0, heads.size**-0.5, None, None))
    if not torch.allclose(found, query, atol=1e-2):
        raise RuntimeError("it gave a wrong answer for one row with one token")
