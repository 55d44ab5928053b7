"""Keys and limits on a real application with two gateways, and the death of the one that counts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from loraland.serving.access.books import Allowance, Claim
from loraland.serving.access.keys import read_key
from loraland.serving.access.store import KeyStore
from loraland.storage import Storage
from tests.serving.conftest import Shop
from tests.serving.on_ray import served

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def shop(new_shop):
    shop = new_shop()
    shop.dates, shop.secret = shop.publish("dates", 1), shop.publish("secret", 2)
    shop.keys = KeyStore(Storage.open(shop.uri))
    return shop


# The names of the fixtures of this folder are those of scripts; here it is the real shop.
@pytest.fixture(scope="module")
def new_shop(tmp_path_factory, tiny_folders):
    root = tmp_path_factory.mktemp("shop")
    return lambda: Shop(str(root / "storage"), tiny_folders["llama"], root)


@pytest.fixture(scope="module")
def address(ray_cluster, shop):
    """The URL of an application with two gateways whose callers need keys."""
    from loraland.serving.config import BaseSettings, ServingConfig

    base = BaseSettings(name="tiny-llama", folder=shop.base_folder, precision="fp32", num_cpus=0.5)
    config = ServingConfig(bases=(base,), storage=shop.uri, access="required", gateways=2)
    with served(config) as url:
        yield url


def client_of(address, made):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=made.text, max_retries=0)


def ask(client, model):
    return client.completions.create(model=str(model), prompt="Hi", max_tokens=4, temperature=0)


def until(holds, what):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail(f"after a minute still not: {what}")


def counting_actors(shop):
    """(pid, state) of the actors that count for this shop."""
    import ray
    from ray.util.state import list_actors

    from loraland.serving.access.limiter import actor_name

    found = list_actors(
        address=ray.get_runtime_context().gcs_address,  # others may run a cluster here too
        filters=[("name", "=", actor_name(shop.uri))],
    )
    return [(actor.pid, actor.state) for actor in found if actor.state != "DEAD"]


def test_a_key_for_one_adapter_is_answered_by_it_and_gets_403_for_another(address, shop):
    made = shop.keys.create("dates", models=["tiny-llama/dates"])
    with client_of(address, made) as client:
        until(lambda: _passes(client, shop), "the key is known")
        assert ask(client, "tiny-llama/dates").model == str(shop.dates)
        for other in ("tiny-llama/secret", shop.secret, "tiny-llama", "tiny-llama/nobody"):
            with pytest.raises(openai.PermissionDeniedError) as caught:
                ask(client, other)
            assert caught.value.body["code"] == "model_not_allowed"
        for path in ("../../etc/passwd", "s3://bucket/adapter"):
            with pytest.raises(openai.BadRequestError):
                ask(client, path)
        assert [model.id for model in client.models.list()] == [str(shop.dates)]


def test_without_a_key_and_with_a_revoked_one_nothing_is_answered(address, shop):
    made = shop.keys.create("short-lived")
    with client_of(address, made) as client:
        until(lambda: _passes(client, shop), "the key is known")
        shop.keys.revoke(made.record.id)

        def refused():
            try:
                ask(client, shop.dates)
            except openai.AuthenticationError:
                return True
            return False

        until(refused, "refused")
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as nobody,
        pytest.raises(openai.AuthenticationError),
    ):
        nobody.models.list()


def flood(client, seconds):
    """How many of the requests passed, their statuses, and how long it took."""

    def one(_):
        if time.monotonic() > began + seconds:
            return None
        try:
            client.models.retrieve("tiny-llama")
            return 200
        except openai.APIStatusError as error:
            return error.status_code

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = [status for status in pool.map(one, range(100_000)) if status is not None]
    return statuses, time.monotonic() - began


def audit_files(ray_cluster):
    import ray._private.worker

    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    return sorted((logs / "serve").glob("loraland_audit_*.jsonl"))


def test_two_gateways_together_let_through_what_one_key_may(address, shop, ray_cluster):
    made = shop.keys.create("limited", requests_per_minute=60)
    with client_of(address, made) as client:
        until(lambda: flood(client, 0.2)[0].count(200) > 0, "the key is known and its bucket fills")
        statuses, seconds = flood(client, 8)
    assert set(statuses) == {200, 429}
    assert 1 <= statuses.count(200) <= 10 + seconds + 1
    lines = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in audit_files(ray_cluster)
    ]
    seen = [[one for one in some if one["key"] == made.record.id] for some in lines]
    assert sum(bool(some) for some in seen) == 2, "both gateways were asked"
    passed = [one for some in seen for one in some if one["status"] == 200]
    assert len(passed) >= statuses.count(200)


def test_a_gateway_goes_on_when_the_one_that_counts_is_killed_and_limits_still_hold(address, shop):
    made = shop.keys.create("survivor", requests_per_minute=60)
    with client_of(address, made) as client:
        until(lambda: 200 in flood(client, 0.2)[0], "the key is known")
        [(pid, _)] = counting_actors(shop)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        statuses, _ = flood(client, 4)
        until(lambda: 200 in flood(client, 0.2)[0], "requests pass again")
        more, _ = flood(client, 3)
        seconds = time.monotonic() - began
    assert set(statuses + more) <= {200, 429}
    assert (statuses + more).count(200) <= 10 + seconds + 1
    [(again, _)] = counting_actors(shop)
    assert again != pid


def test_what_is_under_way_is_remembered_across_a_death(ray_cluster, tmp_path):
    """Also one by hand, after which Ray starts no other: a gateway does."""
    import ray

    from loraland.serving.access.limiter import RayLimiter

    allowance = Allowance(concurrent=1)

    def claim():
        return Claim(os.urandom(8).hex(), "k", 1, 0, 1, 600.0)

    async def run(no_restart):
        limiter = RayLimiter(str(tmp_path / str(no_restart)))
        held = claim()
        first = await limiter.claim(held, allowance)
        assert first.refused is None
        assert (await limiter.claim(claim(), allowance)).refused == "concurrent"
        ray.kill(limiter._actor, no_restart=no_restart)
        replies = [await limiter.claim(claim(), allowance) for _ in range(5)]
        limiter.settle(held, allowance, 0)
        while limiter._tasks:
            await asyncio.sleep(0.01)
        after = await limiter.claim(claim(), allowance)
        lives = {reply.life for reply in [first, *replies, after]}
        ray.kill(limiter._actor)
        return [reply.refused for reply in replies], after.refused, len(lives)

    for no_restart in (False, True):
        assert asyncio.run(run(no_restart)) == (["concurrent"] * 5, None, 2)


def test_a_key_is_in_no_log_of_the_cluster(address, shop, ray_cluster):
    made = shop.keys.create("quiet")
    with client_of(address, made) as client:
        until(lambda: _passes(client, shop), "the key is known")
        with pytest.raises(openai.NotFoundError):
            ask(client, "no/one")
    logs = audit_files(ray_cluster)[0].parent.parent
    secret = read_key(made.text).secret.encode()
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert any(made.record.id.encode() in file.read_bytes() for file in files)
    assert [file.name for file in files if secret in file.read_bytes()] == []


def _passes(client, shop):
    try:
        return bool(ask(client, shop.dates).model)
    except openai.AuthenticationError:
        return False
