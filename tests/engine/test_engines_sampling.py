"""What a request asks of sampling, in the reference engine: each row by itself, others unharmed."""

from __future__ import annotations

import asyncio
import json

import pytest
import torch

from loraland.engine.constraints import ConstraintCompiler, Grammar
from loraland.engine.protocol import Finished, Request, Sampling, Token
from loraland.engine.text import Completion, complete
from loraland.engine.vocabulary import Vocabulary
from loraland.errors import ConstraintFailed, InvalidRequest

PROMPT, OTHER = (5, 9, 77, 130), (33, 44, 55)
END = 2


def ask(number, prompt=PROMPT, constraint=None, **sampling):
    sampling = {"max_new_tokens": 8, "stop_token_ids": frozenset({END})} | sampling
    return Request(f"r{number}", tuple(prompt), None, Sampling(**sampling), constraint)


async def collect(stream):
    *tokens, last = [event async for event in stream]
    assert isinstance(last, Finished)
    assert all(isinstance(token, Token) for token in tokens)
    return tokens, last


def together(zoo, engine_of, requests):
    async def run():
        async with engine_of(zoo.base()) as engine:
            streams = [collect(engine.submit(request)) for request in requests]
            return await asyncio.gather(*streams, return_exceptions=True)

    return asyncio.run(run())


def ids(answer):
    return [token.id for token in answer[0]]


def test_logprobs_are_those_of_the_model(zoo, engine_of):
    requests = [ask(0, logprobs=3), ask(1, OTHER), ask(2, OTHER, temperature=2.0, logprobs=0)]
    scored, plain, drawn = together(zoo, engine_of, requests)
    assert all(token.logprob is None and token.top_logprobs == () for token in plain[0])
    model = zoo.base().model
    for prompt, answer, told in ((PROMPT, scored, 3), (OTHER, drawn, 0)):
        whole = torch.tensor([[*prompt, *ids(answer)]])
        logprobs = model(input_ids=whole).logits[0].log_softmax(-1)
        for place, token in enumerate(answer[0], start=len(prompt) - 1):
            assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=1e-4)
            assert [t for t, _ in token.top_logprobs] == logprobs[place].topk(told).indices.tolist()


def test_a_repetition_penalty_gives_the_tokens_of_transformers(zoo, engine_of):
    prompt = torch.tensor([PROMPT])
    expected = zoo.base().model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12,
        do_sample=False, repetition_penalty=1.7, eos_token_id=None, pad_token_id=0,
    )[0, len(PROMPT) :].tolist()  # fmt: skip
    wish = {"max_new_tokens": 12, "stop_token_ids": frozenset()}
    penalised, plain = together(
        zoo, engine_of, [ask(0, repetition_penalty=1.7, **wish), ask(1, **wish)]
    )
    assert ids(penalised) == expected
    assert ids(plain) != expected


def test_a_constrained_row_answers_within_its_constraint_beside_free_rows(zoo, engine_of):
    base = zoo.base()
    compiler = ConstraintCompiler(Vocabulary(base.tokenizer, {END}))
    animal = compiler.compile(Grammar("choice", json.dumps(["cat", "crow", "dog"])))
    free = ask(9, OTHER)
    (alone,) = together(zoo, engine_of, [free])
    requests = [ask(n, constraint=animal, temperature=n / 2, seed=n) for n in range(4)]
    *animals, mate = together(zoo, engine_of, [*requests, free])
    for answer in animals:
        assert base.tokenizer.decode(ids(answer)) in ("cat", "crow", "dog")
        assert answer[1].reason == "stop"
        assert answer[1].generated_tokens == len(answer[0]) + 1
    assert ids(mate) == ids(alone)


def test_a_constrained_answer_streams_as_text(zoo, engine_of):
    base = zoo.base()
    compiler = ConstraintCompiler(Vocabulary(base.tokenizer, {END}))
    constraint = compiler.compile(Grammar("regex", "[0-9]{3}-é"))

    async def run():
        async with engine_of(base) as engine:
            request = ask(0, constraint=constraint, max_new_tokens=20)
            return [part async for part in complete(engine, base.tokenizer, request)]

    *deltas, last = asyncio.run(run())
    assert isinstance(last, Completion)
    assert last.finish_reason == "stop"
    assert "".join(deltas) == last.text
    assert last.text[:3].isdigit() and last.text[3:] == "-é"


class DeadEnd:
    """A constraint that allows two tokens and then nothing."""

    finished = False

    def __init__(self):
        self.left = 2

    def start(self):
        return DeadEnd()

    def allowed(self):
        import numpy as np

        return np.full(259, self.left > 0)

    def accept(self, token_id):
        self.left -= 1


def test_a_dead_end_fails_its_own_row_and_frees_it(zoo, engine_of):
    (alone,) = together(zoo, engine_of, [ask(1, OTHER)])

    async def run():
        async with engine_of(zoo.base()) as engine:
            stream = engine.submit(ask(0, constraint=DeadEnd(), stop_token_ids=frozenset()))
            mate = asyncio.create_task(collect(engine.submit(ask(1, OTHER))))
            assert [(await anext(stream)).index for _ in range(2)] == [0, 1]
            with pytest.raises(ConstraintFailed, match="allows no token"):
                await anext(stream)
            assert ids(await mate) == ids(alone)
            assert engine.stats().running == 0

    asyncio.run(run())


@pytest.mark.parametrize("field", [{"min_p": 2.0}, {"presence_penalty": 3.0}, {"logprobs": 21}])
def test_a_wish_out_of_range_is_refused_before_anything_is_queued(zoo, engine_of, field):
    async def run():
        async with engine_of(zoo.base()) as engine:
            with pytest.raises(InvalidRequest, match=next(iter(field))):
                engine.submit(ask(0, **field))
            assert engine.stats().requests == 0

    asyncio.run(run())
