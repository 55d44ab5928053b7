"""LoRAX's answers of scripted parts: every token once, and their texts are the answer."""

from __future__ import annotations

import pytest

from loraland.adapters.names import ModelName
from loraland.serving.lorax_answers import Answer, events, whole
from loraland.serving.orders import Order


def order(**changes):
    wishes = {
        "id": "o", "model": ModelName("tiny"), "prompts": ("hi",), "n": 1, "max_new_tokens": 9,
        "most_new_tokens": 9, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": None,
        "stop": (), "logprobs": 0,
    }  # fmt: skip
    return Order(**(wishes | changes))


def score(token_id, offset, *, final=False, special=False, logprob=-0.5, name=b"?"):
    return {
        "id": token_id, "token": name, "special": special, "logprob": logprob, "offset": offset,
        "top": [(b"x", -0.25)], "top_ids": [7], "final": final,
    }  # fmt: skip


def delta(text, *scores, choice=0):
    return {"choice": choice, "text": text, "tokens": list(scores)}


def end(reason="stop", *, last=None, stop_string=False, choice=0):
    told = {
        "choice": choice, "finish_reason": reason, "prompt_tokens": 3, "generated_tokens": 2,
        "stop_string": stop_string, "queue_ms": 1.0, "total_ms": 2.0,
    }  # fmt: skip
    return told if last is None else told | {"last": last}


def streamed(parts, details=True, prompt="", **changes):
    answer = Answer(order(**changes), 0, prompt)
    return [events(answer, part, details=details) for part in parts]


def test_a_token_is_told_at_once_and_the_stop_token_ends_the_answer():
    eos = score(2, 2, special=True, name=b"</s>")
    first, second, last = streamed(
        [delta("a", score(5, 0)), delta("b", score(6, 1)), end(last=eos)]
    )
    assert [(e.token.id, e.token.text, e.generated_text) for e in first] == [(5, "a", None)]
    assert [(e.token.id, e.token.text, e.details) for e in second] == [(6, "b", None)]
    (ended,) = last
    assert (ended.token.id, ended.token.text, ended.token.special) == (2, "</s>", True)
    assert ended.generated_text == "ab"
    assert ended.details.finish_reason == "eos_token"
    assert (ended.details.prompt_tokens, ended.details.generated_tokens) == (3, 2)


def test_the_last_token_that_may_come_is_the_one_that_ends_the_answer():
    first, held, last = streamed(
        [delta("a", score(5, 0)), delta("b", score(6, 1, final=True)), end("length")]
    )
    assert len(first) == 1
    assert held == []
    (ended,) = last
    assert (ended.token.id, ended.token.text, ended.generated_text) == (6, "b", "ab")
    assert ended.details.finish_reason == "length"


def test_tokens_that_share_a_character_have_its_text_once():
    (told, _) = streamed(
        [delta("aé", score(5, 0), score(6, 1), score(7, 1)), end(last=score(2, 2))]
    )
    assert [(e.token.id, e.token.text) for e in told] == [(5, "a"), (6, ""), (7, "é")]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        # the stop string is whole tokens
        (
            [delta("a", score(5, 0)), end(stop_string=True, last=score(6, 1))],
            [(5, "a"), (6, "")],
        ),
        # the stop string begins and ends in a token that is told
        ([delta("a", score(5, 0)), end(stop_string=True)], [(5, "a")]),
        # a token's second half was held back, and came alone
        ([delta("a", score(5, 0)), delta("b"), end(last=score(2, 2))], [(5, "ab"), (2, "")]),
        # the same, with the next token
        (
            [delta("a", score(5, 0)), delta("bc", score(6, 2)), end(last=score(2, 3))],
            [(5, "ab"), (6, "c"), (2, "")],
        ),
    ],
)
def test_with_stop_strings_every_token_is_told_once_and_the_last_ends_the_answer(parts, told):
    parts = [p if "text" in p else p | {"stop_string": True} for p in parts]
    made = [event for events in streamed(parts, stop=("x",)) for event in events]
    assert [(e.token.id, e.token.text) for e in made] == told
    assert [e.generated_text is not None for e in made] == [False] * (len(made) - 1) + [True]
    assert "".join(e.token.text for e in made) == made[-1].generated_text
    assert made[-1].details.finish_reason == "stop_sequence"


def test_details_seed_and_prompt_are_told_where_they_are_wanted():
    (ended,) = streamed([end(last=score(2, 0))], details=False, prompt="hi", seed=5)[0]
    assert (ended.generated_text, ended.details) == ("hi", None)
    (ended,) = streamed([end(last=score(2, 0))], seed=5)[0]
    assert ended.details.seed == 5


def test_alternatives_are_told_where_they_are_wanted():
    for logprobs, expected in ((0, None), (1, [(7, "x", -0.25)])):
        ((event,), _) = streamed([delta("a", score(5, 0)), end()], logprobs=logprobs)
        told = event.token.alternative_tokens
        assert (told and [(a.id, a.text, a.logprob) for a in told]) == expected


def test_the_answer_of_the_highest_mean_logprob_is_the_best():
    wanted = order(n=2, seed=40)
    answers = [Answer(wanted, choice, "") for choice in range(2)]
    for part in (delta("a", score(5, 0, logprob=-2.0)), end(last=score(2, 1, logprob=-2.0))):
        answers[0].add(part)
    for part in (delta("b", score(6, 0, logprob=-1.0)), end(last=score(2, 1, logprob=-1.0))):
        answers[1].add(part)
    best = whole(answers, details=True)
    assert best.generated_text == "b"
    assert best.details.seed == 41
    assert [token.id for token in best.details.tokens] == [6, 2]
    (other,) = best.details.best_of_sequences
    assert (other.generated_text, other.seed) == ("a", 40)
    assert whole(answers, details=False).details is None


def test_an_answer_without_scores_has_a_text():
    answer = Answer(order(logprobs=None), 0, "hi")
    for part in ({"choice": 0, "text": "a"}, {"choice": 0, "text": "b"}, end()):
        answer.add(part)
    assert whole([answer], details=False).generated_text == "hiab"
