"""Turns a way to draw one row into endless rows of a split.

The split of a row follows from its content alone: a hash of the row's key decides, so no seed and
no number of rows can put the same content on both sides. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loraland.tasks.task import Row, SplitName
from loraland.tasks.text import normalised_hash

TEST_SHARE = 5  # one key in so many belongs to test


@dataclass(frozen=True, slots=True)
class Generator:
    """One generated task: how a row is drawn, and which of its content decides the split."""

    name: str
    draw: Callable[[random.Random], Row]  # one row; takes all its randomness from the argument
    key: Callable[
        [Row], str
    ]  # rows whose keys are the same text up to case and spacing share a split

    def rows(self, split: SplitName, seed: int = 0) -> Iterator[Row]:
        """Rows of one split without end; the same for the same seed, on every machine.

        A row may come again after thousands of others; a row of one split never comes in the other.
        """
        rng = random.Random(_stream_seed(self.name, split, seed))
        while True:
            row = self.draw(rng)
            if is_test(self.key(row)) == (split == "test"):
                yield row


def is_test(key: str) -> bool:
    """Whether content with that key belongs to the test split: one in TEST_SHARE, by its hash."""
    return int(normalised_hash(key)[:12], 16) % TEST_SHARE == 0


def _stream_seed(name: str, split: str, seed: int) -> int:
    digest = hashlib.sha256(f"{name}/{split}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
