"""Chooses how rows that generate attend to their blocks on a GPU.

Knows shapes, the device's generation and what is installed; knows no tensor. Nothing here was
measured yet: the order is that of the kernels' own claims, best first.
"""

from __future__ import annotations

from typing import NamedTuple

# What FlashInfer 0.7 compiles its decoding kernels for. Others it refuses, or pads in ways that its
# documentation does not tell.
FLASHINFER_SIZES = frozenset({64, 128, 256})
FLASHINFER_DTYPES = frozenset({"float16", "bfloat16"})
AMPERE = (8, 0)  # bf16 and asynchronous copies; FlashInfer and Triton are tested from here on

TRITON_DTYPES = frozenset({"float16", "bfloat16", "float32"})
LARGEST_HEAD = 256  # of the Triton kernel: a tile of larger ones does not fit in shared memory


class Heads(NamedTuple):
    """The shape of one layer's attention."""

    query: int
    kv: int
    size: int


class Conditions(NamedTuple):
    """What a choice depends on."""

    heads: tuple[Heads, ...]  # of all layers; one implementation serves them all
    dtype: str  # of keys and values, as torch names it
    capability: tuple[int, int]  # of the GPU
    has_triton: bool
    has_flashinfer: bool


def candidates(given: Conditions) -> tuple[str, ...]:
    """The implementations that fit, best first; `gathered`, plain torch, always does."""
    names = []
    if given.has_flashinfer and _suits_flashinfer(given):
        names.append("flashinfer")
    if given.has_triton and _suits_triton(given):
        names.append("triton")
    return (*names, "gathered")


def _suits_flashinfer(given: Conditions) -> bool:
    return (
        given.capability >= AMPERE
        and given.dtype in FLASHINFER_DTYPES
        and all(heads.size in FLASHINFER_SIZES for heads in given.heads)
    )


def _suits_triton(given: Conditions) -> bool:
    return (
        given.capability >= AMPERE
        and given.dtype in TRITON_DTYPES
        and all(heads.size <= LARGEST_HEAD for heads in given.heads)
    )
