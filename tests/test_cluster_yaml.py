"""cluster.yaml against Ray's own schema, and against the machines that Ray's autoscaler picks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from loraland.matrix.placement import Machines, kinds_of, place
from loraland.matrix.space import load_space
from loraland.serving.config import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "cluster.yaml"

A10G = {"accelerator_type:A10G": 0.001}  # what Ray asks for a type of GPU
TRIAL = {"CPU": 8, "GPU": 1} | A10G  # of the paper's space
REPLICA = {"CPU": 12, "GPU": 1, "accelerator_type:A100": 0.001}  # as docs/cluster.md starts it
SERVED = BaseSettings(name="mistral-7b", num_gpus=1, num_cpus=12, accelerator="A100")


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def picked(config: dict[str, Any], demands: list[dict[str, float]]) -> dict[str, int]:
    """The machines that Ray's autoscaler would add to the head for these demands."""
    from ray.autoscaler._private.resource_demand_scheduler import (
        _default_utilization_scorer,
        get_nodes_for,
    )

    def score(*arguments: Any) -> Any:
        return _default_utilization_scorer(*arguments, node_availability_summary=None)

    found, _ = get_nodes_for(
        config["available_node_types"],
        {"head": 1},
        config["head_node_type"],
        config["max_workers"],
        demands,
        score,
    )
    return dict(found)


@pytest.mark.ray
def test_the_file_keeps_to_ray_s_schema(config: dict[str, Any]) -> None:
    import ray

    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(config, json.loads(schema.read_text()))
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        jsonschema.validate(config | {"max_wrokers": 4}, json.loads(schema.read_text()))


@pytest.mark.ray
def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_gpu_machines_come_from_zero_and_training_takes_spot(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert set(types) == {"head", "train", "serve"}
    assert "GPU" not in types["head"]["resources"]
    assert types["train"]["min_workers"] == types["serve"]["min_workers"] == 0
    assert types["train"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["serve"]["node_config"]
    assert types["train"]["resources"]["accelerator_type:A10G"] == 1
    assert types["serve"]["resources"]["accelerator_type:A100"] == 1


@pytest.mark.ray
def test_trials_of_the_paper_get_a10g_machines_and_never_the_a100(config: dict[str, Any]) -> None:
    [demand] = set(load_space("paper").demands.values())
    asked = place(demand, Machines([{"CPU": 0}], kinds_of(config), 0, grows=True)).bundle()
    assert asked == TRIAL
    assert picked(config, [TRIAL]) == {"train": 1}
    assert picked(config, [TRIAL] * 310) == {"train": 8}


@pytest.mark.ray
def test_a_replica_gets_the_a100_and_trials_leave_it_alone(config: dict[str, Any]) -> None:
    from ray._common.utils import resources_from_ray_options

    from loraland.serving.app import _replica

    options = _replica(SERVED, "storage")._bound_deployment.ray_actor_options
    assert resources_from_ray_options(options) == REPLICA
    assert picked(config, [REPLICA]) == {"serve": 1}
    assert picked(config, [REPLICA] + [TRIAL] * 310) == {"serve": 1, "train": 8}


def test_every_machine_installs_the_locked_versions_and_finds_the_storage(
    config: dict[str, Any],
) -> None:
    commands = "\n".join(config["setup_commands"])
    assert "make setup" in commands  # installs requirements.lock
    assert "export LORALAND_STORAGE=s3://" in commands
    assert "RAY_AUTH_MODE=token" in commands
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.ray
def test_the_guide_s_ray_commands_have_the_options_it_gives_them() -> None:
    """Each `ray ...` and `serve ...` of docs/cluster.md, asked of Ray's own command line."""
    import click
    from ray.scripts.scripts import cli
    from ray.serve.scripts import cli as serve_cli

    text = (ROOT / "docs" / "cluster.md").read_text()
    lines = re.findall(r"^\$ (?:.* -- )?((?:ray|serve) .*)$", text, re.MULTILINE)
    lines += re.findall(r"^\$ (ray job submit .*) -- ", text, re.MULTILINE)
    assert len(lines) > 8
    for line in lines:
        words = line.split("#")[0].split(" -- ")[0].split()
        command: click.Command = {"ray": cli, "serve": serve_cli}[words.pop(0)]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        known = {option for part in command.params for option in part.opts + part.secondary_opts}
        assert {word for word in words if word.startswith("-")} <= known, line
