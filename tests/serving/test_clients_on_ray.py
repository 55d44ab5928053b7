"""Every endpoint of an application on Ray with two bases, asked by `openai`, `lorax` and `curl`."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import openai
import pytest

from loraland.bases.tiny import load_tiny
from tests.serving.on_ray import served

pytestmark = pytest.mark.ray
lorax = pytest.importorskip("lorax", reason="lorax-client is not installed: see Makefile")

PROMPT = "What is the date?"
ASKED = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "sky",
        "parameters": {
            "type": "object",
            "properties": {"at": {"enum": ["am", "pm"]}},
            "required": ["at"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def shop(new_shop):
    shop = new_shop()
    shop.dates = shop.publish("dates", 1, "latest", "prod")
    return shop


@pytest.fixture(scope="module")
def address(ray_cluster, shop, tiny_folders):
    """The URL of an application with two tiny bases; the first one has an adapter."""
    from loraland.serving.config import BaseSettings, Limits, ServingConfig

    bases = [
        BaseSettings(name=name, folder=folder, precision="fp32", max_rank=8, num_cpus=0.5)
        for name, folder in (
            ("tiny-llama", shop.base_folder),
            ("tiny-mistral", tiny_folders["mistral"]),
        )
    ]
    limits = Limits(new_tokens=200)
    config = ServingConfig(bases=tuple(bases), storage=shop.uri, cache_seconds=0.5, limits=limits)
    with served(config) as url:
        yield url


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


class Ask:
    """The `lorax` client in both its ways; a stream becomes a list."""

    def __init__(self, address):
        self.sync, self.asynchronous = lorax.Client(address), lorax.AsyncClient(address)

    def generate(self, way, *given, **named):
        if way == "sync":
            return self.sync.generate(*given, **named)
        return asyncio.run(self.asynchronous.generate(*given, **named))

    def stream(self, way, *given, **named):
        if way == "sync":
            return list(self.sync.generate_stream(*given, **named))

        async def everything():
            return [e async for e in self.asynchronous.generate_stream(*given, **named)]

        return asyncio.run(everything())


@pytest.fixture(scope="module")
def ask(address):
    return Ask(address)


def curl(address, path, body=None, *options):
    """The status, the headers and the body that curl gets."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    command = [program, "--silent", "--show-error", "--no-buffer", "--include", "--max-time", "60"]
    if body is not None:
        text = body if isinstance(body, str) else json.dumps(body)
        command += ["--header", "content-type: application/json", "--data-raw", text]
    done = subprocess.run(
        [*command, *options, f"{address}{path}"], capture_output=True, text=True, check=True
    )
    head, _, content = done.stdout.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, content


# LoRAX, by its client

BOTH = pytest.mark.parametrize("way", ["sync", "async"])


@BOTH
def test_lorax_generates_with_an_adapter_and_tells_its_tokens(ask, shop, way):
    answer = ask.generate(way, PROMPT, adapter_id="tiny-llama/dates", max_new_tokens=12)
    assert answer.generated_text == shop.greedy(PROMPT, shop.dates)
    assert answer.details.finish_reason == "length"
    assert answer.details.prompt_tokens == len(PROMPT)
    assert answer.details.generated_tokens == len(answer.details.tokens) == 12
    assert "".join(token.text for token in answer.details.tokens) == answer.generated_text
    assert all(token.logprob <= 0 for token in answer.details.tokens)


@BOTH
@pytest.mark.parametrize("name", ["tiny-llama/dates:prod", "the version"])
def test_lorax_streams_a_token_at_a_time_and_the_last_event_tells_the_whole(ask, shop, way, name):
    name = str(shop.dates) if name == "the version" else name
    events = ask.stream(way, PROMPT, adapter_id=name, max_new_tokens=12)
    assert len(events) == 12
    *others, last = events
    assert {event.generated_text for event in others} == {None}
    assert last.generated_text == shop.greedy(PROMPT, shop.dates)
    assert "".join(e.token.text for e in events if not e.token.special) == last.generated_text
    assert (last.details.finish_reason, last.details.generated_tokens) == ("length", 12)


@BOTH
def test_lorax_without_an_adapter_asks_the_first_base(ask, shop, way):
    answer = ask.generate(way, PROMPT, max_new_tokens=12)
    assert answer.generated_text == shop.greedy(PROMPT)


def test_lorax_asks_another_base_by_its_name(ask, tiny_folders):
    answer = ask.generate("sync", PROMPT, adapter_id="tiny-mistral", max_new_tokens=8)
    base = load_tiny("mistral", tiny_folders["mistral"])
    ids = base.tokenizer(PROMPT, return_tensors="pt")
    output = base.model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    new = output[0, ids["input_ids"].shape[1] :]
    assert answer.generated_text == base.tokenizer.decode(new, skip_special_tokens=True)


@BOTH
def test_every_parameter_that_the_client_has_and_we_serve_is_served(ask, shop, way):
    wishes = {
        "adapter_id": "tiny-llama/dates", "do_sample": True, "max_new_tokens": 10, "best_of": 2,
        "repetition_penalty": 1.2, "return_full_text": True, "stop_sequences": ["never"],
        "temperature": 0.9, "top_k": 50, "top_p": 0.9, "truncate": 5, "ignore_eos_token": True,
        "return_k_alternatives": 2,
    }  # fmt: skip
    answer = ask.generate(way, PROMPT, **wishes)
    assert answer.generated_text.startswith(PROMPT)
    details = answer.details
    assert (details.prompt_tokens, details.generated_tokens) == (5, 10)
    assert details.seed is not None
    assert {len(token.alternative_tokens) for token in details.tokens} == {2}
    (other,) = details.best_of_sequences

    def mean(tokens):
        return sum(token.logprob for token in tokens) / len(tokens)

    assert mean(details.tokens) >= mean(other.tokens)


@BOTH
def test_a_seed_repeats_an_answer_and_is_told(ask, way):
    wishes = {"do_sample": True, "max_new_tokens": 12, "temperature": 1.2}
    first = ask.generate(way, PROMPT, **wishes)
    again = ask.generate(way, PROMPT, seed=first.details.seed, **wishes)
    assert again.generated_text == first.generated_text
    assert ask.stream(way, PROMPT, seed=first.details.seed, **wishes)[-1].generated_text == (
        first.generated_text
    )


@BOTH
def test_a_response_format_holds_the_answer(ask, way):
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_object", "schema": schema}
    answer = ask.generate(way, PROMPT, max_new_tokens=200, response_format=form)
    assert json.loads(answer.generated_text)["ok"] in (True, False)
    assert answer.details.finish_reason == "eos_token"
    *tokens, end = answer.details.tokens
    assert (end.special, end.text) == (True, "</s>")
    assert "".join(token.text for token in tokens) == answer.generated_text


@BOTH
def test_a_stop_string_ends_a_stream_and_is_not_told(ask, shop, way):
    whole = shop.greedy(PROMPT, shop.dates)
    stop = whole[3:5]
    wishes = {"adapter_id": "tiny-llama/dates", "max_new_tokens": 12, "stop_sequences": [stop]}
    events = ask.stream(way, PROMPT, **wishes)
    assert events[-1].generated_text == whole[: whole.index(stop)]
    assert "".join(event.token.text for event in events) == events[-1].generated_text
    assert events[-1].details.finish_reason == "stop_sequence"


@BOTH
@pytest.mark.parametrize("kind", ["generate", "stream"])
@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"adapter_id": "tiny-llama/date"}, "NotFoundError", "tiny-llama/dates"),
        ({"adapter_id": "dates"}, "NotFoundError", "write BASE/TASK"),
        ({"adapter_id": "../../etc"}, "ValidationError", "is not a model name"),
        ({"adapter_source": "hub"}, "ValidationError", "adapter_source: is not served"),
        ({"api_token": "unmistakable"}, "ValidationError", "api_token: is not served"),
        ({"watermark": True}, "ValidationError", "watermark"),
        ({"typical_p": 0.5}, "ValidationError", "typical_p"),
        ({"max_new_tokens": 201}, "ValidationError", "at most 200"),
        ({"max_new_tokens": 200, "prompt": "x" * 400}, "ValidationError", "512"),
    ],
)
def test_lorax_raises_the_error_that_was_meant(ask, way, kind, fields, error, words):
    wishes = {"prompt": PROMPT, "max_new_tokens": 3} | fields
    prompt = wishes.pop("prompt")
    with pytest.raises(getattr(lorax.errors, error), match=words) as caught:
        getattr(ask, kind)(way, prompt, **wishes)
    assert "unmistakable" not in str(caught.value)


def test_lorax_is_told_that_there_are_no_embeddings(address):
    with pytest.raises(lorax.errors.NotFoundError, match="/embed"):
        lorax.Client(address).embed("hi")


# LoRAX, by curl


def test_curl_gets_the_headers_of_lorax(address, shop):
    body = {"inputs": PROMPT, "parameters": {"adapter_id": "tiny-llama/dates", "max_new_tokens": 5}}
    status, headers, content = curl(address, "/generate", body)
    assert status == 200
    assert json.loads(content) == {"generated_text": shop.greedy(PROMPT, shop.dates, 5)}
    assert headers["x-model-id"] == "tiny-llama"
    assert headers["x-adapter-id"] == headers["x-loraland-model"] == str(shop.dates)
    assert headers["x-adapter-source"] == "registry"
    assert headers["x-prompt-tokens"] == str(len(PROMPT))
    assert headers["x-generated-tokens"] == "5"
    times = ("total", "validation", "queue", "inference")
    assert all(int(headers[f"x-{name}-time"]) >= 0 for name in times)


def test_curl_streams_the_same_text(address, shop, read_events):
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5, "details": True}}
    status, headers, content = curl(address, "/generate_stream", body)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    events = read_events(content)
    assert len(events) == 5
    assert events[-1]["generated_text"] == shop.greedy(PROMPT, None, 5)
    assert events[-1]["details"]["prompt_tokens"] == len(PROMPT)


@pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream", "/tokenize"])
@pytest.mark.parametrize(
    ("body", "words"), [("{", "not JSON"), ({}, "inputs"), ({"inputs": "x", "nope": 1}, "nope")]
)
def test_bad_bodies_have_errors_in_the_shape_of_lorax(address, path, body, words):
    status, headers, content = curl(address, path, body)
    error = json.loads(content)
    assert (status, error["error_type"], error["code"]) == (400, "validation", "invalid_request")
    assert words in error["error"]
    assert headers["content-type"] == "application/json"


def test_info_tells_the_bases_and_which_answers_without_an_adapter(address):
    status, _, content = curl(address, "/info")
    info = json.loads(content)
    assert status == 200
    assert (info["model_id"], info["default_base"]) == ("tiny-llama", "tiny-llama")
    assert [base["model_id"] for base in info["bases"]] == ["tiny-llama", "tiny-mistral"]
    assert (info["max_total_tokens"], info["max_input_length"]) == (512, 511)
    assert (info["model_dtype"], info["model_device_type"]) == ("fp32", "cpu")
    assert (info["max_new_tokens"], info["max_stop_sequences"]) == (200, 4)
    assert len(info["model_sha"]) == 64


@pytest.mark.parametrize("adapter", [None, "tiny-mistral", "tiny-llama/dates"])
def test_tokenize_tells_where_the_tokens_lie(address, adapter):
    status, _, content = curl(address, "/tokenize", {"inputs": "hé", "adapter_id": adapter})
    tokens = json.loads(content)
    assert status == 200
    assert [(token["start"], token["stop"]) for token in tokens] == [(0, 1), (1, 2), (1, 2)]
    assert tokens[0]["text"] == "h"
    status, _, content = curl(address, "/tokenize", {"inputs": "x", "adapter_id": "no/one"})
    assert (status, json.loads(content)["error_type"]) == (404, "not_found")


def test_health_and_the_documentation_are_there(address):
    assert curl(address, "/health")[0] == 200
    status, _, content = curl(address, "/docs")
    assert status == 200
    assert "openapi.json" in content
    paths = json.loads(curl(address, "/openapi.json")[2])["paths"]
    assert {"/generate", "/generate_stream", "/", "/tokenize", "/info", "/v1/compare"} <= set(paths)


# OpenAI


def test_curl_asks_openais_endpoints(address, shop, read_events):
    body = {"model": "tiny-llama/dates", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    status, _, content = curl(address, "/v1/completions", body)
    expected = shop.greedy(PROMPT, shop.dates)
    assert (status, json.loads(content)["choices"][0]["text"]) == (200, expected)
    _, _, content = curl(address, "/v1/completions", body | {"stream": True})
    *events, done = read_events(content)
    assert done == "[DONE]"
    assert "".join(event["choices"][0]["text"] for event in events) == expected
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/compare"):
        status, _, content = curl(address, path, "{")
        assert (status, json.loads(content)["error"]["code"]) == (400, "invalid_request")
    status, _, content = curl(address, "/v1/models/tiny-llama/dates")
    assert (status, json.loads(content)["id"]) == (200, str(shop.dates))


def parsed(call):
    assert call.id.startswith("call_")
    return call.function.name, json.loads(call.function.arguments)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "sky"}}])
def test_a_tool_is_called_and_its_result_goes_on(client, choice):
    wishes = {"model": "tiny-llama/dates", "max_tokens": 60, "temperature": 0}
    answer = client.chat.completions.create(
        messages=ASKED, tools=[WEATHER], tool_choice=choice, **wishes
    )
    (made,) = answer.choices
    assert made.finish_reason == "tool_calls"
    (call,) = made.message.tool_calls
    name, arguments = parsed(call)
    assert (name, made.message.content) == ("sky", None)
    assert arguments["at"] in ("am", "pm")
    result = {"role": "tool", "tool_call_id": call.id, "content": "blue"}
    answer = client.chat.completions.create(messages=[*ASKED, made.message, result], **wishes)
    assert answer.choices[0].message.tool_calls is None


def test_a_streamed_call_comes_in_pieces_of_one_call(client):
    wishes = {"model": "tiny-llama", "messages": ASKED, "tools": [WEATHER], "max_tokens": 60}
    stream = client.chat.completions.create(
        tool_choice="required", temperature=0, stream=True, **wishes
    )
    calls, reasons, contents = [], [], []
    for chunk in stream:
        (choice,) = chunk.choices
        calls += choice.delta.tool_calls or []
        reasons.append(choice.finish_reason)
        contents.append(choice.delta.content)
    assert reasons[-1] == "tool_calls"
    assert set(contents) == {None}
    first, *others = calls
    assert (first.index, first.function.name, first.type) == (0, "sky", "function")
    assert {(call.index, call.id, call.function.name) for call in others} <= {(0, None, None)}
    arguments = json.loads("".join(call.function.arguments for call in calls))
    assert arguments["at"] in ("am", "pm")


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_model_that_need_not_call_answers_in_text(client, choice):
    wishes = {"model": "tiny-llama", "messages": ASKED, "max_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(tools=[WEATHER], tool_choice=choice, **wishes)
    assert answer.choices[0].message.tool_calls is None
    assert isinstance(answer.choices[0].message.content, str)
    plain = client.chat.completions.create(**wishes)
    shown = answer.usage.prompt_tokens > plain.usage.prompt_tokens
    assert shown == (choice == "auto")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "there are no tools"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "constrains"),
        (
            {"messages": [*ASKED, {"role": "tool", "tool_call_id": "x", "content": "y"}]},
            "answers a call that no assistant has made",
        ),
    ],
)
def test_tools_that_make_no_sense_are_refused(client, fields, words):
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(**({"model": "tiny-llama", "messages": ASKED} | fields))


# Comparison


def compare(address, **fields):
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0} | fields
    return curl(address, "/v1/compare", body)


@pytest.mark.parametrize("stream", [False, True])
def test_models_answer_side_by_side_as_each_does_alone(address, shop, read_events, stream):
    models = ["tiny-llama", "tiny-llama/dates", "tiny-mistral"]
    status, _, content = compare(address, models=models, stream=stream)
    assert status == 200
    if stream:
        *events, done = read_events(content)
        assert done == "[DONE]"
        columns = [[e for e in events if e["index"] == index] for index in range(3)]
        ends = [column[-1] for column in columns]
        texts = ["".join(e.get("text", "") for e in column) for column in columns]
    else:
        ends = json.loads(content)["answers"]
        texts = [end["text"] for end in ends]
    assert texts[:2] == [shop.greedy(PROMPT), shop.greedy(PROMPT, shop.dates)]
    assert [end["model"] for end in ends] == ["tiny-llama", str(shop.dates), "tiny-mistral"]
    assert {end["finish_reason"] for end in ends} <= {"length", "stop"}
    assert all(end["ttft_ms"] > 0 and end["tokens_per_s"] > 0 for end in ends)
    assert ends[0]["usage"]["prompt_tokens"] == len(PROMPT)


def test_a_comparison_with_a_bad_adapter_keeps_the_other_column(address, shop):
    shop.publish("foreign", 3, base_fingerprint="0" * 64)
    status, _, content = compare(address, models=["tiny-llama", "tiny-llama/foreign"])
    good, bad = json.loads(content)["answers"]
    assert (status, good["text"]) == (200, shop.greedy(PROMPT))
    assert bad["error"]["code"] == "adapter_rejected"


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"models": ["tiny-llama", "no/one"]}, 404, "no/one"),
        ({"models": ["tiny-llama"]}, 400, "models"),
        ({"models": ["tiny-llama"] * 2, "max_tokens": 201}, 400, "at most 200"),
        ({"models": ["tiny-llama"] * 2, "messages": ASKED}, 400, "either a prompt or messages"),
    ],
)
def test_a_comparison_that_cannot_be_is_an_error(address, fields, status, words):
    told, _, content = compare(address, **fields)
    assert told == status
    assert words in json.loads(content)["error"]["message"]


def test_an_api_token_is_in_no_log(address):
    import ray._private.worker

    secret = "unmistakable-token-words"
    body = {"inputs": PROMPT, "parameters": {"api_token": secret}}
    status, _, content = curl(address, "/generate", body)
    assert status == 400
    assert secret not in content
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert any("replica" in file.name for file in files)
    assert [f.name for f in files if secret.encode() in f.read_bytes()] == []
