"""`loraland loadtest` on the real application: synthetic adapters, hits and misses, the base."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from loraland.cli import app
from tests.serving.on_ray import served

pytestmark = pytest.mark.ray

SLOTS = 2


@pytest.fixture(scope="module")
def shop(new_shop):
    return new_shop()


@pytest.fixture(scope="module")
def address(ray_cluster, shop):
    """The URL of an application with one tiny base and two slots."""
    from loraland.serving.config import BaseSettings, ServingConfig

    base = BaseSettings(
        name="tiny-llama", folder=shop.base_folder, precision="fp32", slots=SLOTS, max_batch=8
    )
    with served(ServingConfig(bases=(base,), storage=shop.uri), "load") as url:
        yield url


def report(address, shop, *more):
    arguments = ["loadtest", address, "--precision", "fp32", "--base-folder", shop.base_folder]
    arguments += ["--clients", 4, "--requests", 32, "--prompt-tokens", 12, "--new-tokens", 6]
    environment = {"LORALAND_STORAGE": shop.uri}
    found = CliRunner(env=environment).invoke(app, list(map(str, [*arguments, *more, "--json"])))
    assert found.exit_code == 0, found.stderr
    return json.loads(found.stdout)


def test_the_cliff_of_synthetic_adapters_has_hits_below_the_slots_and_misses_above(address, shop):
    found = report(address, shop, "--synthetic", 8, "--cliff", "0.5,4")
    assert found["setting"]["slots"] == SLOTS  # as the fleet says
    below, above = (point["figures"] for point in found["cliff"])
    for figures in (below, above):
        assert figures["errors"] == {}
        assert figures["hits"] + figures["misses"] == figures["answered"] == 24
        assert {one["model"].split("@")[0][:-1] for one in figures["adapters"]} == {
            "tiny-llama/loadtest-00"
        }
    assert below["misses"] == 0
    assert above["misses"] > 0
    assert above["ttft_miss"]["values"] == above["misses"]
    assert shop.registry.list() == []


def test_real_adapters_are_held_against_their_base(address, shop):
    names = [str(shop.publish("dates", 1)), str(shop.publish("topics", 2))]
    found = report(address, shop, "--model", names[0], "--model", names[1], "--against-base")
    mixed, base = (run["figures"] for run in found["runs"])
    assert mixed["errors"] == base["errors"] == {}
    assert {one["model"] for one in mixed["adapters"]} == set(names)
    assert [one["model"] for one in base["adapters"]] == ["tiny-llama"]
    assert base["hits"] == base["misses"] == 0
    assert mixed["prompt_tokens"] == mixed["answered"] * 12
    assert found["against_base"]["throughput"]["median"] > 0
