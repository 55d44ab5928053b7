"""What a batched engine may use; every default in one place, with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of one engine."""

    rows: int = 32  # requests computed together
    pass_tokens: int = 512  # computed in one pass; the longest that others wait for a prompt
    waiting: int = 1024  # requests that may queue before `EngineBusy`
    block_tokens: int = 16  # of a KV block: small wastes little, large gathers faster
    kv_tokens: int = 32_768  # of all rows and of kept prefixes together
    # Of generating rows, copied into one piece each: a quarter less time per token; CPU only.
    seat_tokens: int = 16_384
    slots: int = 32  # adapters on the device beside the base
    max_rank: int = 64  # of an adapter; stacks grow to it only when one needs it
    host_bytes: int = 2 << 30  # of adapters in host memory beyond those in use
    # Who leaves: the least recently used, or what is cheapest to bring back; see
    # benchmarks/residency_replay.py.
    eviction: Literal["lru", "gdsf"] = "lru"
    loads: int = 4  # adapters read from disk at once
    # On a GPU: replay passes in which all rows generate, in place of launching a thousand kernels.
    # Costs memory for each batch size; off for what cannot be captured.
    cuda_graphs: bool = True

    @property
    def blocks(self) -> int:
        """Blocks of the KV cache."""
        return max(1, self.kv_tokens // self.block_tokens)
