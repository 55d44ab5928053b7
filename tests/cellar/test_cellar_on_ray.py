"""The application on Ray Serve, and its files of settings."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from loraland.cellar.config import CellarConfig, CellarLimits
from loraland.cli import app as cli
from loraland.errors import InvalidConfiguration

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = "postgresql+psycopg://me@db/people"


def settings_file() -> Any:
    return yaml.safe_load((ROOT / "serve_apps" / "palate.yaml").read_text())


def test_serve_takes_the_settings_file_and_it_is_the_default_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve.schema import ServeDeploySchema

    from serve_apps import palate

    [application] = ServeDeploySchema.model_validate(settings_file()).applications
    assert application.import_path == "serve_apps.palate:build_app"
    seen: list[CellarConfig] = []
    monkeypatch.setattr(palate, "build", seen.append)
    palate.build_app(CellarConfig.model_validate(application.args))
    assert seen == [CellarConfig()]
    assert application.args.keys() == CellarConfig.model_fields.keys()
    assert application.args["limits"].keys() == CellarLimits.model_fields.keys()


def test_several_replicas_need_a_database_that_they_can_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from loraland.cellar.app import build

    with pytest.raises(InvalidConfiguration, match="SQLite is a file of one"):
        build(CellarConfig(replicas=2))
    build(CellarConfig(replicas=2, database=POSTGRES))
    monkeypatch.setenv("LORALAND_DATABASE", POSTGRES)
    build(CellarConfig(replicas=2))
    monkeypatch.setenv("LORALAND_DATABASE", POSTGRES.replace("me@", "me:word@"))
    with pytest.raises(InvalidConfiguration, match="PGPASSWORD"):
        build(CellarConfig())


def test_a_name_without_a_model_is_told_before_anything_is_started() -> None:
    result = CliRunner().invoke(cli, ["palate", "serve", "--name", "none", "--no-make-up"])
    assert result.exit_code == 1 and "loraland palate fit" in result.stderr


def ask(url: str, token: str = "", body: Any = None, method: str | None = None) -> Any:
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {token}"} if token else {},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.ray
def test_a_replica_that_dies_takes_nothing_with_it(
    ray_cluster: Any, shelf_uri: str, tmp_path: Path
) -> None:
    import ray

    from loraland.cellar.app import build
    from loraland.serving.local import running

    config = CellarConfig(
        storage=shelf_uri, database=str(tmp_path / "people.db"), num_cpus=0.5, make_up=False
    )
    with running(lambda: build(config), "palate", "127.0.0.1", 0) as url:
        page = urllib.request.urlopen(f"{url}/", timeout=60)
        assert b"a reconstruction" in page.read()
        assert "default-src 'none'" in page.headers["content-security-policy"]
        token = ask(f"{url}/v1/people", method="POST")["token"]
        item = ask(f"{url}/v1/cards", token)["cards"][0]
        event = {"id": "one", "kind": "liked", "item": item["key"]}
        assert ask(f"{url}/v1/events", token, {"events": [event]}) == {"new": 1, "known": 0}
        before = ask(f"{url}/v1/recommendations?budget=40&list=a", token)
        assert len(before["picks"]) == 10

        [replica] = [
            actor
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["name"].startswith("SERVE_REPLICA::palate#cellar#")
        ]
        ray.kill(ray.get_actor(replica["name"], namespace=replica["namespace"]))
        for _ in range(300):  # Serve starts another
            try:
                after = ask(f"{url}/v1/recommendations?budget=40&list=a", token)
                break
            except OSError:
                time.sleep(0.2)
        assert after == before
        assert ask(f"{url}/v1/events", token, {"events": [event]}) == {"new": 0, "known": 1}
        assert ask(f"{url}/v1/palates", token)["palates"][0]["id"] == item["palate_id"]
