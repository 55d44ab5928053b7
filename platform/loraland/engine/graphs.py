"""Passes in which every row generates one token, captured once and replayed.

A forward pass launches thousands of small kernels; a graph launches them at once. Rows are padded
to one of a few batch sizes, and all that a pass depends on lies in tensors that are only
overwritten. Here is the bookkeeping; what captures is told, so that all of it runs without a GPU.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loraland.engine.spans import FixedPass, Held, Singles, table_row
from loraland.lora.rows import BASE, Rows

logger = logging.getLogger(__name__)

STEP = 8  # rows between two batch sizes: at most so many, less one, are computed for nothing
MOST_GRAPHS = 64  # of sizes, with and without adapters; the least recently used goes


class Step(NamedTuple):
    """One row of a pass, which generates."""

    token: int
    slot: int  # of its adapter; 0: the base
    held: Held  # its blocks and its length, this token included


class Output(NamedTuple):
    """What a pass leaves, in tensors that the next replay overwrites."""

    logits: Tensor  # (rows, vocabulary)
    hidden: Tensor  # (rows, hidden size), after the last layer


class Batch(NamedTuple):
    """The tensors that a pass of one size reads, all of them views of shared buffers."""

    ids: Tensor  # (1, rows)
    positions: Tensor  # (1, rows)
    rows: Rows | None  # whose slots are read on the device; None: all of them are base
    fixed: FixedPass


class Key(NamedTuple):
    """What a graph was captured for."""

    size: int  # rows, padding included
    adapted: bool  # whether any row has an adapter: without one no layer asks for slots


Forward = Callable[[Batch], Output]
Capture = Callable[[Callable[[], Output]], Callable[[], Output]]


def batch_sizes(rows: int) -> list[int]:
    """The sizes that passes are padded to; the largest is `rows`.

    >>> batch_sizes(20)
    [1, 2, 4, 8, 16, 20]
    """
    sizes = [1, 2, 4, *range(STEP, rows, STEP), rows]
    return sorted({size for size in sizes if size <= rows})


class Buffers:
    """Tensors for the largest batch; smaller ones use their beginning."""

    def __init__(
        self, rows: int, tokens: int, block_size: int, scratch: int, device: torch.device
    ) -> None:
        """`tokens` is the most that a row may hold, `scratch` the block that padding writes to."""
        self._block, self._scratch = block_size, scratch
        # Ids, positions, slots, places, lengths.
        self._numbers = torch.zeros(5, rows, dtype=torch.long, device=device)
        width = -(-tokens // block_size)
        self._table = torch.zeros(rows, width, dtype=torch.int32, device=device)
        self._batches: dict[Key, Batch] = {}

    def fill(self, key: Key, steps: Sequence[Step]) -> Batch:
        """Write a pass into the tensors of its size; rows that are missing are padding.

        Padding is one token of the base in the scratch block, which attends to itself.
        """
        padding = Step(0, BASE, Held([self._scratch], 1))
        steps = [*steps, *[padding] * (key.size - len(steps))]
        numbers = [
            (token, held.length - 1, slot, self._place(held), held.length)
            for token, slot, held in steps
        ]
        width = max(-(-held.length // self._block) for _, _, held in steps)
        table = [table_row(held.blocks, width) for _, _, held in steps]
        self._numbers[:, : key.size].copy_(torch.tensor(numbers).t())
        self._table[: key.size, :width].copy_(torch.tensor(table, dtype=torch.int32))
        self._table[: key.size, width:].fill_(self._scratch)
        batch = self._batch(key)
        singles = batch.fixed.singles._replace(held=[held for _, _, held in steps])
        return batch._replace(fixed=batch.fixed._replace(singles=singles))

    def _place(self, held: Held) -> int:
        index = held.length - 1
        return held.blocks[index // self._block] * self._block + index % self._block

    def _batch(self, key: Key) -> Batch:
        """Always the same views for a key."""
        if key not in self._batches:
            ids, positions, slots, places, lengths = self._numbers[:, : key.size]
            singles = Singles(slice(0, key.size), self._table[: key.size], lengths, ())
            rows = Rows.on_device(slots) if key.adapted else None
            fixed = FixedPass(key.size, places, singles)
            self._batches[key] = Batch(ids[None], positions[None], rows, fixed)
        return self._batches[key]


class DecodeGraphs:
    """The graphs of one model. Not thread-safe."""

    def __init__(
        self,
        sizes: Sequence[int],
        buffers: Buffers,
        plan: Callable[[FixedPass], None],
        forward: Forward,
        capture: Capture,
        epoch: Callable[[], int],
    ) -> None:
        """`plan` announces a pass, `forward` computes it from the tensors alone, `capture` makes of
        such a computation one that is repeated at once. When `epoch` changes, the tensors that
        graphs have seen may be gone, and they are captured anew.
        """
        self._sizes, self._buffers, self._plan = sorted(sizes), buffers, plan
        self._forward, self._capture, self._epoch_of = forward, capture, epoch
        self._graphs: OrderedDict[Key, Callable[[], Output]] = OrderedDict()
        self._epoch = epoch()
        self.broken: str | None = None  # why nothing is captured any more
        self.captured = self.replayed = 0  # how often

    @torch.inference_mode()
    def run(self, steps: Sequence[Step]) -> Output | None:
        """The pass of these rows, in their order; None where it must be computed another way."""
        key = self._key(steps)
        if key is None or self.broken is not None:
            return None
        batch = self._buffers.fill(key, steps)
        self._plan(batch.fixed)
        replay = self._graphs.get(key) if self._epoch == self._epoch_of() else None
        if replay is None:
            replay = self._captured(key, batch)
        if replay is None:
            return None
        self._graphs.move_to_end(key)
        self.replayed += 1
        logits, hidden = replay()
        return Output(logits[: len(steps)], hidden[: len(steps)])

    def close(self) -> None:
        """Let go of all graphs and their memory."""
        self._graphs.clear()

    def _key(self, steps: Sequence[Step]) -> Key | None:
        size = next((size for size in self._sizes if size >= len(steps)), None)
        return None if size is None else Key(size, any(step.slot != BASE for step in steps))

    def _captured(self, key: Key, batch: Batch) -> Callable[[], Output] | None:
        """A new graph in the place of an old one. What fails once is not tried again."""
        if self._epoch != self._epoch_of():
            self._graphs.clear()
            self._epoch = self._epoch_of()
        if len(self._graphs) >= MOST_GRAPHS:
            self._graphs.popitem(last=False)
        try:
            self._graphs[key] = self._capture(lambda: self._forward(batch))
        except Exception as error:
            self.broken = f"{type(error).__name__}: {error}"
            self._graphs.clear()
            logger.warning("decoding goes on without graphs: a capture failed: %s", self.broken)
            return None
        self.captured += 1
        return self._graphs[key]
