"""Serve for as long as a command needs it: started, quiet, stopped, and nobody else's touched."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from ray import serve

from loraland.errors import InvalidConfiguration
from loraland.serving import local

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import urllib.request
from ray import serve
from loraland.cluster import ray_cluster
from loraland.serving import local

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Hello:
    async def __call__(self, request):
        return "hello"

local.build = lambda config: Hello.bind()
with ray_cluster(own=True):
    with local.running_app("smollm2-135m", "nf4", "127.0.0.1", 0, (1, 0)) as url:
        print(urllib.request.urlopen(url).read().decode())
"""


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Theirs:
    async def __call__(self, request):
        return "theirs"


def app(port=0):
    return local.running_app("smollm2-135m", "nf4", "127.0.0.1", port, (1, 0))


def ask(url):
    return urllib.request.urlopen(url, timeout=60).read().decode()


def test_serve_is_stopped_with_the_application_also_when_its_user_fails(ray_cluster, monkeypatch):
    monkeypatch.setattr(local, "build", lambda config: Theirs.bind())
    with pytest.raises(KeyboardInterrupt), app() as url:
        assert ask(url) == "theirs"
        raise KeyboardInterrupt
    assert local._controller() is None
    assert serve.status().applications == {}


def test_the_serve_of_somebody_else_is_left_alone(ray_cluster):
    port = local._free_port("127.0.0.1", 0)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(Theirs.bind(), name=local.NAME, route_prefix="/")
        with pytest.raises(InvalidConfiguration, match=r"serve run serve_apps\.lora"), app():
            pytest.fail("the application was started")
        assert ask(f"http://127.0.0.1:{port}") == "theirs"
    finally:
        serve.shutdown()


@pytest.mark.slow
def test_nothing_is_printed_beside_what_the_caller_prints():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert "serve" not in done.stderr.lower(), done.stderr
