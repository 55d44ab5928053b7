from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraland.engine.blocks import BlockPool
from loraland.engine.scheduler import Limits, Row, Scheduler, Work


def row(name: str, prompt: int, new: int = 4, version: str | None = None, token: int = 0) -> Row:
    return Row(name, version, [token] * prompt, prompt, new)


def scheduler(blocks: int = 64, size: int = 4, rows: int = 4, tokens: int = 16) -> Scheduler:
    return Scheduler(BlockPool(blocks, size), Limits(rows, tokens, 100))


def everyone(_: str) -> bool:
    return True


def step(scheduler: Scheduler, ready=everyone, draining=()) -> list[Work]:  # type: ignore[no-untyped-def]
    """A pass and what an engine does after it: a token for each row that chooses."""
    works = scheduler.next_pass(ready, draining)
    scheduler.done(works)
    for work in works:
        if work.chooses:
            work.row.tokens.append(99)
            if len(work.row.tokens) - work.row.prompt_tokens == work.row.max_new_tokens:
                scheduler.remove(work.row)
    return works


def shown(works: list[Work]) -> list[tuple[str, int, int]]:
    return [(work.row.id, work.start, work.size) for work in works]


def test_a_prompt_longer_than_a_pass_comes_in_pieces_beside_the_rows_that_generate() -> None:
    s = scheduler()
    s.add(row("short", 3, new=9, token=1))
    assert shown(step(s)) == [("short", 0, 3)]
    s.add(row("long", 30))
    assert shown(step(s)) == [("long", 0, 15), ("short", 3, 1)]
    assert shown(step(s)) == [("long", 15, 15), ("short", 4, 1)]
    assert shown(step(s)) == [("short", 5, 1), ("long", 30, 1)]


def test_a_prefix_that_is_known_is_not_computed_again() -> None:
    s = scheduler()
    s.add(row("first", 10, new=1))
    step(s)
    s.add(row("second", 10, new=1))
    assert shown(step(s)) == [("second", 8, 2)]
    s.add(row("other", 10, new=1, version="v"))
    assert shown(step(s)) == [("other", 0, 10)]


def test_a_row_waits_for_a_prefix_that_another_is_computing() -> None:
    s = scheduler(tokens=64)
    s.add(row("first", 10))
    s.add(row("second", 10))
    s.add(row("different", 10, token=7))
    assert shown(step(s)) == [("first", 0, 10)]
    assert shown(step(s))[:2] == [("second", 8, 2), ("different", 0, 10)]


def test_adapters_take_turns_by_what_was_computed_for_them() -> None:
    s = scheduler(rows=3, tokens=64)
    for k in range(6):
        s.add(row(f"hot{k}", 8, new=3, version="hot", token=k))
    s.add(row("cold", 8, new=3, version="cold"))
    assert {work.row.id for work in step(s)} == {"hot0", "cold", "hot1"}


def test_rows_whose_adapter_is_not_ready_let_others_pass() -> None:
    s = scheduler()
    s.add(row("waits", 4, version="away"))
    s.add(row("runs", 4, version="here"))
    assert shown(step(s, ready=lambda version: version == "here")) == [("runs", 0, 4)]
    assert s.wanted() == ["away"]
    assert shown(step(s))[0] == ("waits", 0, 4)


def test_no_row_of_a_draining_adapter_begins_but_those_that_run_go_on() -> None:
    s = scheduler()
    s.add(row("a", 4, version="v", token=1))
    step(s)
    s.add(row("b", 4, version="v", token=2))
    assert shown(step(s, draining={"v"})) == [("a", 4, 1)]
    assert ("b", 0, 4) in shown(step(s))


def test_an_adapter_that_is_passed_over_again_and_again_is_starving() -> None:
    s = scheduler()
    s.add(row("waits", 4, version="away"))
    for _ in range(3):
        assert not s.has_starving(3)
        step(s, ready=lambda _: False)
    step(s, ready=lambda _: False)
    assert s.has_starving(3)
    step(s)
    assert not s.has_starving(3)


def test_the_youngest_gives_way_when_blocks_run_out_and_comes_back_to_its_end() -> None:
    s = scheduler(blocks=6, size=2, tokens=32)
    s.add(row("old", 4, new=8, token=1))
    s.add(row("young", 2, new=8, token=2))
    ended: list[str] = []
    for _ in range(60):
        ended += [w.row.id for w in step(s) if len(w.row.tokens) == w.row.prompt_tokens + 8]
        if len(ended) == 2:
            break
    assert ended == ["old", "young"]
    assert s.preemptions >= 1
    assert s.waiting == 0 and not s.running


def test_a_row_that_is_removed_frees_its_blocks() -> None:
    pool = BlockPool(8, 2)
    s = Scheduler(pool, Limits(4, 16, 100))
    kept, gone = row("kept", 4, token=1), row("gone", 4, token=2)
    s.add(kept)
    s.add(gone)
    step(s)
    s.remove(gone)
    pool.check([kept.blocks])
    waiting = row("waiting", 4)
    s.add(waiting)
    s.remove(waiting)
    s.remove(kept)
    assert pool.free == 8


def test_a_pass_must_hold_more_tokens_than_rows() -> None:
    with pytest.raises(ValueError, match="more tokens than rows"):
        Scheduler(BlockPool(4, 4), Limits(rows=8, tokens=8, waiting=1))


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 14),  # prompt
        st.integers(1, 10),  # answer
        st.sampled_from([None, "a", "b", "c"]),
        st.integers(0, 1),  # the token that all of the prompt is made of
        st.integers(0, 30),  # the pass before which it comes
        st.one_of(st.none(), st.integers(0, 40)),  # the pass before which it is cancelled
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    requests=REQUESTS,
    blocks=st.integers(12, 24),
    rows=st.integers(1, 5),
    spare=st.integers(1, 6),
    away=st.lists(st.sets(st.sampled_from(["a", "b", "c"])), max_size=20),
)
def test_every_row_ends_whatever_comes(  # type: ignore[no-untyped-def]
    requests, blocks, rows, spare, away
) -> None:
    """Within the limits of every pass, each token is computed in order and no block is lost."""
    pool = BlockPool(blocks, 2)
    limits = Limits(rows, rows + spare, 100)
    s = Scheduler(pool, limits)
    coming = {
        f"r{k}": (Row(f"r{k}", version, [token] * prompt, prompt, new), begin, end)
        for k, (prompt, new, version, token, begin, end) in enumerate(requests)
    }
    alive: dict[str, Row] = {}
    done: set[str] = set()
    for number in range(1200):
        for name, (r, begin, end) in coming.items():
            if begin == number:
                s.add(r)
                alive[name] = r
            if end == number and name in alive:
                s.remove(alive.pop(name))
                done.add(name)
        missing = away[number] if number < len(away) else set()
        works = s.next_pass(lambda version, missing=missing: version not in missing)
        assert sum(work.size for work in works) <= limits.tokens
        assert len(s.running) <= limits.rows
        assert max(Counter(work.row.id for work in works).values(), default=1) == 1
        for r, start, size in works:
            assert start == r.computed and size >= 1
            assert start + size <= len(r.blocks) * 2  # room for what is written
        s.done(works)
        for work in works:
            if work.start + work.size == len(work.row.tokens):
                work.row.tokens.append(50 + number % 3)
                if len(work.row.tokens) - work.row.prompt_tokens == work.row.max_new_tokens:
                    s.remove(alive.pop(work.row.id))
                    done.add(work.row.id)
        pool.check([r.blocks for r in alive.values()])
        if len(done) == len(coming):
            break
    assert len(done) == len(coming)
    assert pool.free == pool.total
