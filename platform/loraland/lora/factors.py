"""The matrices of one linear layer, slot by slot: stacked for serving, apart for training.

Both kinds answer the same questions, so that every operation works on both. Scales are folded into
B here; operations never see them. Knows nothing of rows or of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from loraland.lora.weights import LoraPair

SMALLEST_WIDTH = 8  # ranks are stacked in widths of 8, 16, 32, ...


class Pair(NamedTuple):
    """One slot's matrices as operations want them: the adapter adds x a b."""

    a: Tensor  # (in, rank)
    b: Tensor  # (rank, out), scale included


class Layout:
    """Which rank each slot has in a layer. Compared by identity: layers alike share one."""

    __slots__ = ("__weakref__", "ranks", "width")

    def __init__(self, ranks: tuple[int, ...], width: int) -> None:
        self.ranks = ranks  # by slot, the base first; 0 where a slot does not adapt the layer
        self.width = width  # of the stacks


class Factors(Protocol):
    """What an operation may ask of a layer's adapters."""

    shape: tuple[int, int]  # in_features, out_features
    device: torch.device
    layout: Layout
    trainable: bool

    def pair(self, slot: int) -> Pair:
        """The matrices of a slot with a rank above 0."""
        ...

    def stack(self) -> tuple[Tensor, Tensor]:
        """All slots: (slots + 1, width, in) and (slots + 1, width, out), padded with zeros."""
        ...

    def flat(self) -> Pair:
        """All slots side by side: (in, (slots + 1) * width) and ((slots + 1) * width, out)."""
        ...


class ServedFactors:
    """Stacks that are written slot by slot and read in place."""

    trainable = False

    def __init__(self, a: Tensor, b: Tensor, layout: Layout, pairs: dict[int, Pair]) -> None:
        self._a, self._b, self._pairs = a, b, pairs
        self.shape, self.device = (a.shape[2], b.shape[2]), a.device
        self.layout = layout
        self._flat = Pair(a.flatten(0, 1).t(), b.flatten(0, 1))

    @classmethod
    def empty(
        cls, shape: tuple[int, int], layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> ServedFactors:
        """Zeros for all slots of a layout. `shape` is (in, out) of the layer."""
        slots = len(layout.ranks)
        a, b = (
            torch.zeros(slots, layout.width, size, device=device, dtype=dtype) for size in shape
        )
        return cls(a, b, layout, {})

    @property
    def size_bytes(self) -> int:
        """Memory of the stacks."""
        return self._a.nbytes + self._b.nbytes

    def widened(self, layout: Layout) -> ServedFactors:
        """A copy with room for higher ranks."""
        old = self._a.shape[1]
        wide = self.empty(self.shape, layout, self._a.device, self._a.dtype)
        wide._a[:, :old], wide._b[:, :old] = self._a, self._b
        wide._pairs = {slot: wide._view(slot, len(p.b)) for slot, p in self._pairs.items()}
        return wide

    def prepare(self, slot: int, pair: LoraPair, layout: Layout) -> Callable[[], None]:
        """What replaces the content of a slot when it is called; that allocates nothing.

        `layout` is the one that holds afterwards.
        """
        a = pair.a.t().to(self.device, self._a.dtype)
        # Scaled in fp32, whatever the adapter was saved in, and rounded once.
        b = pair.b.to(self.device).float().mul(pair.scale).t().to(self._b.dtype)
        return partial(self._write, slot, Pair(a, b), layout)

    def _write(self, slot: int, pair: Pair, layout: Layout) -> None:
        self.clear(slot, layout)
        view = self._pairs[slot] = self._view(slot, len(pair.b))
        view.a.copy_(pair.a)
        view.b.copy_(pair.b)

    def clear(self, slot: int, layout: Layout) -> None:
        """Empty a slot."""
        self.layout = layout
        if self._pairs.pop(slot, None) is not None:
            self._a[slot].zero_()
            self._b[slot].zero_()

    def pair(self, slot: int) -> Pair:
        """The matrices of a slot with a rank above 0: views of the stacks."""
        return self._pairs[slot]

    def stack(self) -> tuple[Tensor, Tensor]:
        """The stacks themselves."""
        return self._a, self._b

    def flat(self) -> Pair:
        """Views of the stacks."""
        return self._flat

    def _view(self, slot: int, rank: int) -> Pair:
        return Pair(self._a[slot, :rank].t(), self._b[slot, :rank])


class TrainedFactors:
    """Parameters of their own for each slot, in PEFT's shapes."""

    trainable = True

    def __init__(
        self, shape: tuple[int, int], layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape, self.device, self._dtype = shape, device, dtype
        self.layout = layout
        self.slots: dict[int, LoraPair] = {}  # slot -> Parameters

    @property
    def size_bytes(self) -> int:
        """Memory of the parameters."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.slots.values())

    def prepare(self, slot: int, pair: LoraPair, layout: Layout) -> Callable[[], None]:
        """What gives a slot new parameters with these values when it is called."""
        a, b = (
            nn.Parameter(side.detach().to(self.device, self._dtype, copy=True))
            for side in (pair.a, pair.b)
        )
        return partial(self._write, slot, LoraPair(a, b, pair.scale), layout)

    def _write(self, slot: int, pair: LoraPair, layout: Layout) -> None:
        self.slots[slot], self.layout = pair, layout

    def clear(self, slot: int, layout: Layout) -> None:
        """Forget the parameters of a slot."""
        self.slots.pop(slot, None)
        self.layout = layout

    def pair(self, slot: int) -> Pair:
        """The matrices of a slot with a rank above 0; gradients reach the parameters."""
        a, b, scale = self.slots[slot]
        return Pair(a.t(), b.t() * scale)

    def stack(self) -> tuple[Tensor, Tensor]:
        """All slots, stacked anew; gradients reach the parameters."""
        pairs = [self._padded(slot) for slot in range(len(self.layout.ranks))]
        return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    def flat(self) -> Pair:
        """All slots side by side; gradients reach the parameters."""
        a, b = self.stack()
        return Pair(a.flatten(0, 1).t(), b.flatten(0, 1))

    def _padded(self, slot: int) -> tuple[Tensor, Tensor]:
        if slot not in self.slots:
            some = next(iter(self.slots.values())).a
            inputs, outputs = self.shape
            width = self.layout.width
            return some.new_zeros(width, inputs), some.new_zeros(width, outputs)
        a, b = self.pair(slot)
        missing = (0, 0, 0, self.layout.width - len(b))
        return pad(a.t(), missing), pad(b, missing)


def width_of(rank: int, max_rank: int) -> int:
    """The width of a stack that holds a rank: the next of 8, 16, 32, ..., at most `max_rank`.

    >>> [width_of(rank, 48) for rank in (1, 8, 9, 33)]
    [8, 8, 16, 48]
    """
    return max(rank, min(max_rank, max(SMALLEST_WIDTH, 1 << math.ceil(math.log2(rank)))))
