"""The whole application on a local Ray cluster, asked by the official client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.serving.on_ray import served

pytestmark = pytest.mark.ray

PROMPT = "What is the date?"
LONG = {"max_tokens": 400, "temperature": 0}


@pytest.fixture(scope="module")
def shop(new_shop):
    shop = new_shop()
    shop.dates = shop.publish("dates", 1, "latest", "prod")
    shop.topics = shop.publish("topics", 2)
    shop.foreign = shop.publish("foreign", 3, base_fingerprint="0" * 64)
    shop.wide = shop.publish("wide", 4, rank=16)
    shop.other = shop.publish("dates", 5, base="other-base")
    return shop


@pytest.fixture(scope="module")
def address(ray_cluster, shop, tmp_path_factory):
    """The URL of an application with one tiny base, room for two adapters and a short queue."""
    from loraland.serving.config import BaseSettings, Limits, ServingConfig

    base = BaseSettings(
        name="tiny-llama",
        folder=shop.base_folder,
        precision="fp32",
        max_adapters=2,
        max_rank=8,
        max_batch=8,
        max_waiting=24,
    )
    config = ServingConfig(
        bases=(base,), storage=shop.uri, cache_seconds=0.5, limits=Limits(prompts=3, new_tokens=500)
    )
    with served(config) as url:
        yield url


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client, model, prompt=PROMPT, **fields):
    wishes = {"max_tokens": 12, "temperature": 0} | fields
    return client.completions.create(model=str(model), prompt=prompt, **wishes)


def replica(method):
    from ray import serve

    handle = serve.get_deployment_handle("base-tiny-llama", "loraland")
    return getattr(handle, method).remote().result(timeout_s=60)


def wait_until(holds, what):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail(f"after a minute still not: {what}")


def idle():
    stats = replica("stats")
    return stats["waiting"] == stats["running"] == 0


def test_every_name_of_an_adapter_is_answered_by_the_version_it_stands_for(client, shop):
    expected = shop.greedy(PROMPT, shop.dates)
    assert expected != shop.greedy(PROMPT)
    for name in ("tiny-llama/dates", "tiny-llama/dates:prod", str(shop.dates)):
        raw = client.completions.with_raw_response.create(
            model=name, prompt=PROMPT, max_tokens=12, temperature=0
        )
        answer = raw.parse()
        assert answer.choices[0].text == expected
        assert answer.model == raw.headers["x-loraland-model"] == str(shop.dates)


def test_the_base_answers_under_its_own_name(client, shop):
    answer = complete(client, "tiny-llama")
    assert answer.choices[0].text == shop.greedy(PROMPT)
    assert answer.model == "tiny-llama"
    assert answer.usage.prompt_tokens == len(PROMPT)
    assert answer.usage.total_tokens == len(PROMPT) + answer.usage.completion_tokens


def test_models_lists_the_base_and_all_versions_with_aliases_and_scores(client, shop):
    models = {model.id: model for model in client.models.list()}
    assert {"tiny-llama", str(shop.dates), str(shop.topics)} <= models.keys()
    assert str(shop.other) not in models
    assert models[str(shop.dates)].aliases == ["latest", "prod"]
    assert models[str(shop.dates)].scores[0]["lift"] == 0.8
    assert client.models.retrieve("tiny-llama/dates:prod").id == str(shop.dates)
    assert client.models.retrieve("tiny-llama").id == "tiny-llama"


def test_a_stream_gives_the_text_of_the_whole_answer_and_its_usage(client, shop):
    whole = complete(client, shop.topics)
    *chunks, last = complete(
        client, shop.topics, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.model for chunk in chunks} == {str(shop.topics)}
    assert last.usage == whole.usage
    assert len(chunks) > 2


def test_a_chat_follows_the_template_of_the_base(client, shop):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ids = shop.base().tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    expected = shop.greedy(ids, shop.dates)
    wishes = {"model": "tiny-llama/dates", "messages": messages, "temperature": 0}
    answer = client.chat.completions.create(max_completion_tokens=12, **wishes)
    assert answer.choices[0].message.content == expected
    assert answer.model == str(shop.dates)
    assert answer.usage.prompt_tokens == len(ids)
    streamed = client.chat.completions.create(max_tokens=12, stream=True, **wishes)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == expected


def test_a_stop_string_cuts_the_answer(client, shop):
    whole = shop.greedy(PROMPT, shop.dates)
    stop = whole[3:5]
    answer = complete(client, shop.dates, stop=[stop, "never to be seen"])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_choices_of_a_seed_differ_and_repeat(client, shop):
    wishes = {"n": 3, "seed": 11, "temperature": 1.2, "extra_body": {"top_k": 100}}
    first, again = (
        [choice.text for choice in complete(client, shop.dates, **wishes).choices] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == 3


def test_several_prompts_and_token_ids_are_answered_in_order(client, shop):
    answer = complete(client, shop.dates, prompt=["One", "Two"])
    assert [choice.text for choice in answer.choices] == [
        shop.greedy("One", shop.dates),
        shop.greedy("Two", shop.dates),
    ]
    ids = [40, 50, 60]
    assert complete(client, "tiny-llama", prompt=ids).choices[0].text == shop.greedy(ids)


@pytest.mark.parametrize(
    ("fields", "kind", "code", "words"),
    [
        ({"model": "tiny-llama/date"}, openai.NotFoundError, "model_not_found", "tiny-llama/dates"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found", "'gpt-4o'"),
        ({"model": "Not A Name"}, openai.BadRequestError, "invalid_model_name", "BASE/TASK"),
        ({"prompt": "x" * 513}, openai.BadRequestError, "context_length_exceeded", "512"),
        ({"max_tokens": 500}, openai.BadRequestError, "context_length_exceeded", "500"),
        ({"max_tokens": 501}, openai.BadRequestError, "invalid_request", "at most 500"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_request", "temperature"),
        ({"logprobs": 99}, openai.BadRequestError, "invalid_request", "logprobs"),
        ({"suffix": "x"}, openai.BadRequestError, "invalid_request", "not served yet"),
        ({"prompt": [9999]}, openai.BadRequestError, "invalid_request", "0 to 258"),
        ({"extra_body": {"topk": 1}}, openai.BadRequestError, "invalid_request", "'top_k'"),
        ({"model": "other-base/dates"}, openai.BadRequestError, "adapter_rejected", "not serve"),
        ({"model": "tiny-llama/foreign"}, openai.BadRequestError, "adapter_rejected", "weights"),
        ({"model": "tiny-llama/wide"}, openai.BadRequestError, "adapter_rejected", "16"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_has_a_status_a_code_and_a_way_out(client, fields, kind, code, words, stream):
    wishes = {"model": "tiny-llama", "prompt": PROMPT, "max_tokens": 12} | fields
    with pytest.raises(kind) as caught:
        client.completions.create(stream=stream, **wishes)
    assert caught.value.body["code"] == code
    assert words in caught.value.body["message"]


def test_a_refused_adapter_costs_no_resident_its_place(client, shop):
    complete(client, shop.dates)
    complete(client, shop.topics)
    before = {resident["version"] for resident in replica("residency")}
    assert before == {str(shop.dates), str(shop.topics)}
    with pytest.raises(openai.BadRequestError):
        complete(client, "tiny-llama/foreign")
    assert {resident["version"] for resident in replica("residency")} == before


def test_an_adapter_published_while_running_is_served_and_a_moved_alias_followed(client, shop):
    with pytest.raises(openai.NotFoundError):
        complete(client, "tiny-llama/fresh")
    first = shop.publish("fresh", 21)
    wait_until(lambda: any(m.id == str(first) for m in client.models.list()), "listed")
    assert complete(client, "tiny-llama/fresh").choices[0].text == shop.greedy(PROMPT, first)
    second = shop.publish("fresh", 22)
    wait_until(lambda: complete(client, "tiny-llama/fresh").model == str(second), "followed")
    assert complete(client, "tiny-llama/fresh").choices[0].text == shop.greedy(PROMPT, second)
    assert complete(client, first).choices[0].text == shop.greedy(PROMPT, first)


def test_many_at_once_to_more_adapters_than_fit_get_what_each_gets_alone(client, shop):
    names = [shop.publish(f"crowd-{seed}", seed) for seed in (31, 32, 33)]
    models = [None, shop.dates, *names]
    asked = [(models[i % len(models)], f"Question {i}") for i in range(20)]
    expected = [shop.greedy(prompt, name) for name, prompt in asked]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda a: complete(client, a[0] or "tiny-llama", a[1]), asked))
    assert [answer.choices[0].text for answer in answers] == expected
    assert [answer.model for answer in answers] == [str(name or "tiny-llama") for name, _ in asked]
    wait_until(lambda: len(replica("residency")) <= 2, "no more than two adapters in memory")


def test_a_full_queue_is_429_with_a_time_to_retry_and_then_recovers(client):
    crowd = {"prompt": ["a", "b", "c"], "n": 8, **LONG, "logit_bias": {}}
    with client.completions.create(model="tiny-llama", stream=True, **crowd) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="tiny-llama", **crowd)
        assert caught.value.response.headers["retry-after"] == "1"
        assert "busy" in caught.value.body["message"]
    wait_until(idle, "idle")
    assert complete(client, "tiny-llama").choices[0].text


def test_a_client_that_leaves_in_mid_stream_frees_the_engine(client, shop):
    before = replica("stats")["generated_tokens"]
    wishes = {"n": 8, **LONG, "stream": True}
    with complete(client, shop.dates, **wishes) as stream:
        next(iter(stream))
    wait_until(idle, "idle")
    assert replica("stats")["generated_tokens"] - before < 8 * 400
    assert {resident["leases"] for resident in replica("residency")} == {0}


def test_a_client_that_leaves_before_its_whole_answer_frees_the_engine(address, shop):
    wait_until(idle, "idle")
    before = replica("stats")["generated_tokens"]
    crowd = {"model": "tiny-llama", "prompt": ["a", "b", "c"], "n": 8, **LONG}

    async def leave():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            asking = asyncio.create_task(client.completions.create(**crowd))
            while (await asyncio.to_thread(replica, "stats"))["running"] == 0:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(leave())
    wait_until(idle, "idle")
    assert replica("stats")["generated_tokens"] - before < 24 * 400


def test_neither_prompts_nor_keys_are_in_any_log(address, client, shop):
    import ray._private.worker

    secret, key = "unmistakable-prompt-words", "unmistakable-key"
    with openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as keyed:
        complete(keyed, shop.dates, prompt=secret)
        for wrong in ({"temperature": 3}, {"prompt": [secret * 100]}, {"model": "no/one"}):
            with pytest.raises(openai.APIStatusError):
                complete(keyed, **({"model": "tiny-llama", "prompt": secret} | wrong))
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert any("replica" in file.name for file in files)
    words = (secret.encode(), key.encode())
    assert [f.name for f in files if any(word in f.read_bytes() for word in words)] == []


def test_the_application_starts_from_a_checkout_by_its_import_path(ray_cluster, address):
    """`serve run` itself would end with a signal; its parts are: import, build, validate."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "ray.serve.scripts", "build", "serve_apps.lora_land:app"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=300, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert "serve_apps.lora_land:app" in done.stdout
    assert "base-smollm2-135m" in done.stdout
