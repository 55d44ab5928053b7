"""serve_apps/lora_land.yaml: what Serve and we make of it, and that `serve run` of it answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import yaml
from pydantic import ValidationError

from loraland.serving.config import ApplicationSettings, BaseSettings, Limits, ServingConfig
from serve_apps import lora_land
from serve_apps.lora_land import Arguments

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "serve_apps" / "lora_land.yaml"
# Left to config.py: for tests, for tuning, or only where the base is a folder.
NOT_SHOWN = {"folder", "engine", "eviction", "cuda_graphs", "header_bytes"}


def read():
    return yaml.safe_load(PLACE.read_text())


def configured(arguments, monkeypatch):
    """The configuration that `build_app` makes of arguments."""
    seen = []
    monkeypatch.setattr(lora_land, "build", seen.append)
    lora_land.build_app(Arguments.model_validate(arguments))
    return seen[0]


def test_serve_takes_it_and_it_is_the_default_application(monkeypatch):
    from ray.serve.schema import ServeDeploySchema

    [application] = ServeDeploySchema.model_validate(read()).applications
    assert application.import_path == "serve_apps.lora_land:build_app"
    assert configured(application.args, monkeypatch) == ServingConfig()


def test_every_knob_is_in_it_and_it_fits_one_screen():
    arguments = read()["applications"][0]["args"]
    [base] = arguments["bases"]
    for kind, shown in (
        (BaseSettings, base),
        (Limits, arguments["limits"]),
        (ApplicationSettings, arguments),
    ):
        assert kind.model_fields.keys() - NOT_SHOWN <= shown.keys()
    lines = PLACE.read_text().splitlines()
    assert len(lines) <= 64
    assert max(map(len, lines)) <= 110


def test_several_bases_and_what_they_share(monkeypatch):
    found = configured(
        {"bases": [{"name": "smollm2-135m"}, {"name": "mistral-7b", "num_gpus": 1}],
         "gateways": 2, "limits": {"new_tokens": 100}, "sources": ["hf://acme"]},
        monkeypatch,
    )  # fmt: skip
    assert [base.name for base in found.bases] == ["smollm2-135m", "mistral-7b"]
    assert (found.gateways, found.limits.new_tokens, found.sources) == (2, 100, ("hf://acme",))


def test_settings_of_a_base_beside_a_list_of_bases_are_refused():
    with pytest.raises(ValidationError, match="num_cpus beside `bases`"):
        Arguments.model_validate({"bases": [{}], "num_cpus": 2})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"sources": ["nowhere"]}, "whole path"),
        ({"max_replicas": 1, "replicas": 2}, "the least"),
        ({"drain_seconds": -1}, "drain_seconds"),
    ],
)
def test_a_knob_that_cannot_be_is_refused_by_its_name(arguments, reason):
    with pytest.raises(ValidationError, match=reason):
        Arguments.model_validate(arguments)


def test_replicas_follow_the_load_only_where_that_is_asked_for():
    from loraland.serving.app import build

    def deployment(**settings):
        application = build(ServingConfig(bases=(BaseSettings(**settings),)))
        [base] = application._bound_deployment.init_args[2].values()
        return base._bound_deployment._deployment_config

    fixed = deployment(replicas=2, drain_seconds=7)
    assert (fixed.num_replicas, fixed.autoscaling_config) == (2, None)
    assert fixed.graceful_shutdown_timeout_s == 7
    growing = deployment(max_replicas=3, max_batch=16, idle_seconds=5).autoscaling_config
    assert (growing.min_replicas, growing.max_replicas) == (1, 3)
    assert (growing.target_ongoing_requests, growing.downscale_delay_s) == (16, 5)


@pytest.mark.ray
@pytest.mark.slow
def test_serve_run_of_it_answers(ray_cluster, tiny_folders, tmp_path):
    config = read()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config["http_options"]["port"] = port
    arguments = config["applications"][0]["args"]
    arguments["storage"] = str(tmp_path / "storage")
    arguments["bases"][0] |= {
        "name": "tiny-llama", "folder": str(tiny_folders["llama"]), "precision": "fp32",
    }  # fmt: skip
    place = tmp_path / "lora_land.yaml"
    place.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(place)]
    address = ray_cluster.address_info["address"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": address}, stdout=log, stderr=log
        )
        try:
            text = answer(port, running, tmp_path / "log")
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=60)
    assert text["model"] == "tiny-llama"
    assert text["usage"]["completion_tokens"] >= 1


def answer(port, running, log):
    body = {"model": "tiny-llama", "prompt": "Hi", "max_tokens": 3}
    for _ in range(600):
        assert running.poll() is None, log.read_text()
        try:
            asked = httpx2.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60)
            if asked.status_code == 200:
                return asked.json()
        except httpx2.TransportError:
            pass  # it does not listen yet
        time.sleep(0.2)
    pytest.fail(log.read_text())
