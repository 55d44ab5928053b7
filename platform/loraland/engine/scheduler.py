"""Decides what the next forward pass computes: which rows, and which of their tokens.

Told: rows with their tokens and adapters, the free blocks, which adapters sit in a device slot. Not
told: tensors, clocks, files. A pass has a budget of tokens. Rows that generate come first, one
token each; what is left goes to prompts, in pieces where needed. Adapters share what is computed:
the one that got least is next (Sheng et al. 2024, "Fairness in Serving Large Language Models",
algorithm 2), so that a hot one cannot starve the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from loraland.engine.blocks import BlockPool


@dataclass(slots=True, eq=False)
class Row:
    """A request on its way: its tokens, and how far they are computed."""

    id: str
    version: str | None  # of its adapter; None is the base
    tokens: list[int]  # the prompt, then the answer
    prompt_tokens: int
    max_new_tokens: int
    computed: int = 0  # tokens whose keys and values are in the blocks
    blocks: list[int] = field(default_factory=list)
    shared: int = 0  # full blocks that the prefix cache knows
    reused_tokens: int = 0  # that the prefix cache saved it

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be chosen; at least 1."""
        return len(self.tokens) - self.computed


class Work(NamedTuple):
    """What a pass computes of one row."""

    row: Row
    start: int  # position of the first token
    size: int  # tokens

    @property
    def chooses(self) -> bool:
        """Whether a token is chosen after it: all before it is computed then."""
        return self.start + self.size == len(self.row.tokens)


class Limits(NamedTuple):
    """What a pass may hold."""

    rows: int  # running together
    tokens: int  # computed in one pass
    waiting: int  # rows that may queue


@dataclass(slots=True)
class _Queue:
    """The waiting rows of one adapter, and what it was given so far."""

    rows: deque[Row] = field(default_factory=deque)
    served: float = 0.0  # tokens computed for it
    running: int = 0
    passed_over: int = 0  # passes in which its turn came and its adapter had no slot


class Scheduler:
    """Rows that wait and rows that run. One thread calls it."""

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        """Raises ValueError when generating rows alone could use up the tokens of a pass."""
        if not 0 < limits.rows < limits.tokens:
            raise ValueError(
                f"{limits.rows} rows and {limits.tokens} tokens in a pass; there must be at least "
                "one row, and more tokens than rows, so that prompts go on beside answers"
            )
        self._pool, self.limits = pool, limits
        self._queues: dict[str | None, _Queue] = {}
        self.running: list[Row] = []  # oldest first
        self.preemptions = 0

    # Rows

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return sum(len(queue.rows) for queue in self._queues.values())

    @property
    def is_full(self) -> bool:
        """Whether one row more would exceed the queue's limit."""
        return self.waiting >= self.limits.waiting

    def add(self, row: Row) -> None:
        """Let a row wait. One that fits into the empty pool comes to its end, whoever else runs."""
        queue = self._queues.get(row.version)
        if queue is None:
            # Who was away has saved nothing up: it starts level with the least served of now.
            level = min((other.served for other in self._queues.values()), default=0.0)
            queue = self._queues[row.version] = _Queue(served=level)
        queue.rows.append(row)

    def remove(self, row: Row) -> None:
        """Take a row out, wherever it is, and free what it holds."""
        queue = self._queues[row.version]
        if row in self.running:
            self.running.remove(row)
            queue.running -= 1
            self._free(row)
        else:
            queue.rows.remove(row)
        self._drop_idle(row.version)

    def _drop_idle(self, version: str | None) -> None:
        queue = self._queues[version]
        if not queue.rows and not queue.running:
            del self._queues[version]

    def _free(self, row: Row) -> None:
        self._pool.release(row.blocks)
        row.blocks, row.computed, row.shared = [], 0, 0

    def wanted(self) -> list[str]:
        """The adapters of waiting rows, the one whose turn is next first."""
        return [version for version in self._order() if version is not None]

    def has_starving(self, patience: int) -> bool:
        """Whether an adapter's turn came in more than `patience` passes and it had no slot."""
        return any(queue.rows and queue.passed_over > patience for queue in self._queues.values())

    def _order(self) -> list[str | None]:
        waiting = [version for version, queue in self._queues.items() if queue.rows]
        return sorted(waiting, key=lambda version: self._queues[version].served)

    # Passes

    def next_pass(self, ready: Callable[[str], bool], draining: Collection[str] = ()) -> list[Work]:
        """What to compute now; empty when nothing can be.

        `ready` says whether an adapter sits in a slot. Rows of `draining` adapters go on, but none
        begins: their slots are to get free. Rows that continue prompts come first in the result,
        rows that generate last.
        """
        before = self.preemptions
        decoding = self._decoding()
        filling = self._continued(self.limits.tokens - len(decoding))
        if self.preemptions == before:  # else blocks are short, and the next row would lose them
            budget = self.limits.tokens - len(decoding) - sum(work.size for work in filling)
            filling += self._admitted(budget, ready, draining)
        # A row that gave up its blocks for another of this pass is in it no longer.
        return [work for work in (*filling, *decoding) if work.row.blocks]

    def done(self, works: Iterable[Work]) -> None:
        """Note that a pass was computed; full blocks may be shared from now on.

        Tokens are appended to the rows after this.
        """
        size = self._pool.block_size
        for row, start, computed in works:
            row.computed = start + computed
            full = row.computed // size
            if full > row.shared:
                known = row.tokens[: full * size]
                self._pool.share(row.version, known, row.blocks, row.shared)
                row.shared = full

    def _decoding(self) -> list[Work]:
        """One token of each row that generates, the oldest first; the youngest make room."""
        works: list[Work] = []
        for row in list(self.running):
            if row.remaining == 1 and row.blocks and self._grow(row):
                works.append(self._work(row, 1))
        return works

    def _continued(self, budget: int) -> list[Work]:
        """The next pieces of prompts that were begun."""
        works: list[Work] = []
        for row in self.running:
            if row.remaining > 1 and budget > 0:
                works.append(self._work(row, min(row.remaining, budget)))
                budget -= works[-1].size
        return works

    def _admitted(
        self, budget: int, ready: Callable[[str], bool], draining: Collection[str]
    ) -> list[Work]:
        """The first pieces of waiting rows, as far as rows, blocks and tokens suffice."""
        works: list[Work] = []
        passed: set[str | None] = set(draining)
        while budget > 0 and len(self.running) < self.limits.rows:
            turns = [version for version in self._order() if version not in passed]
            if not turns:
                break
            version, queue = turns[0], self._queues[turns[0]]
            row = queue.rows[0]
            known = self._pool.match(version, row.tokens)
            if version is not None and not ready(version):
                queue.passed_over += 1
                passed.add(version)
                continue
            queue.passed_over = 0
            if self._is_coming(row, len(known)):
                passed.add(version)
                continue
            if not self._admit(row, known):
                break  # whose turn it is waits for blocks; nobody takes them away before
            works.append(self._work(row, min(row.remaining, budget)))
            budget -= works[-1].size
        return works

    def _work(self, row: Row, size: int) -> Work:
        self._queues[row.version].served += size
        return Work(row, row.computed, size)

    def _is_coming(self, row: Row, known: int) -> bool:
        """Whether a running row is about to compute the block that this one needs next."""
        end = (known + 1) * self._pool.block_size
        return end < len(row.tokens) and any(
            other.version == row.version
            and other.computed < min(end, other.prompt_tokens)
            and other.tokens[:end] == row.tokens[:end]
            for other in self.running
        )

    def _admit(self, row: Row, known: list[int]) -> bool:
        # All of the prompt must find room, and a block for each row that generates, so that no row
        # is begun which the next pass would push out again.
        fresh = self._pool.blocks_for(len(row.tokens)) - len(known)
        if not self._pool.can_take(known, fresh + len(self.running)):
            return False
        queue = self._queues[row.version]
        queue.rows.popleft()
        queue.running += 1
        row.blocks = self._pool.take(known, fresh)
        row.computed = row.reused_tokens = len(known) * self._pool.block_size
        row.shared = len(known)
        self.running.append(row)
        return True

    def _grow(self, row: Row) -> bool:
        """Give a row a block for its next token if it needs one; False when it had to give way."""
        if len(row.blocks) * self._pool.block_size > row.computed:
            return True
        while not self._pool.can_take([], 1):
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is row:
                return False
        row.blocks += self._pool.take([], 1)
        return True

    def _preempt(self, row: Row) -> None:
        """Send a row back to the head of its queue; it computes again what is not kept."""
        self.running.remove(row)
        queue = self._queues[row.version]
        queue.running -= 1
        queue.rows.appendleft(row)
        self._free(row)
        self.preemptions += 1
