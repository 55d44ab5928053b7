"""Bodies of LoRAX's endpoints: what is read, what is refused, what is ordered."""

from __future__ import annotations

import json

import pytest

from loraland.adapters.names import ModelName
from loraland.engine.constraints import Grammar
from loraland.errors import (
    EngineBusy,
    EngineFailed,
    InvalidRequest,
    UnknownModel,
)
from loraland.serving.bodies import BadParameter
from loraland.serving.config import Limits
from loraland.serving.lorax_api import (
    CompatRequest,
    GenerateRequest,
    Parameters,
    check_limits,
    lorax_error,
    model_text,
    order_of,
    read_generate,
    speaks_lorax,
)

types = pytest.importorskip("lorax.types", reason="lorax-client is not installed: see Makefile")
TINY = ModelName("tiny")


def read(kind=GenerateRequest, inputs="hi", **parameters):
    return read_generate(kind, {"inputs": inputs, "parameters": parameters})


def ordered(*, stream=False, **parameters):
    asked = read(**parameters)
    return order_of(asked.inputs, asked.wishes, "o1", TINY, Limits(), stream=stream)


def refusal(**parameters):
    with pytest.raises(BadParameter) as caught:
        read(**parameters)
    return caught.value.message


def test_what_the_client_sends_when_nothing_is_wished_is_read():
    sent = types.Request(inputs="hi", parameters=types.Parameters()).model_dump(by_alias=True)
    asked = read_generate(CompatRequest, json.loads(json.dumps(sent)))
    assert asked.wishes == Parameters(return_full_text=False)
    assert not asked.stream


def test_every_field_of_the_client_is_served_or_refused_by_name():
    known = Parameters.model_fields.keys() | Parameters.refused.keys()
    assert types.Parameters.model_fields.keys() <= known


REFUSED = {
    "adapter_source": "hub", "api_token": "unmistakable-secret", "decoder_input_details": True,
    "merged_adapters": {"ids": ["a"], "weights": [1.0], "density": 0.5}, "typical_p": 0.5,
    "watermark": True,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(Parameters.refused))
def test_what_is_not_served_is_refused_by_name_and_its_value_never_repeated(name):
    message = refusal(**{name: REFUSED[name]})
    assert message.startswith(f"{name}: is not served")
    assert "unmistakable-secret" not in message
    for neutral in (*Parameters.refused[name].neutral, None):
        assert read(**{name: neutral}).wishes == Parameters()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"temperature": -1}, "temperature: input should be"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": "a"}, "stop"),
        ({"return_k_alternatives": 21}, "return_k_alternatives"),
        ({"truncate": 0}, "truncate"),
        ({"details": "yes"}, "details"),
        ({"best_of": 2}, "best_of: above 1 needs sampling"),
        ({"best_of": 2, "temperature": 0}, "best_of: above 1 needs sampling"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "seed: must be left out"),
        ({"truncate": 5, "apply_chat_template": True}, "truncate: would cut"),
        ({"response_format": {"type": "json_schema"}}, "response_format: needs a schema"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format: is text"),
        (
            {"ignore_eos_token": True, "response_format": {"type": "json_object"}},
            "ignore_eos_token: response_format says",
        ),
        ({"max_tokens": 5}, "max_tokens: is no parameter of this endpoint; did you mean"),
    ],
)
def test_a_mistake_is_told_by_name(parameters, words):
    assert words in refusal(**parameters)


def test_mistakes_of_the_body_and_of_its_parameters_are_told_together():
    body = {"inputs": "", "parameters": {"top_k": 0, "watermark": True}, "streem": True}
    with pytest.raises(BadParameter) as caught:
        read_generate(CompatRequest, body)
    for words in ("streem: is no parameter", "inputs: ", "watermark: ", "top_k: "):
        assert words in caught.value.message
    with pytest.raises(BadParameter, match="parameters"):
        read_generate(GenerateRequest, {"inputs": "hi", "parameters": 5})
    with pytest.raises(BadParameter, match="stream: is no parameter"):
        read_generate(GenerateRequest, {"inputs": "hi", "stream": True})


def test_an_answer_is_greedy_unless_sampling_is_asked_for():
    assert (ordered().temperature, ordered().seed) == (0.0, None)
    assert ordered(temperature=0, do_sample=True).temperature == 0.0
    for wish in ({"do_sample": True}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.5}):
        order = ordered(**wish)
        assert order.temperature == wish.get("temperature", 1.0)
        assert order.seed is not None
    assert ordered(do_sample=True, seed=2**64 - 1).seed == 2**64 - 1
    assert ordered(do_sample=True).seed != ordered(do_sample=True).seed


def test_wishes_reach_the_order():
    order = ordered(
        max_new_tokens=9, repetition_penalty=1.5, presence_penalty=1, frequency_penalty=-1,
        stop=["x"], truncate=7, ignore_eos_token=True, top_k=3, best_of=2,
    )  # fmt: skip
    assert (order.max_new_tokens, order.n, order.top_k, order.truncate) == (9, 2, 3, 7)
    assert (order.repetition_penalty, order.presence_penalty) == (1.5, 1)
    assert (order.frequency_penalty, order.stop, order.ignore_eos) == (-1, ("x",), True)
    assert ordered().max_new_tokens is None
    assert ordered().most_new_tokens == Limits().new_tokens
    assert ordered(apply_chat_template=True).prompts == (({"role": "user", "content": "hi"},),)


def test_tokens_are_scored_only_where_somebody_sees_it():
    assert ordered(return_k_alternatives=3).logprobs is None
    assert ordered(details=True).logprobs == 0
    assert ordered(stream=True).logprobs == 0
    assert ordered(best_of=2, do_sample=True).logprobs == 0
    assert ordered(details=True, return_k_alternatives=3).logprobs == 3


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar("json_object")),
        ({"type": "json_object", "schema": {"type": "object"}}, '{"type": "object"}'),
        ({"type": "json_schema", "schema": {"type": "string"}}, '{"type": "string"}'),
    ],
)
def test_a_response_format_is_a_grammar(form, grammar):
    expected = Grammar("json_schema", grammar) if isinstance(grammar, str) else grammar
    assert ordered(response_format=form).grammar == expected


@pytest.mark.parametrize(
    ("adapter_id", "name"),
    [
        (None, "one"), ("", "one"), ("__base_model__", "one"), ("one", "one"),
        ("dates", "one/dates"),
        ("dates:prod", "one/dates:prod"), ("dates@0123456789ab", "one/dates@0123456789ab"),
        ("one/dates", "one/dates"), ("two/dates", "two/dates"),
    ],
)  # fmt: skip
def test_an_adapter_id_is_a_model_name_or_a_task_of_the_only_base(adapter_id, name):
    assert model_text(adapter_id, ["one"]) == name


def test_of_several_bases_the_first_answers_and_a_task_alone_is_ambiguous():
    assert model_text(None, ["one", "two"]) == "one"
    assert model_text("two", ["one", "two"]) == "two"
    assert model_text("two/dates", ["one", "two"]) == "two/dates"
    with pytest.raises(UnknownModel, match="write BASE/TASK with one of one, two"):
        model_text("dates", ["one", "two"])


def test_a_key_that_may_use_no_base_is_told_so():
    assert model_text("one/dates", []) == "one/dates"
    with pytest.raises(UnknownModel, match="no base is served here for this key"):
        model_text(None, [])


def test_limits_of_the_application_are_checked_by_name():
    limits = Limits(choices=2, new_tokens=10)
    check_limits(read(best_of=2, do_sample=True, max_new_tokens=10).wishes, limits)
    with pytest.raises(BadParameter) as caught:
        check_limits(read(best_of=3, do_sample=True, max_new_tokens=11).wishes, limits)
    assert caught.value.message == "best_of: is 3, at most 2; max_new_tokens: is 11, at most 10"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadParameter("no", "n"), "validation"),
        (InvalidRequest("no"), "validation"),
        (UnknownModel("no"), "not_found"),
        (EngineBusy("no"), "overloaded"),
        (EngineFailed("no"), "generation"),
    ],
)
def test_errors_have_the_shape_of_lorax(error, kind):
    assert lorax_error(error) == {"error": "no", "error_type": kind, "code": error.code}


def test_lorax_is_spoken_at_its_own_addresses_alone():
    assert speaks_lorax("POST", "/") and speaks_lorax("POST", "/embed")
    assert speaks_lorax("GET", "/info")
    assert not speaks_lorax("GET", "/")
    assert not speaks_lorax("POST", "/v1/completions")
