"""Which blocks of the KV cache are free, who holds them, and which prefixes they hold.

Knows counts, owners and token ids; nothing of tensors. A prefix is known by its adapter version and
its exact tokens, so that nothing stale or foreign can match: a version is a content hash.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BASE = ""  # stands for the base where an adapter version is meant

# What a block holds: the tokens of this block, after those of the parent. Parents are named by a
# number that is given once, so that a match is exact and not a matter of hashes.
Prefix = tuple[int | str, tuple[int, ...]]


@dataclass(slots=True)
class _Block:
    holders: int = 0
    prefix: Prefix | None = None  # when its content may be shared
    node: int = 0  # its name as a parent


class BlockPool:
    """Blocks of `block_size` tokens, counted by reference.

    A block without a holder is free; if it holds a known prefix, it keeps it until it is needed for
    something else, the least recently released first.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        """Raises ValueError when there is not at least one block of one token."""
        if blocks < 1 or block_size < 1:
            raise ValueError(f"{blocks} blocks of {block_size} tokens; both must be at least 1")
        self.block_size = block_size
        self._blocks = [_Block() for _ in range(blocks)]
        self._empty = list(range(blocks - 1, -1, -1))  # free, and nothing worth keeping in them
        self._kept: OrderedDict[int, None] = OrderedDict()  # free, with a prefix; oldest first
        self._index: dict[Prefix, int] = {}
        self._nodes = 0

    @property
    def total(self) -> int:
        """All blocks."""
        return len(self._blocks)

    @property
    def free(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._empty) + len(self._kept)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold so many tokens."""
        return -(-tokens // self.block_size)

    def match(self, version: str | None, tokens: Sequence[int]) -> list[int]:
        """The blocks that hold the longest known prefix of `tokens`; changes nothing.

        At least one token is left over, because the next one is computed from it.
        """
        found: list[int] = []
        parent: int | str = version or BASE
        for start in range(0, len(tokens) - self.block_size, self.block_size):
            block = self._index.get((parent, tuple(tokens[start : start + self.block_size])))
            if block is None:
                break
            found.append(block)
            parent = self._blocks[block].node
        return found

    def can_take(self, shared: Sequence[int], fresh: int) -> bool:
        """Whether `take` would succeed."""
        return self.free - sum(self._blocks[block].holders == 0 for block in shared) >= fresh

    def take(self, shared: Sequence[int], fresh: int) -> list[int]:
        """Hold the blocks of a known prefix and so many new ones; all or none.

        Returns the shared ones and then the new ones. Raises ValueError when they do not suffice.
        """
        if not self.can_take(shared, fresh):
            raise ValueError(f"{fresh} blocks wanted, {self.free} of {self.total} are free")
        for block in shared:
            self._blocks[block].holders += 1
            self._kept.pop(block, None)
        return [*shared, *(self._fresh() for _ in range(fresh))]

    def _fresh(self) -> int:
        if self._empty:
            block = self._empty.pop()
        else:
            block, _ = self._kept.popitem(last=False)
            self._forget(block)
        self._blocks[block].holders = 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks of one row, in the row's order.

        The end of a prefix is worth less than its beginning, so it is given away first.
        """
        for block in reversed(blocks):
            held = self._blocks[block]
            if held.holders < 1:
                raise ValueError(f"block {block} is released more often than it was taken")
            held.holders -= 1
            if held.holders == 0:
                if held.prefix is None:
                    self._empty.append(block)
                else:
                    self._kept[block] = None

    def share(
        self, version: str | None, tokens: Sequence[int], blocks: Sequence[int], first: int
    ) -> None:
        """Make full blocks known: `blocks[i]` holds the i-th block of `tokens`.

        Those before `first` are known already. Where another block holds the same prefix, that one
        stays the known one and the chain goes on from it.
        """
        size = self.block_size
        parent = self._parent(version, tokens, first)
        if parent is None:
            return  # the beginning was given away; what follows it cannot be found
        for index in range(first, len(tokens) // size):
            prefix = (parent, tuple(tokens[index * size : (index + 1) * size]))
            known = self._index.get(prefix)
            if known is None:
                known = blocks[index]
                if self._blocks[known].prefix is not None:
                    return  # known under another parent, which has been given away since
                self._nodes += 1
                self._blocks[known].prefix = prefix
                self._blocks[known].node = self._nodes
                self._index[prefix] = known
            parent = self._blocks[known].node

    def _parent(self, version: str | None, tokens: Sequence[int], first: int) -> int | str | None:
        if first == 0:
            return version or BASE
        found = self.match(version, [*tokens[: first * self.block_size], 0])
        return self._blocks[found[-1]].node if len(found) == first else None

    def forget(self, blocks: Sequence[int]) -> None:
        """Never match these blocks again; their content is not to be trusted."""
        for block in blocks:
            self._forget(block)
            if block in self._kept:
                del self._kept[block]
                self._empty.append(block)

    def _forget(self, block: int) -> None:
        held = self._blocks[block]
        if held.prefix is not None:
            del self._index[held.prefix]
            held.prefix = None

    def check(self, holders: Sequence[Sequence[int]]) -> None:
        """Raises AssertionError unless the pool is whole and held by exactly these rows."""
        counted = [0] * self.total
        empty = set(self._empty)
        for blocks in holders:
            for block in blocks:
                counted[block] += 1
        for block, held in enumerate(self._blocks):
            places = (block in empty) + (block in self._kept)
            assert held.holders == counted[block], (
                f"block {block} has {held.holders} holders by count, {counted[block]} by name"
            )
            assert places == (held.holders == 0), f"block {block} is in {places} lists of free ones"
            known = held.prefix is None or self._index[held.prefix] == block
            assert known, f"the index has another block for the prefix of block {block}"
        assert len(empty) == len(self._empty), "a block is free twice"
        assert len(self._index) == sum(held.prefix is not None for held in self._blocks)
