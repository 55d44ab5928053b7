"""Two replicas on a real cluster: seen, ordered, swapped under load, stopped and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import openai
import pytest

from tests.serving.on_ray import served

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BASE = "tiny-llama"


@pytest.fixture(scope="module")
def shop(new_shop):
    shop = new_shop()
    shop.first = shop.publish("dates", 1, "latest", "prod")
    shop.second = shop.publish("dates", 2, "next")
    shop.topics = shop.publish("topics", 3)
    return shop


@pytest.fixture(scope="module")
def address(ray_cluster, shop, tmp_path_factory):
    from loraland.serving.config import BaseSettings, ServingConfig

    shop.offers = tmp_path_factory.mktemp("offers")
    base = BaseSettings(
        name=BASE, folder=shop.base_folder, precision="fp32", replicas=2, num_cpus=0.5,
        max_rank=8, max_batch=8, slots=4, drain_seconds=30,
    )  # fmt: skip
    config = ServingConfig(
        bases=(base,), storage=shop.uri, cache_seconds=5, sources=(str(shop.offers),)
    )
    with served(config) as url:
        yield url


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def web(address):
    with httpx.Client(base_url=address, timeout=120) as web:
        yield web


def until(holds, what, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.2)
    pytest.fail(f"after {seconds} seconds still not: {what}")


def replicas(web):
    [base] = web.get("/v1/fleet").raise_for_status().json()["bases"]
    assert base["base"] == BASE
    return base["replicas"]


def holders(web, name):
    """By replica: what it holds of a version."""
    held = {}
    for one in replicas(web):
        found = [a for a in one.get("adapters", []) if a["version"] == str(name)]
        held |= {one["replica"]: found[0]} if found else {}
    return held


def pinned(web, name):
    return [held["pinned"] for held in holders(web, name).values()]


def both_run(web):
    return [one["state"] for one in replicas(web) if "error" not in one] == ["running"] * 2


def pids():
    """The processes of the replicas that run."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    details = ray.get(controller.get_serve_instance_details.remote())
    deployment = details["applications"]["loraland"]["deployments"][f"base-{BASE}"]
    return [one["pid"] for one in deployment["replicas"] if one["state"] == "RUNNING"]


def verb(web, what, name, **query):
    return web.post(f"/v1/adapters/{name}/{what}", params=query)


def ask(client, model, **fields):
    wishes = {"prompt": "What is it?", "max_tokens": 8, "temperature": 0} | fields
    return client.completions.create(model=str(model), **wishes)


def test_the_fleet_tells_every_replica_with_its_figures(web):
    until(lambda: both_run(web), "both run")
    found = replicas(web)
    assert len({one["replica"] for one in found}) == 2
    for one in found:
        assert one["device"] == "cpu"
        assert one["stats"]["slots"] == 4
        # Nobody was sent here before it had given a token.
        assert one["stats"]["generated_tokens"] >= 1


def test_an_adapter_is_loaded_pinned_and_unloaded_on_all_replicas_or_on_one(web, client, shop):
    done = verb(web, "load", shop.topics).raise_for_status().json()
    assert [one["adapter"]["tier"] for one in done["replicas"]] == ["device", "device"]
    one, other = (told["replica"] for told in done["replicas"])
    assert len(verb(web, "unload", shop.topics, replica=one).json()["replicas"]) == 1
    until(lambda: holders(web, shop.topics).keys() == {other}, "one has let it go")
    verb(web, "pin", shop.topics).raise_for_status()
    until(lambda: pinned(web, shop.topics) == [True, True], "both have pinned it")
    assert ask(client, shop.topics).choices[0].text == shop.greedy("What is it?", shop.topics, 8)
    verb(web, "unpin", shop.topics).raise_for_status()
    until(lambda: pinned(web, shop.topics) == [False, False], "both hold it like any other")
    verb(web, "unload", shop.topics).raise_for_status()
    until(lambda: not holders(web, shop.topics), "both have let it go")
    for _ in range(4):  # and it comes back by itself, wherever it is asked for
        assert ask(client, shop.topics).model == str(shop.topics)


def test_what_cannot_be_done_says_why(web, shop):
    nobody = f"{BASE}/dates@000000000000"
    assert verb(web, "load", nobody).json()["error"]["code"] == "model_not_found"
    told = verb(web, "load", shop.topics, replica="nobody")
    assert (told.status_code, told.json()["error"]["code"]) == (404, "replica_not_found")
    told = web.put(f"/v1/aliases/{BASE}/dates/prod", json={"version": "000000000000"})
    assert told.json()["error"]["code"] == "model_not_found"
    for source in ("../../etc", "/etc", "s3://bucket/x", "hf://acme/x", f"{shop.offers}/../x"):
        told = web.post("/v1/adapters", json={"source": source})
        assert (told.status_code, told.json()["error"]["code"]) == (403, "source_refused")
    told = web.post("/v1/promotions", json={"model": str(shop.second)})
    assert told.json()["error"]["code"] in ("samples_missing", "task_not_found")


def test_an_adapter_brought_in_from_a_folder_is_served(web, client, shop, new_shop):
    elsewhere = new_shop()
    name = elsewhere.publish("fresh", 9)
    elsewhere.registry.fetch(name, shop.offers)
    source = str(shop.offers / f"{BASE}/fresh/{name.version}")
    told = web.post("/v1/adapters", json={"source": source, "aliases": ["latest"]})
    assert told.raise_for_status().json() == {"model": str(name), "aliases": ["latest"]}
    answer = ask(client, f"{BASE}/fresh")
    assert (answer.model, answer.choices[0].text) == (
        str(name), elsewhere.greedy("What is it?", name, 8),
    )  # fmt: skip


def test_requests_go_to_the_replica_that_holds_the_adapter(web, client, shop):
    alone = shop.publish("alone", 11)
    ask(client, alone)
    time.sleep(2)  # until the router has heard who holds it
    for _ in range(12):
        ask(client, alone)
    time.sleep(1.5)  # until the fleet is looked at anew
    assert len(holders(web, alone)) == 1


def test_an_alias_that_moves_under_streams_drops_none_and_each_is_of_a_version_it_named(
    web, client, shop
):
    moved = [(0.0, 0.0, shop.first)]  # when a move began and had ended, and to what
    stop = threading.Event()

    def stream(number):
        answers = []
        while not stop.is_set():
            began = time.monotonic()
            chunks = list(
                ask(client, f"{BASE}/dates:prod", prompt=f"{number}", max_tokens=40, stream=True)
            )
            [model] = {chunk.model for chunk in chunks}
            assert chunks[-1].choices[0].finish_reason is not None
            answers.append((began, time.monotonic(), model))
        return answers

    with ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(stream, number) for number in range(16)]
        try:
            for number in range(20):
                target = (shop.second, shop.first)[number % 2]
                began = time.monotonic()
                web.put(
                    f"/v1/aliases/{BASE}/dates/prod", json={"version": target.version}
                ).raise_for_status()
                moved.append((began, time.monotonic(), target))
                time.sleep(0.3)
        finally:
            stop.set()
        answers = [answer for one in streams for answer in one.result()]
    assert len(answers) >= 32
    assert {model for *_, model in answers} == {str(shop.first), str(shop.second)}
    ends = [ended for _, ended, _ in moved[1:]] + [float("inf")]
    for began, ended, model in answers:
        named = {
            str(name)
            for (start, _, name), until_ in zip(moved, ends, strict=True)
            if start <= ended and began <= until_
        }
        assert model in named


def test_a_replica_killed_under_load_costs_no_request_that_has_not_begun_to_stream(
    web, client, shop
):
    until(lambda: both_run(web) and len(pids()) == 2, "both run")
    verb(web, "pin", shop.topics).raise_for_status()
    stop, begun = threading.Event(), threading.Semaphore(0)
    models = [BASE, shop.first, shop.second, shop.topics]

    def whole(number):
        done = 0
        while not stop.is_set():
            answer = ask(client, models[number % 4], prompt=f"{number}", n=2, max_tokens=100)
            assert all(choice.finish_reason for choice in answer.choices)
            done += 1
            begun.release()
        return done

    def stream(number):
        """How many came whole, and the errors of those that had begun."""
        done, errors = 0, []
        while not stop.is_set():
            seen, ended = 0, None
            try:
                for chunk in ask(
                    client, models[number % 4], prompt=f"{number}", max_tokens=100, stream=True
                ):
                    seen, ended = seen + 1, chunk.choices[0].finish_reason
                assert ended is not None, "it stopped in the middle and nobody said so"
                done += 1
                begun.release()
            except openai.APIError as error:
                assert seen > 0, "it had not begun"
                errors.append(error.body["code"])
        return done, errors

    with ThreadPoolExecutor(16) as pool:
        wholes = [pool.submit(whole, number) for number in range(8)]
        streams = [pool.submit(stream, number) for number in range(8)]
        try:
            for _ in range(24):
                assert begun.acquire(timeout=120)
            victim = pids()[0]
            os.kill(victim, signal.SIGKILL)
            for _ in range(48):
                assert begun.acquire(timeout=120)
        finally:
            stop.set()
        assert all(one.result() >= 1 for one in wholes)
        codes = [code for one in streams for code in one.result()[1]]
    assert set(codes) == {"engine_stopped"}
    until(lambda: both_run(web) and victim not in pids(), "another has taken its place")
    until(
        lambda: pinned(web, shop.topics) == [True, True],
        "the new one knows what is pinned",
    )
    verb(web, "unpin", shop.topics).raise_for_status()


def test_a_replica_that_hangs_is_listed_as_such_and_hides_nobody(web):
    until(lambda: both_run(web) and len(pids()) == 2, "both run")
    victim = pids()[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        until(lambda: not both_run(web), "one is silent")
        found = replicas(web)
        [silent] = [one for one in found if "error" in one]
        assert len(found) == 2
        assert silent["error"] == "did not answer within 2 seconds"
        assert "stats" not in silent
    finally:
        os.kill(victim, signal.SIGCONT)
    until(lambda: both_run(web), "it answers again")


def test_what_the_dashboard_asks_for_is_what_the_cluster_exports(web, client, shop):
    import ray

    from loraland.serving.metrics import exported_names

    ask(client, shop.topics, max_tokens=4)
    ask(client, BASE, max_tokens=4)
    ports = [node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]]

    def exported():
        text = "".join(httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in ports)
        return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if "loraland" in line}

    missing = set()

    def there():
        nonlocal missing
        # Counters that have counted nothing are not exported.
        quiet = {"preemptions", "failed_passes", "reused_tokens"}
        missing = {
            name
            for name in exported_names() - exported()
            if not any(word in name for word in quiet)
        }
        return not missing

    try:
        until(there, "all are exported", seconds=60)
    except BaseException:
        print(json.dumps(sorted(missing)))
        raise


def test_one_id_finds_a_request_in_the_logs_of_gateway_and_replica(client, shop):
    import ray._private.worker

    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    name = f"find-me-{os.getpid()}"
    ask(client, shop.first, extra_headers={"x-request-id": name})

    def places():
        files = [file for file in logs.rglob("*") if file.is_file()]
        return " ".join(file.name for file in files if name.encode() in file.read_bytes())

    kinds = ("loraland_audit", "replica_loraland_gateway", f"replica_loraland_base-{BASE}")
    until(lambda: all(kind in places() for kind in kinds), "found in all of them", seconds=60)


def test_a_replica_that_is_redeployed_ends_its_streams_first(web, client, address, shop):
    from ray import serve

    from loraland.serving.app import build
    from loraland.serving.config import BaseSettings, ServingConfig

    until(lambda: both_run(web), "both run")
    chunks = iter(ask(client, shop.first, max_tokens=400, n=4, stream=True))
    next(chunks)
    base = BaseSettings(
        name=BASE, folder=shop.base_folder, precision="fp32", replicas=1, num_cpus=0.5,
        max_rank=8, max_batch=4, slots=4, drain_seconds=60,
    )  # fmt: skip
    config = ServingConfig(bases=(base,), storage=shop.uri)
    deploying = threading.Thread(
        target=lambda: serve.run(build(config), name="loraland", route_prefix="/")
    )
    deploying.start()
    rest = list(chunks)
    deploying.join(timeout=120)
    ended = [c.choices[0].finish_reason for c in rest if c.choices[0].finish_reason]
    assert len(ended) == 4
    until(lambda: ask(client, shop.first).model == str(shop.first), "the new one answers")
