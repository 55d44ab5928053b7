"""Passes over fixed tensors: their bookkeeping, and that they are the eager passes' equals."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest
import torch

from loraland.bases.loading import base_from_folder, load_folder
from loraland.engine import batched, paged
from loraland.engine.batched import BatchedEngine
from loraland.engine.cuda_graph import cuda_capture
from loraland.engine.gathered_attention import GatheredAttention
from loraland.engine.graphs import (
    MOST_GRAPHS,
    Buffers,
    DecodeGraphs,
    Key,
    Output,
    Step,
    batch_sizes,
)
from loraland.engine.protocol import Request, Sampling
from loraland.engine.scheduler import Row, Work
from loraland.engine.settings import EngineLimits
from loraland.engine.spans import Held
from tests.engine import tape
from tests.engine.asking import collect
from tests.engine.decoding import Decoding, a_row, both

CPU = torch.device("cpu")
ARCHITECTURES = [
    "llama",
    "mistral",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma", "phi")),
]


# Bookkeeping


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 9, 32, 33, 256])
def test_every_number_of_rows_has_a_size_that_wastes_little(rows: int) -> None:
    sizes = batch_sizes(rows)
    assert sizes == sorted(set(sizes)) and sizes[-1] == rows
    for count in range(1, rows + 1):
        size = next(size for size in sizes if size >= count)
        assert size < 2 * count and size - count < 8


def test_buffers_hold_a_pass_and_padding_that_touches_only_scratch() -> None:
    buffers = Buffers(8, tokens=64, block_size=4, scratch=99, device=CPU)
    buffers.fill(Key(8, True), [Step(1, 1, Held([1] * 16, 64))] * 8)  # what is overwritten
    steps = [Step(11, 3, Held([5, 6, 7], 9)), Step(12, 0, Held([8], 2))]
    ids, positions, rows, fixed = buffers.fill(Key(4, True), steps)
    assert ids.tolist() == [[11, 12, 0, 0]] and positions.tolist() == [[8, 1, 0, 0]]
    assert rows is not None and rows.slots.tolist() == [3, 0, 0, 0] and rows.present is None
    assert fixed.places.tolist() == [7 * 4, 8 * 4 + 1, 99 * 4, 99 * 4]
    assert fixed.singles.lengths.tolist() == [9, 2, 1, 1]
    assert fixed.singles.table.tolist() == [
        [5, 6, 7, *[99] * 13],
        [8, 8, 8, *[99] * 13],
        *[[99] * 16] * 2,
    ]
    assert [held.length for held in fixed.singles.held] == [9, 2, 1, 1]


def test_a_size_has_the_same_tensors_at_every_pass() -> None:
    buffers = Buffers(4, tokens=16, block_size=4, scratch=9, device=CPU)
    first = buffers.fill(Key(2, True), [Step(1, 1, Held([1], 1))])
    again = buffers.fill(Key(2, True), [Step(2, 2, Held([2, 3], 6))])
    assert again.rows is first.rows and again.ids is first.ids
    assert again.fixed.places is first.fixed.places
    assert again.fixed.singles.table is first.fixed.singles.table


class Fakes:
    """Graphs whose passes add up what lies in their tensors."""

    def __init__(self, sizes, fails=False):
        self.epoch, self.fails, self.captures, self.planned = 0, fails, 0, []
        buffers = Buffers(max(sizes), tokens=16, block_size=4, scratch=9, device=CPU)
        self.graphs = DecodeGraphs(
            sizes, buffers, lambda fixed: self.planned.append(len(fixed.singles.held)),
            lambda batch: Output(batch.ids[0].clone(), batch.positions[0].clone()),
            self.capture, lambda: self.epoch,
        )  # fmt: skip

    def capture(self, run):
        self.captures += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        return run

    def run(self, tokens, slot=0):
        found = self.graphs.run([Step(token, slot, Held([0], 1)) for token in tokens])
        return None if found is None else found.logits.tolist()


def test_each_size_is_captured_once_with_and_without_adapters() -> None:
    fakes = Fakes([1, 2, 4])
    assert [fakes.run([5, 6, 7]), fakes.run([8, 9, 10, 11])] == [[5, 6, 7], [8, 9, 10, 11]]
    assert fakes.run([1], slot=2) == [1] and fakes.run([2]) == [2]
    assert fakes.captures == 3 and fakes.planned == [4, 4, 1, 1]
    assert (fakes.graphs.captured, fakes.graphs.replayed) == (3, 4)


def test_more_rows_than_the_largest_size_are_left_to_others() -> None:
    assert Fakes([1, 2]).run([1, 2, 3]) is None


def test_another_epoch_captures_anew() -> None:
    fakes = Fakes([1, 2])
    fakes.run([1]), fakes.run([1, 2])
    fakes.epoch += 1
    fakes.run([1]), fakes.run([1])
    assert fakes.captures == 3
    fakes.run([1, 2])
    assert fakes.captures == 4


def test_a_failed_capture_is_told_once_and_not_tried_again(caplog) -> None:
    fakes = Fakes([1, 2], fails=True)
    with caplog.at_level(logging.WARNING):
        assert fakes.run([1]) is None and fakes.run([1]) is None and fakes.run([1, 2]) is None
    assert fakes.captures == 1 and len(caplog.records) == 1
    assert fakes.graphs.broken is not None and "capturing" in fakes.graphs.broken
    assert (fakes.graphs.captured, fakes.graphs.replayed) == (0, 0)


def test_the_least_recently_used_graph_goes() -> None:
    most = list(range(1, MOST_GRAPHS + 2))
    fakes = Fakes(most)
    for count in most[:-1]:
        fakes.run([1] * count)
    fakes.run([1])  # used again: 2 is now the oldest
    fakes.run([1] * most[-1])
    assert fakes.captures == MOST_GRAPHS + 1
    fakes.run([1]), fakes.run([1] * 3)
    assert fakes.captures == MOST_GRAPHS + 1
    fakes.run([1] * 2)
    assert fakes.captures == MOST_GRAPHS + 2


# The tape, which stands in for a graph here


def test_the_tape_replays_over_overwritten_tensors_and_refuses_what_a_graph_refuses() -> None:
    x, total = torch.ones(3), torch.zeros(3)
    replay = tape.capture(lambda: total.add_(x[1:].sum()).clone() * 2)
    x.copy_(torch.tensor([9.0, 5.0, 6.0]))
    total.zero_()
    assert replay().tolist() == [22.0] * 3 and total.tolist() == [11.0] * 3
    for forbidden in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: torch.tensor([1])):
        with pytest.raises(RuntimeError, match="capturing"):
            tape.capture(forbidden)


# Equal to the eager pass


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_replayed_passes_equal_eager_ones(zoo_of, architecture: str) -> None:
    """Rows come and go, so that sizes, paddings and adapters change from pass to pass."""
    zoo, chance = zoo_of(architecture), random.Random(architecture)
    eager = Decoding(zoo, [zoo.one, zoo.two])
    graph = Decoding(zoo, [zoo.one, zoo.two], GatheredAttention(), tape.capture)
    rows = [a_row(str(i), chance, range(i * 5, i * 5 + 5)) for i in range(7)]
    slots = [0, 1, 2, 1, 0, 2, 2]
    both(eager, graph, rows, slots, [Work(row, 0, len(row.tokens)) for row in rows])
    for _ in range(9):
        some = sorted(chance.sample(range(7), chance.randint(1, 7)))
        works = [Work(rows[i], len(rows[i].tokens) - 1, 1) for i in some]
        both(eager, graph, [rows[i] for i in some], [slots[i] for i in some], works)
    stats = graph.runner.stats
    assert stats["graph"] == 9 and 0 < stats["graph_captures"] < 9
    assert stats["attention_gathered"] == 9 and eager.runner.stats == {}
    graph.runner.close()


def test_a_slot_without_an_adapter_is_an_error_and_not_the_base(zoo) -> None:
    graph = Decoding(zoo, [zoo.one], GatheredAttention(), tape.capture)
    row = Row("r", None, [5, 6], 2, 8, blocks=[0])
    with pytest.raises(ValueError, match="hold no adapter"):
        graph.run([row], [2], [Work(row, 1, 1)])


def test_a_damaged_row_in_a_replayed_pass_harms_no_other(zoo) -> None:
    graph = Decoding(zoo, [zoo.one], GatheredAttention(), tape.capture)
    rows = [Row(str(i), None, [5, 6, 7], 3, 8, blocks=[i]) for i in range(2)]
    for row in rows:
        graph.run([row], [0], [Work(row, 0, 2)])
    graph.kv._pools[0][0, :, 1, 0] = torch.nan
    well, spoilt = graph.run(rows, [0, 0], [Work(row, 2, 1) for row in rows])
    assert well.logprob is not None and "finite" in str(spoilt)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_engine_with_graphs_answers_as_one_without(crowd_of, monkeypatch, architecture) -> None:
    """With adapters that come, go and widen the stacks, prompts in pieces and preemption."""
    zoo, folders = crowd_of(architecture)
    chance = random.Random(architecture)
    names = [*folders, None]
    requests = [
        Request(str(i), tuple(chance.randrange(3, 259) for _ in range(chance.randrange(1, 40))),
                names[i % len(names)], Sampling(max_new_tokens=chance.randrange(1, 25)))
        for i in range(40)
    ]  # fmt: skip
    plain, _ = asyncio.run(_answers(zoo, folders, requests))
    monkeypatch.setattr(paged, "kernel_for", lambda *_: GatheredAttention())
    monkeypatch.setattr(batched, "capture_for", lambda _: tape.capture)
    found, stats = asyncio.run(_answers(zoo, folders, requests))
    assert found == plain
    assert stats.ops["graph"] > stats.ops["graph_captures"] > len(batch_sizes(6))
    assert stats.preemptions > 0 and stats.ops["attention_gathered"] > stats.ops["graph"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_graphs_of_a_gpu_equal_its_eager_passes(zoo, precision) -> None:
    chance = random.Random(precision)
    eager, graph = (_on_a_gpu(zoo, precision, captured) for captured in (False, True))
    rows = [a_row(str(i), chance, range(i * 5, i * 5 + 5)) for i in range(7)]
    slots = [0, 1, 2, 1, 0, 2, 2]
    works = [Work(row, 0, len(row.tokens)) for row in rows]
    loose = 1e-3 if precision == "fp32" else 5e-2
    both(eager, graph, rows, slots, works, loose)
    for _ in range(9):
        some = sorted(chance.sample(range(7), chance.randint(1, 7)))
        works = [Work(rows[i], len(rows[i].tokens) - 1, 1) for i in some]
        both(eager, graph, [rows[i] for i in some], [slots[i] for i in some], works, loose)
    assert graph.runner.stats["graph"] == 9, graph.runner._graphs.broken


def _on_a_gpu(zoo, precision, captured):
    device = torch.device("cuda")
    entry = base_from_folder(zoo.folder, f"tiny-{zoo.architecture}")
    model = load_folder(zoo.folder, entry, precision, device).model
    capture = cuda_capture(device) if captured else None
    return Decoding(zoo, [zoo.one, zoo.two], capture=capture, model=model)


async def _answers(zoo, folders, requests):
    limits = EngineLimits(rows=6, pass_tokens=24, block_tokens=4, kv_tokens=112, slots=4,
                          max_rank=32, waiting=1000)  # fmt: skip
    engine = BatchedEngine.of(zoo.base(), limits)
    try:
        await asyncio.gather(*[engine.load(name, folders[name]) for name in folders])
        got = await asyncio.gather(*[collect(engine.submit(request)) for request in requests])
        engine.check()
        return [tokens for tokens, _ in got], engine.stats()
    finally:
        await engine.close()
