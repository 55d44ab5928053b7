"""Rows over one base that generate, driven by hand: no scheduler, one pass after the other."""

from __future__ import annotations

import pytest

from loraland.engine.paged import PagedKv
from loraland.engine.protocol import Request, Sampling
from loraland.engine.runner import Runner
from loraland.engine.sampling import Chooser
from loraland.engine.scheduler import Row
from loraland.lora.bank import LoraBank
from loraland.lora.weights import linears_of, read_adapter


class Decoding:
    """A runner over a fresh base; adapters sit in slots from 1 on."""

    def __init__(self, zoo, folders, kernel=None, capture=None, model=None):
        model = model or zoo.base().model
        self.kv = PagedKv(model, blocks=40, block_size=4, seat_tokens=0, kernel=kernel)
        linears = linears_of(model)
        self.bank = LoraBank(model, slots=len(folders), max_rank=32)
        for slot, folder in enumerate(folders, 1):
            self.bank.write(slot, read_adapter(folder, linears))
        self.runner = Runner(
            model, self.bank, self.kv, graph_rows=7, graph_tokens=40, capture=capture
        )

    def run(self, rows, slots, works):
        choosers = [Chooser.of(Request(row.id, (1,), None, Sampling(logprobs=5))) for row in rows]
        return self.runner.run(works, slots, choosers)


def both(eager, graph, rows, slots, works, loose=1e-4):
    """The pass by each of them; their choices agree, and become the rows' next tokens."""
    expected, found = eager.run(rows, slots, works), graph.run(rows, slots, works)
    for one, other, row in zip(expected, found, rows, strict=True):
        likely = dict(other.top_logprobs)  # rounding may turn a tie
        assert likely[one.token_id] == pytest.approx(one.logprob, abs=loose)
        assert other.token_id == one.token_id or loose > 1e-4
        row.tokens.append(one.token_id)


def a_row(name, chance, blocks):
    """A row with a random prompt."""
    tokens = [chance.randrange(3, 259) for _ in range(chance.randint(2, 9))]
    return Row(name, None, tokens, len(tokens), 8, blocks=list(blocks))
