"""Bodies of OpenAI's endpoints: what is read, what is refused and with which words."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import EngineBusy, EngineFailed, LoraLandError, UnknownModel
from loraland.serving.bodies import BadParameter, read_body
from loraland.serving.openai_api import (
    NOT_SERVED,
    ChatRequest,
    CompletionRequest,
    check_limits,
    error_body,
)


def completion(**fields):
    return read_body(
        CompletionRequest, json.dumps({"model": "m", "prompt": "hi"} | fields).encode()
    )


def chat(**fields):
    messages = [{"role": "user", "content": "hi"}]
    return read_body(
        ChatRequest, json.dumps({"model": "m", "messages": messages} | fields).encode()
    )


def refusal(read, **fields):
    with pytest.raises(BadParameter) as caught:
        read(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ("hi",)),
        (["a", "b"], ("a", "b")),
        ([5, 6], ((5, 6),)),
    ],
)
def test_a_prompt_is_a_text_or_texts_or_token_ids(prompt, prompts):
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", ["", [], [[5]], ["a", 5], [-1], [True], None, 5, ["a", ""], {}])
def test_any_other_prompt_is_refused_in_one_sentence(prompt):
    error = refusal(completion, prompt=prompt)
    assert error.param == "prompt"
    assert error.message.count("prompt") == 1
    assert "a text, a list of texts, or a list of token ids" in error.message


def test_defaults_are_those_of_openai():
    asked = completion()
    assert asked.wished_tokens == 16
    assert (asked.temperature, asked.top_p, asked.n, asked.stops) == (None, None, None, ())
    assert chat().wished_tokens is None


def test_null_means_absent():
    fields = dict.fromkeys(["temperature", "top_p", "n", "stop", "seed", "stream", "max_tokens"])
    assert completion(**fields, logprobs=None, suffix=None) == completion()


def test_logprobs_are_a_number_in_completions_and_two_fields_in_a_chat():
    assert completion().wished_logprobs is None
    assert [completion(logprobs=k).wished_logprobs for k in (0, 5)] == [0, 5]
    assert chat().wished_logprobs is None
    assert chat(logprobs=False, top_logprobs=0).wished_logprobs is None
    assert chat(logprobs=True).wished_logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).wished_logprobs == 20


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
    ],
)
def test_logprobs_of_a_chat_that_make_no_sense_are_refused(fields, param):
    assert refusal(chat, **fields).param == param


def test_both_names_of_the_token_limit_work_in_a_chat():
    assert chat(max_tokens=5).wished_tokens == 5
    assert chat(max_completion_tokens=7).wished_tokens == 7


@pytest.mark.parametrize(
    ("stop", "stops"), [("\n", ("\n",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())]
)
def test_stop_is_one_text_or_up_to_four(stop, stops):
    assert completion(stop=stop).stops == stops


@pytest.mark.parametrize("stop", ["", ["a"] * 5, [""], ["x" * 201], [5], 5, {"a": 1}])
def test_other_stops_are_refused(stop):
    assert "at most 4 texts" in refusal(completion, stop=stop).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", "hot"), ("temperature", True),
        ("top_p", 0), ("top_p", 1.01), ("top_k", -1), ("top_k", 1.5), ("n", 0), ("n", 1.5),
        ("min_p", -0.1), ("min_p", 1.1), ("repetition_penalty", 0), ("repetition_penalty", 101),
        ("presence_penalty", 2.1), ("frequency_penalty", -2.1), ("frequency_penalty", "1"),
        ("logprobs", -1), ("logprobs", 21), ("logprobs", True),
        ("max_tokens", 0), ("max_tokens", "5"), ("seed", 2**63), ("seed", 0.5), ("stream", "yes"),
        ("stream_options", {"include_usage": 1}), ("stream_options", {"other": True}),
        ("user", "x" * 257), ("model", ""), ("model", "x" * 257), ("model", None),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(field, value):
    error = refusal(completion, **{field: value})
    assert error.param is not None
    assert error.param.split(".")[0] == field
    assert error.status == 400


WANTING = {
    "audio": {"voice": "x"}, "best_of": 2, "echo": True,
    "function_call": "auto", "functions": [{}], "logit_bias": {"5": 1},
    "metadata": {"a": "b"}, "modalities": ["audio"],
    "prediction": {"type": "content"}, "reasoning_effort": "high",
    "service_tier": "priority", "store": True,
    "suffix": "end",
    "verbosity": "low", "web_search_options": {},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NOT_SERVED))
def test_what_is_not_served_yet_is_refused_and_its_neutral_values_are_not(name):
    error = refusal(completion, **{name: WANTING[name]})
    assert (error.param, error.message) == (name, f"{name}: is not served yet; leave it out")
    for neutral in (*NOT_SERVED[name], None):
        assert chat(**{name: neutral}) == chat()


@pytest.mark.parametrize(
    ("name", "value"), [("tools", [{}]), ("tool_choice", "required"), ("parallel_tool_calls", 1)]
)
def test_tools_of_a_completion_are_sent_to_the_chats(name, value):
    assert refusal(completion, **{name: value}).message == (
        f"{name}: is for chats; ask /v1/chat/completions"
    )


@pytest.mark.parametrize("name", ["guided_regex", "tools"])
def test_an_answer_that_must_not_end_by_itself_has_no_form_either(name):
    values = {"guided_regex": "a+", "tools": [{"type": "function", "function": {"name": "f"}}]}
    error = refusal(chat, ignore_eos=True, **{name: values[name]})
    assert (
        error.message == f"ignore_eos: {name} says where the answer ends; leave one of the two out"
    )
    assert chat(ignore_eos=True).ignore_eos


def test_unknown_parameters_are_refused_naming_the_nearest():
    error = refusal(completion, temprature=0.5)
    assert (
        "temprature: is no parameter of this endpoint; did you mean 'temperature'?" in error.message
    )


def test_all_mistakes_are_told_together():
    message = refusal(completion, temperature=9, tools=[{}], foo=1, n=0).message
    assert all(f"{name}: " in message for name in ("temperature", "tools", "foo", "n"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'"x"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(content):
    with pytest.raises(BadParameter, match="JSON"):
        read_body(CompletionRequest, content)


@given(
    st.dictionaries(
        st.sampled_from([*CompletionRequest.model_fields, *NOT_SERVED, "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    )
)
def test_any_json_object_is_a_request_or_a_bad_parameter(body):
    try:
        asked = read_body(CompletionRequest, json.dumps(body).encode())
    except BadParameter as error:
        assert error.message
    else:
        assert asked.prompts
        assert asked.temperature is None or 0 <= asked.temperature <= 2


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user"}],
        [{"role": "robot", "content": "x"}],
        [{"role": "user", "content": [1]}],
    ],
)
def test_messages_have_a_role_and_a_text(messages):
    assert "messages" in str(refusal(chat, messages=messages).param)


def test_limits_of_the_application_are_checked_by_name():
    check_limits(completion(n=2, max_tokens=10), prompts=1, choices=2, new_tokens=10)
    asked = completion(prompt=["a", "b"], n=3, max_tokens=11)
    with pytest.raises(BadParameter) as caught:
        check_limits(asked, prompts=1, choices=2, new_tokens=10)
    assert caught.value.message == (
        "prompt: 2 prompts, at most 1 in one request; n: is 3, at most 2; "
        "max_tokens: is 11, at most 10"
    )


@pytest.mark.parametrize(
    ("error", "kind", "code", "param"),
    [
        (UnknownModel("no"), "invalid_request_error", "model_not_found", None),
        (EngineBusy("no"), "rate_limit_error", "engine_busy", None),
        (EngineFailed("no"), "server_error", "engine_failed", None),
        (BadParameter("no", "n"), "invalid_request_error", "invalid_request", "n"),
    ],
)
def test_errors_have_the_shape_of_openai(error: LoraLandError, kind, code, param):
    assert error_body(error) == {
        "error": {"message": "no", "type": kind, "param": param, "code": code}
    }


def test_a_bad_parameter_keeps_its_parameter_when_pickled():
    again = pickle.loads(pickle.dumps(BadParameter("no", "n")))
    assert (again.message, again.param) == ("no", "n")
