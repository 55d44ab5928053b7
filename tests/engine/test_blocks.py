from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loraland.engine.blocks import BlockPool


def test_a_known_prefix_is_found_and_leaves_a_token_to_compute() -> None:
    pool = BlockPool(8, 2)
    blocks = pool.take([], 3)
    pool.share("v", [1, 2, 3, 4, 5, 6], blocks, 0)
    assert pool.match("v", [1, 2, 3, 4, 5, 6, 7]) == blocks
    assert pool.match("v", [1, 2, 3, 4, 5, 6]) == blocks[:2]
    assert pool.match("v", [1, 2, 9, 4, 5]) == blocks[:1]
    assert pool.match("v", [1]) == []


def test_prefixes_of_other_versions_and_of_the_base_never_match() -> None:
    pool = BlockPool(8, 2)
    pool.share("v", [1, 2], pool.take([], 1), 0)
    assert pool.match("w", [1, 2, 3]) == []
    assert pool.match(None, [1, 2, 3]) == []
    assert pool.match("v", [1, 2, 3]) != []


def test_the_same_tokens_after_another_beginning_do_not_match() -> None:
    pool = BlockPool(8, 1)
    pool.share(None, [1, 5], pool.take([], 2), 0)
    assert len(pool.match(None, [1, 5, 0])) == 2
    assert pool.match(None, [2, 5, 0]) == []


def test_released_prefixes_stay_until_their_blocks_are_needed_and_ends_go_first() -> None:
    pool = BlockPool(3, 1)
    blocks = pool.take([], 3)
    pool.share("v", [1, 2, 3], blocks, 0)
    pool.release(blocks)
    assert pool.free == 3
    pool.take([], 1)
    assert pool.match("v", [1, 2, 3, 4]) == blocks[:2]


def test_shared_blocks_are_held_by_all_who_took_them() -> None:
    pool = BlockPool(2, 1)
    first = pool.take([], 1)
    pool.share("v", [1], first, 0)
    second = pool.take(pool.match("v", [1, 2]), 1)
    assert second[0] == first[0]
    pool.release(first)
    assert not pool.can_take([], 1)
    pool.release(second)
    assert pool.free == 2


def test_blocks_that_are_not_to_be_trusted_are_never_matched_again() -> None:
    pool = BlockPool(4, 1)
    blocks = pool.take([], 2)
    pool.share("v", [1, 2], blocks, 0)
    pool.forget(blocks[1:])
    assert pool.match("v", [1, 2, 3]) == blocks[:1]
    pool.release(blocks)
    pool.forget(blocks)
    assert pool.match("v", [1, 2, 3]) == []
    pool.check([])


def test_too_much_or_twice_is_an_error_and_changes_nothing() -> None:
    pool = BlockPool(2, 1)
    with pytest.raises(ValueError, match="3 blocks wanted, 2 of 2 are free"):
        pool.take([], 3)
    blocks = pool.take([], 1)
    pool.release(blocks)
    with pytest.raises(ValueError, match="released more often"):
        pool.release(blocks)
    with pytest.raises(ValueError, match="at least 1"):
        BlockPool(0, 16)


class Pool(RuleBasedStateMachine):
    """Rows come and go; what a block holds is remembered beside, as the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6, 2)
        self.rows: list[tuple[str, list[int], list[int], int]] = []  # version, tokens, blocks, full
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}  # block -> all tokens up to it

    @rule(
        version=st.sampled_from("ab"),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9),
    )
    def begin(self, version: str, tokens: list[int]) -> None:
        known = self.pool.match(version, tokens)
        for index, block in enumerate(known):  # what is matched holds exactly these tokens
            assert self.content[block] == (version, tuple(tokens[: (index + 1) * 2]))
        fresh = self.pool.blocks_for(len(tokens)) - len(known)
        if self.pool.can_take(known, fresh):
            blocks = self.pool.take(known, fresh)
            assert len(set(blocks)) == len(blocks)
            for block in blocks[len(known) :]:
                self.content.pop(block, None)
            self.rows.append((version, tokens, blocks, len(known)))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.rows) - 1))
        version, tokens, blocks, known = self.rows[place]
        full = data.draw(st.integers(known, len(tokens) // 2))
        for index in range(known, full):
            self.content[blocks[index]] = (version, tuple(tokens[: (index + 1) * 2]))
        self.pool.share(version, tokens[: full * 2], blocks, known)
        self.rows[place] = (version, tokens, blocks, full)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        _, _, blocks, _ = self.rows.pop(data.draw(st.integers(0, len(self.rows) - 1)))
        self.pool.release(blocks)

    @invariant()
    def whole(self) -> None:
        self.pool.check([blocks for _, _, blocks, _ in self.rows])


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
