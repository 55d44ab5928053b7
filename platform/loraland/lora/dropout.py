"""Drops inputs of the adapters, by a stream of its own for each span of tokens.

A mask follows from the stream, the layer and the shape of its span alone: not from what else is in
the pass, nor from the order of passes. It comes out the same when a pass is computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """Neighbouring tokens of one slot whose inputs are dropped."""

    start: int
    stop: int
    slot: int
    rate: float  # share of the inputs that become zero; the others grow by 1 / (1 - rate)
    stream: str  # names the random numbers; the same in every layer


def drop(x: Tensor, spans: Sequence[Span], layer: str) -> Tensor:
    """x (tokens, in) with the inputs of each span dropped; tokens of no span stay as they are."""
    if not spans:
        return x
    scale = torch.ones_like(x)
    numbers = torch.Generator(device=x.device)
    for span in spans:
        numbers.manual_seed(_seed(span.stream, layer))
        kept = scale[span.start : span.stop]
        kept.bernoulli_(1 - span.rate, generator=numbers).div_(1 - span.rate)
    return x * scale


def _seed(stream: str, layer: str) -> int:
    digest = hashlib.blake2b(f"{stream}/{layer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # what a generator takes is signed
