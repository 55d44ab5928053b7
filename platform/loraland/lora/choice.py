"""Chooses the operations that compute the adapters' share of one layer in one pass.

Knows counts and what the device can do; knows no tensor. The thresholds come from
`benchmarks/lora_ops.py`.
"""

from __future__ import annotations

from typing import NamedTuple

# CPU, serving. The loop pays about 5 us per segment, `sampled` about 13 us per layer and nothing
# per segment: below three segments the loop wins. Above 32 tokens per segment its matrix products
# outrun the dot products of `sampled`; in between the two are within a fifth of each other.
FEW_SEGMENTS = 2
LONG_ON_CPU = 32

# GPU, serving: not measured yet. A segment that fills a tile of the tensor cores goes to cuBLAS.
LONG_ON_GPU = 64

# Training: the loop copies nothing; `grouped` sorts the tokens, which pays once segments are many.
MANY_SEGMENTS = 32

NEVER = 1 << 62  # no segment is that long


class Conditions(NamedTuple):
    """What a choice depends on."""

    device: str  # "cpu" or "cuda"
    gradients: bool  # must be differentiable
    segments: int | None  # runs of tokens of one adapter; None: only the device knows
    can_sample: bool  # CPU, fp32 or fp64, weights stacked
    can_group: bool  # widths that the grouped product takes
    has_triton: bool


class Choice(NamedTuple):
    """Long segments are looped over, the tokens of all others share one operation."""

    loop_from: int  # tokens of a segment; 1 sends all to the loop, NEVER none
    rest: str  # the operation for the rest


def choose(given: Conditions) -> Choice:
    """The operations for one layer."""
    if given.segments is None:
        return Choice(NEVER, "triton" if given.has_triton else "gathered")
    if given.gradients:
        many = given.segments >= MANY_SEGMENTS and given.can_group
        return Choice(NEVER, "grouped" if many else "loop")
    if given.segments <= FEW_SEGMENTS:
        return Choice(1, "loop")
    if given.device == "cpu":
        return Choice(LONG_ON_CPU, "sampled" if given.can_sample else "gathered")
    return Choice(LONG_ON_GPU, "triton" if given.has_triton else "gathered")
