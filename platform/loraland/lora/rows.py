"""Says which slot each token of one forward pass uses; made once per pass, shared by all layers.

Knows slots by number only. What an operation derives from the rows (an order, an index) is kept in
`memo`, so that it is computed once for all layers, and not at all when the same rows come again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

BASE = 0  # the slot of rows without an adapter


class Segment(NamedTuple):
    """Neighbouring tokens of one slot."""

    start: int
    stop: int
    slot: int


class Rows:
    """The slots of the tokens of one pass, in the order in which the layers see the tokens."""

    __slots__ = ("base_only", "key", "memo", "present", "segments", "slots", "tokens")

    key: Hashable  # equal for equal rows
    slots: Tensor  # (tokens,) int64, on the device of the model
    tokens: int
    segments: tuple[Segment, ...]  # all tokens, base ones included; empty when `present` is None
    present: tuple[int, ...] | None  # adapter slots in use, ascending; None: only the device knows
    base_only: bool
    memo: dict[Hashable, Any]

    def __init__(self, slots: Tensor, key: Hashable, segments: tuple[Segment, ...]) -> None:
        self.slots, self.key, self.segments = slots, key, segments
        self.tokens = slots.shape[0]
        self.present = tuple(sorted({part.slot for part in segments} - {BASE}))
        self.base_only = not self.present
        self.memo = {}

    @classmethod
    def of(cls, slots: Sequence[int], device: torch.device | str) -> Rows:
        """Rows with one slot per token; slot 0 is the base. Raises ValueError below 0."""
        key = tuple(slots)
        if key and min(key) < BASE:
            raise ValueError(f"slot {min(key)} does not exist; slots count from 0, the base")
        return cls(torch.tensor(key, dtype=torch.long, device=device), key, _segments(key))

    @classmethod
    def on_device(cls, slots: Tensor) -> Rows:
        """Rows whose slots are read from a tensor at every pass, as a captured graph needs it.

        `slots` (tokens,) is int64 and may be overwritten in place between passes. Operations that
        must know the composition beforehand are never chosen for such rows.
        """
        rows = cls(slots, ("on device", id(slots)), ())
        rows.present, rows.base_only = None, False
        return rows

    @property
    def distinct(self) -> int | None:
        """How many adapters take part; None when only the device knows."""
        return None if self.present is None else len(self.present)

    def window(self, start: int, stop: int, kept: frozenset[Segment]) -> Rows:
        """The rows start to stop, in which all but the `kept` segments count as base."""
        slots = [BASE] * (stop - start)
        for part in kept:
            slots[part.start - start : part.stop - start] = [part.slot] * (part.stop - part.start)
        return Rows.of(slots, self.slots.device)


def _segments(slots: Sequence[int]) -> tuple[Segment, ...]:
    found, start = [], 0
    for slot, run in groupby(slots):
        stop = start + sum(1 for _ in run)
        found.append(Segment(start, stop, slot))
        start = stop
    return tuple(found)
