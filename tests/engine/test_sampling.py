"""The next token of a row: against a second implementation, against transformers, in any company.

The second one is plain numpy, in double precision, with a loop where the first has an index.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from loraland.engine.distribution import draw, likeliest, penalised, probabilities_of
from loraland.engine.protocol import Request, Sampling
from loraland.engine.sampling import Chooser, argmax, check, choose_rows, finite
from loraland.errors import ConstraintFailed, EngineFailed, InvalidRequest

# Quarters, so that ties are common and unequal logits clearly so.
LOGITS = st.lists(st.integers(-80, 80).map(lambda n: n / 4), min_size=2, max_size=30)
FILTERS = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.1, 10),
        "top_k": st.integers(0, 40),
        "top_p": st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
        "min_p": st.one_of(st.just(0.0), st.floats(0.001, 1)),
    }
)


def filtered_plainly(logits, temperature, top_k, top_p, min_p):
    """{token: probability} of what may be drawn, or None at the edge of what floats can tell."""
    weights = np.exp((np.asarray(logits, float) - max(logits)) / temperature)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    kept = order[: top_k or len(order)]
    shares = {token: weights[token] / sum(weights[k] for k in kept) for token in kept}
    if top_p < 1:
        before, nucleus = 0.0, []
        for token in kept:
            if abs(before - top_p) < 1e-4:
                return None
            if before < top_p:
                nucleus.append(token)
            before += shares[token]
        shares = {token: shares[token] / sum(shares[k] for k in nucleus) for token in nucleus}
    if min_p > 0:
        least = min_p * max(shares.values())
        if any(0 < abs(share - least) < 1e-4 * least for share in shares.values()):
            return None
        shares = {token: share for token, share in shares.items() if share >= least}
    return {token: share / sum(shares.values()) for token, share in shares.items()}


@given(logits=LOGITS, filters=FILTERS)
def test_what_is_drawn_from_is_what_the_plain_implementation_says(logits, filters):
    plain = filtered_plainly(logits, **filters)
    assume(plain is not None)
    probabilities = probabilities_of(torch.tensor(logits), Sampling(**filters))
    expected = np.zeros(len(logits))
    for token, share in plain.items():
        expected[token] = share
    np.testing.assert_allclose(probabilities.numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_filters_agree_with_those_of_transformers(seed):
    logits = torch.randn(2000, generator=torch.Generator().manual_seed(seed)) * 3
    scores = logits.unsqueeze(0)
    for warper in (
        TemperatureLogitsWarper(0.8),
        TopKLogitsWarper(60),
        TopPLogitsWarper(0.9),
        MinPLogitsWarper(0.02),
    ):
        scores = warper(torch.zeros(1, 1, dtype=torch.long), scores)
    sampling = Sampling(temperature=0.8, top_k=60, top_p=0.9, min_p=0.02)
    torch.testing.assert_close(probabilities_of(logits, sampling), scores.softmax(-1)[0])


def penalised_plainly(logits, prompt, answer, repetition, presence, frequency):
    result = list(logits)
    for token in set(prompt) | set(answer):
        over = result[token] > 0
        result[token] = result[token] / repetition if over else result[token] * repetition
    for token, times in Counter(answer).items():
        result[token] -= presence + frequency * times
    return result


TOKENS = st.lists(st.integers(0, 9), max_size=12)


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=10, max_size=10),
    prompt=TOKENS,
    answer=TOKENS,
    repetition=st.floats(0.01, 100),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
)
def test_penalties_are_what_the_plain_implementation_says(
    logits, prompt, answer, repetition, presence, frequency
):
    sampling = Sampling(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency
    )
    given_logits = torch.tensor(logits)
    result = penalised(given_logits, sampling, {*prompt, *answer}, Counter(answer))
    expected = penalised_plainly(logits, prompt, answer, repetition, presence, frequency)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert given_logits.tolist() == logits, "the model's logits are left as they are"


def test_the_repetition_penalty_is_that_of_transformers():
    logits = torch.randn(100, generator=torch.Generator().manual_seed(0))
    seen = [3, 4, 4, 99]
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), logits.unsqueeze(0))[0]
    ours = penalised(logits, Sampling(repetition_penalty=1.3), set(seen), {})
    torch.testing.assert_close(ours, theirs)


def test_huge_logits_stay_numbers_under_any_penalty():
    logits = torch.tensor([3e38, -3e38, 0.0])
    chooser = Chooser(Sampling(temperature=1.0, repetition_penalty=0.01, seed=0), [0, 1])
    assert [chooser.choose(logits).token_id for _ in range(3)] == [0, 0, 0]


def test_a_chooser_counts_its_own_answer_and_never_the_prompt():
    logits = torch.tensor([1.0, 0.9, 0.0])
    presence = Chooser(Sampling(presence_penalty=0.5), prompt_ids=[0, 0])
    assert [presence.choose(logits).token_id for _ in range(3)] == [0, 1, 0]
    frequency = Chooser(Sampling(frequency_penalty=0.06))
    assert [frequency.choose(logits).token_id for _ in range(5)] == [0, 0, 1, 0, 1]


def test_a_repetition_penalty_reaches_back_into_the_prompt():
    logits = torch.tensor([1.0, 0.9, 0.0])
    chooser = Chooser(Sampling(repetition_penalty=2.0), prompt_ids=[0])
    assert [chooser.choose(logits).token_id for _ in range(3)] == [1, 0, 0]


@given(logits=LOGITS, temperature=st.sampled_from([5e-324, 1e-300, 1e-30, 1e-6, 1.0, 1e30, 1e308]))
def test_every_temperature_gives_probabilities(logits, temperature):
    probabilities = probabilities_of(torch.tensor(logits), Sampling(temperature=temperature))
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-4)


@given(logits=LOGITS, k=st.integers(1, 30))
def test_of_equal_tokens_the_lowest_ids_are_the_likeliest(logits, k):
    k = min(k, len(logits))
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    assert likeliest(torch.tensor(logits), k).tolist() == order[:k]
    assert argmax(torch.tensor([logits])) == order[:1]
    greedy = Chooser(Sampling()).choose(torch.tensor(logits))
    one = Chooser(Sampling(temperature=3.0, top_k=1)).choose(torch.tensor(logits))
    assert greedy.token_id == one.token_id == order[0]


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    chooser = Chooser(Sampling(temperature=1.0, seed=3))
    drawn = Counter(chooser.choose(logits).token_id for _ in range(4000))
    shares = [drawn[token] / 4000 for token in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-30, 0.5, 1.0]), min_size=1, max_size=9),
    seed=st.integers(0, 2**63),
)
def test_a_token_of_probability_zero_is_never_drawn(weights, seed):
    assume(any(weights))
    probabilities = torch.tensor(weights)
    token = draw(probabilities / probabilities.sum(), torch.Generator().manual_seed(seed))
    assert weights[token] > 0


def test_the_logprobs_are_those_of_the_model_before_anything_is_applied():
    logits = torch.tensor([2.0, 1.0, 3.0, 0.0])
    expected = logits.log_softmax(0).tolist()
    sampling = Sampling(
        temperature=0.3, top_k=1, repetition_penalty=100.0, presence_penalty=2.0, logprobs=2, seed=0
    )
    choice = Chooser(sampling, [2], Allow({1})).choose(logits)
    assert choice.token_id == 1
    assert choice.logprob == pytest.approx(expected[1])
    assert [token for token, _ in choice.top_logprobs] == [2, 0]
    assert [p for _, p in choice.top_logprobs] == pytest.approx([expected[2], expected[0]])


@pytest.mark.parametrize(("wanted", "told"), [(None, None), (0, 0), (3, 3), (20, 4)])
def test_so_many_logprobs_are_told_as_were_asked_for(wanted, told):
    choice = Chooser(Sampling(logprobs=wanted)).choose(torch.tensor([2.0, 1.0, 3.0, 0.0]))
    assert (choice.logprob is None) == (told is None)
    assert len(choice.top_logprobs) == (told or 0)


class Allow:
    """A matcher that allows the same tokens at every step."""

    finished = False

    def __init__(self, tokens, size=4):
        self.mask, self.accepted = np.zeros(size, np.bool_), []
        self.mask[list(tokens)] = True

    def allowed(self):
        return self.mask.copy()

    def accept(self, token_id):
        self.accepted.append(token_id)

    def start(self):
        return self


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("size", [3, 4, 9])
def test_only_allowed_tokens_are_chosen_whatever_the_sizes(temperature, size):
    matcher = Allow({1, 2}, size)
    chooser = Chooser(Sampling(temperature=temperature, seed=1), (), matcher)
    chosen = [chooser.choose(torch.tensor([9.0, 1.0, 1.5, 9.0])).token_id for _ in range(50)]
    assert set(chosen) == ({2} if temperature == 0 else {1, 2})
    assert matcher.accepted == chosen


@pytest.mark.parametrize("matcher", [Allow(()), Allow({8}, 9)])
def test_a_constraint_that_allows_nothing_ends_the_row_with_an_error(matcher):
    logits = torch.zeros(2, 4)
    bad, good = choose_rows([Chooser(Sampling(), (), matcher), Chooser(Sampling())], logits)
    assert isinstance(bad, ConstraintFailed)
    assert "allows no token" in bad.message
    assert good.token_id == 0


def test_a_request_starts_its_constraint_and_brings_its_prompt():
    class Constraint:
        def start(self):
            return Allow({0, 1})

    sampling = Sampling(repetition_penalty=2.0)
    request = Request("r", (1,), None, sampling, Constraint())
    assert Chooser.of(request).choose(torch.tensor([1.0, 1.5, 9.0])).token_id == 0


SAMPLINGS = st.just(Sampling()) | st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.0, 0.7, 2.0]),
    top_k=st.sampled_from([0, 2]),
    top_p=st.sampled_from([1.0, 0.6]),
    min_p=st.sampled_from([0.0, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, -0.5]),
    seed=st.integers(0, 9),
    logprobs=st.sampled_from([None, None, 0, 2]),
)
ROWS = st.lists(
    st.tuples(
        SAMPLINGS,
        st.sampled_from([0.0, 0.0, 0.0, 0.0, math.nan, math.inf, -math.inf]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(rows=ROWS, dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 99))
def test_rows_together_get_what_each_gets_alone(rows, dtype, seed):
    def choosers():
        return [
            Chooser(sampling, [1, 2], Allow({0, 2, 5}, 7) if matched else None)
            for sampling, _, matched in rows
        ]

    together, alone = choosers(), choosers()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        # Few values, so that ties are common.
        logits = torch.randint(-3, 4, (len(rows), 7), generator=generator).to(dtype)
        for row, (_, damage, _) in enumerate(rows):
            logits[row, 3] += damage
        before = logits.clone()
        choices = choose_rows(together, logits)
        assert torch.equal(logits.nan_to_num(), before.nan_to_num())
        for row, chooser in enumerate(alone):
            try:
                assert choices[row] == chooser.choose(logits[row])
                assert math.isfinite(rows[row][1])
            except EngineFailed as error:
                assert choices[row].message == error.message
                assert not math.isfinite(rows[row][1])


def test_a_seed_gives_the_same_answer_whatever_else_is_in_the_batch():
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(20, 50, generator=generator) * 2
    wish = Sampling(temperature=1.0, top_p=0.9, seed=7)

    def among(others, place):
        choosers = [Chooser(Sampling(temperature=1.0, seed=s)) for s in range(others)]
        choosers.insert(place, Chooser(wish))
        answer = []
        for step in steps:
            logits = torch.randn(others + 1, 50, generator=generator)
            logits[place] = step
            answer.append(choose_rows(choosers, logits)[place].token_id)
        return answer

    alone = among(0, 0)
    assert among(5, 0) == among(5, 3) == among(8, 8) == alone
    assert len(set(alone)) > 5


def test_unseeded_choosers_differ():
    logits = torch.zeros(1000)
    drawn = {Chooser(Sampling(temperature=1.0)).choose(logits).token_id for _ in range(8)}
    assert len(drawn) > 4


@pytest.mark.parametrize("large", [3e38, -3e38])
def test_sums_that_run_over_are_no_damage(large):
    assert finite(torch.full((2, 5), large)) == [True, True]
    assert choose_rows([Chooser(Sampling())] * 2, torch.full((2, 5), large))[1].token_id == 0


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mate", [Sampling(), Sampling(temperature=1.0, seed=0)])
def test_a_damaged_greedy_row_fails_alone(damage, mate):
    logits = torch.zeros(3, 5)
    logits[:, 3], logits[1, 0] = 9.0, damage
    choosers = [Chooser(Sampling()), Chooser(Sampling()), Chooser(mate)]
    first, second, third = choose_rows(choosers, logits)
    assert isinstance(second, EngineFailed)
    assert "not finite" in second.message
    assert first.token_id == third.token_id == 3


def test_damage_is_found_per_row():
    logits = torch.zeros(4, 5)
    logits[1, 0], logits[2, 4], logits[3, 2] = math.nan, math.inf, -math.inf
    assert finite(logits) == [True, False, False, False]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0), ("temperature", -0.1), ("temperature", math.nan),
        ("temperature", math.inf), ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1), ("min_p", -0.1),
        ("min_p", 1.1), ("min_p", math.nan), ("repetition_penalty", 0.0),
        ("repetition_penalty", 101.0), ("repetition_penalty", math.nan), ("presence_penalty", 2.1),
        ("presence_penalty", math.nan), ("frequency_penalty", -2.1), ("seed", 2**63),
        ("logprobs", -1), ("logprobs", 21),
    ],
)  # fmt: skip
def test_a_field_out_of_its_range_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequest, match=f"{field} is .*, it must be"):
        check(Sampling(**{field: value}))


def test_the_ends_of_all_ranges_are_taken_and_all_mistakes_told_together():
    check(Sampling())
    check(
        Sampling(1, 0.0, 1.0, 0, 1.0, 0.01, -2.0, 2.0, -(2**63), frozenset(), 20),
    )
    with pytest.raises(InvalidRequest, match=r"min_p.*; presence_penalty"):
        check(Sampling(min_p=2.0, presence_penalty=3.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_row_gets_the_choice_of_the_same_row_on_the_cpu(dtype):
    logits = torch.randint(-9, 9, (6, 3000), generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[4, 17] = math.nan
    wishes = [
        Sampling(),
        Sampling(temperature=1.0, top_p=0.9, seed=1),
        Sampling(logprobs=3),
        Sampling(repetition_penalty=1.2),
        Sampling(),
        Sampling(),
    ]
    here = choose_rows([Chooser(wish, [5]) for wish in wishes], logits)
    there = choose_rows([Chooser(wish, [5]) for wish in wishes], logits.cuda())
    assert [str(choice) for choice in there] == [str(choice) for choice in here]
    assert isinstance(there[4], EngineFailed)
