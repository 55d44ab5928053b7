"""What one forward pass holds: the tokens of many rows packed into one sequence, and who sees what.

Prompts are attended to one by one. Single tokens are attended to together: all of them by a kernel
that reads block tables; else those in seats of one size, and those without a seat where their
lengths are similar. Plans and masks only; the keys and values are the paged cache's.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loraland.engine.seats import Seat

PADDING = 1.5  # rows are attended to together while padding adds at most half; not yet tuned


class Span(NamedTuple):
    """The tokens of one row in a pass."""

    start: int  # position of the first one
    size: int  # tokens of this pass
    blocks: Sequence[int]  # all of the row, in order; none: nothing is kept of it
    row: Hashable = None  # who it is, from pass to pass; None: nobody who comes back

    @property
    def is_prompt(self) -> bool:
        """Whether it is attended to by itself, and not together with other single tokens."""
        return self.size > 1 or self.start == 0


class Prompt(NamedTuple):
    """A span of several tokens, or one that starts a row."""

    part: slice  # of the pass
    start: int
    table: Tensor | None  # (blocks so far,); None when nothing was before


class Group(NamedTuple):
    """Rows of one token each that are attended to together."""

    part: slice  # of the pass
    lengths: Tensor  # (rows,), with the token of this pass
    width: int  # keys of each row, the padding included
    table: Tensor | None  # (rows * blocks of the width,); None: they have seats
    seat_size: int = 0  # tokens; its rows are in the seats from 0 on


class Held(NamedTuple):
    """What a row of one token attends to, as the host knows it."""

    blocks: Sequence[int]  # of the row; at least as many as its tokens need
    length: int  # tokens, that of this pass included


class Singles(NamedTuple):
    """Rows of one token each whose blocks are read where they lie, by `PagedAttention`."""

    part: slice  # of the pass
    # (rows, blocks) int32; what a row does not need is its own first block, or nobody's.
    table: Tensor
    lengths: Tensor  # (rows,) int64, with the token of this pass
    held: Sequence[Held]  # the same on the host

    @classmethod
    def of(cls, held: Sequence[Held], first: int, block_size: int, device: torch.device) -> Singles:
        """Tables as wide as the longest row needs."""
        width = -(-max(length for _, length in held) // block_size)
        return cls(
            slice(first, first + len(held)),
            torch.tensor([table_row(blocks, width) for blocks, _ in held], dtype=torch.int32).to(
                device
            ),
            torch.tensor([length for _, length in held], device=device),
            held,
        )


class FixedPass(NamedTuple):
    """A pass of single tokens over tensors that are the same pass after pass, only overwritten."""

    tokens: int
    places: Tensor  # (tokens,), block * size + offset
    singles: Singles
    prompts: tuple[()] = ()
    groups: tuple[()] = ()


class Pass:
    """Where the tokens of one forward pass go, and what they attend to; made once per pass."""

    def __init__(
        self,
        spans: Sequence[Span],
        seats: Sequence[Seat | None],
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        in_tables: bool = False,
    ) -> None:
        """`seats` of each span; `order` says how the spans are packed.

        With `in_tables` single tokens are `singles`, for a kernel that reads blocks in place;
        without it they are `groups`.
        """
        self._device, self._dtype, self._block = device, dtype, block_size
        self.order = sorted(range(len(spans)), key=lambda i: _place(spans[i], seats[i], i))
        self.prompts: list[Prompt] = []
        places: list[int] = []
        singles: list[tuple[Span, Seat | None]] = []
        first = 0
        for i in self.order:
            span = spans[i]
            if span.is_prompt:
                self.prompts.append(self._prompt(first, span))
            else:
                singles.append((span, seats[i]))
            places += _places(span, block_size)
            first += span.size
        self.tokens = first
        # (tokens,), block * size + offset; a pass of which nothing is kept has none.
        self.places = torch.tensor(places, device=device) if places else None
        alone = self.tokens - len(singles)  # the first of the single tokens
        self.singles: Singles | None = None
        self.groups: list[Group] = []
        if not in_tables:
            self.groups = self._groups(singles, alone)
        elif singles:
            held = [Held(span.blocks, span.start + 1) for span, _ in singles]
            self.singles = Singles.of(held, alone, block_size, device)
        self._masks: dict[tuple[object, ...], Tensor] = {}

    def _prompt(self, first: int, span: Span) -> Prompt:
        part = slice(first, first + span.size)
        if span.start == 0:
            return Prompt(part, 0, None)
        held = span.blocks[: -(-(span.start + span.size) // self._block)]
        return Prompt(part, span.start, torch.tensor(held, device=self._device))

    def _groups(self, singles: Sequence[tuple[Span, Seat | None]], first: int) -> list[Group]:
        """Rows of one seat size; rows without a seat are cut where padding would cost more than
        attending together saves.
        """
        groups: list[list[Span]] = []
        sizes: list[int] = []  # of the seats of each group; 0: none
        held = 0  # tokens that the rows of the last group hold
        for span, seat in singles:
            length, of = span.start + 1, seat.size if seat else 0
            padded = (len(groups[-1]) + 1) * length if groups else 0
            if groups and of == sizes[-1] and (of or padded <= PADDING * (held + length)):
                groups[-1].append(span)
                held += length
            else:
                groups.append([span])
                sizes.append(of)
                held = length
        found = []
        for group, of in zip(groups, sizes, strict=True):
            found.append(self._group(group, first, of))
            first += len(group)
        return found

    def _group(self, group: Sequence[Span], first: int, seat_size: int) -> Group:
        lengths = [span.start + 1 for span in group]
        width = -(-max(lengths) // self._block) * self._block
        return Group(
            slice(first, first + len(group)),
            torch.tensor(lengths, device=self._device),
            min(width, seat_size) if seat_size else width,
            None if seat_size else self.table(group, width),
            seat_size,
        )

    def table(self, spans: Sequence[Span], width: int) -> Tensor:
        """(spans * blocks of the width,): the blocks of each; padding is the span's own first."""
        most = -(-width // self._block)
        index: list[int] = []
        for span in spans:
            index += table_row(span.blocks, most)
        return torch.tensor(index, device=self._device)

    def prompt_mask(self, which: int, window: int | None) -> Tensor:
        """(1, 1, size, keys): added to the scores of a prompt's tokens."""
        key = ("prompt", which, window)
        if key not in self._masks:
            part, start, table = self.prompts[which]
            size = part.stop - part.start
            keys = size if table is None else len(table) * self._block
            queries = torch.arange(start, start + size, device=self._device)
            self._masks[key] = self._hidden(queries, keys, window)[None, None]
        return self._masks[key]

    def group_mask(self, which: int, window: int | None) -> Tensor:
        """(rows, 1, 1, keys): added to the scores of single tokens."""
        key = ("group", which, window)
        if key not in self._masks:
            group = self.groups[which]
            self._masks[key] = self._hidden(group.lengths - 1, group.width, window)[:, None, None]
        return self._masks[key]

    def mask_of_heads(self, which: int, window: int | None, heads: int) -> Tensor:
        """(batch, 1, keys), `group_mask` for each row and head: heads of a row beside each other
        where the rows have seats, rows of a head beside each other where they were gathered.
        """
        key = ("heads", which, window, heads)
        if key not in self._masks:
            mask = self.group_mask(which, window)[:, 0]
            seated = self.groups[which].table is None
            self._masks[key] = (
                mask.repeat_interleave(heads, 0) if seated else mask.repeat(heads, 1, 1)
            )
        return self._masks[key]

    def _hidden(self, queries: Tensor, keys: int, window: int | None) -> Tensor:
        """(queries, keys): -inf where a key is later than the query, or before its window."""
        distance = queries[:, None] - torch.arange(keys, device=self._device)[None]
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(hidden, -math.inf)


def table_row(blocks: Sequence[int], width: int) -> list[int]:
    """The first blocks of a row, padded with its own first one: nobody else's is ever read."""
    held = list(blocks[:width])
    return held + held[:1] * (width - len(held))


def _place(span: Span, seat: Seat | None, index: int) -> tuple[int, ...]:
    """Prompts first, then single tokens by seat, then those without one by length."""
    if span.is_prompt:
        return (0, span.start, index)
    return (1, *seat) if seat else (2, span.start, index)


def _places(span: Span, block_size: int) -> list[int]:
    if not span.blocks:
        return []
    return [
        span.blocks[position // block_size] * block_size + position % block_size
        for position in range(span.start, span.start + span.size)
    ]
