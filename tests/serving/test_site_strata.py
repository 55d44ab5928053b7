"""The routes of audits: a list, one with what was retrained, and errors in the usual shape."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from loraland.serving.access.policy import Need, need_of
from loraland.storage import Storage
from tests.serving.web_stage import Player, stage
from tests.strata.fabricated import fabricate_audit


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


@pytest.fixture
def client(storage: Storage) -> TestClient:
    return TestClient(stage(storage, Player(storage)), raise_server_exceptions=False)


def test_audits_are_listed_and_one_is_told_whole(storage: Storage, client: TestClient) -> None:
    with client:
        assert client.get("/v1/strata").json() == {"object": "list", "data": []}
    audit = fabricate_audit(storage)
    with TestClient(stage(storage, Player(storage))) as client:
        [line] = client.get("/v1/strata").json()["data"]
        assert line["id"] == audit.id and line["worst"]["mean"] < 0.3 < line["overall"]["mean"]
        found = client.get(f"/v1/strata/{audit.id}").json()
        assert found["audit"] == audit.model_dump(mode="json")
        assert [one["mode"] for one in found["retrained"]] == ["erm", "george"]


@pytest.mark.parametrize("asked", ["0" * 16, "nothing", "..%2F..%2Fetc", "x" * 64])
def test_an_audit_that_is_not_there_is_a_404(client: TestClient, asked: str) -> None:
    with client:
        answer = client.get(f"/v1/strata/{asked}")
    assert answer.status_code == 404
    if "%" not in asked:
        assert answer.json()["error"]["code"] == "strata_not_found"


def test_a_damaged_audit_is_told_as_that(storage: Storage, client: TestClient) -> None:
    audit = fabricate_audit(storage)
    storage.write(f"strata/{audit.id}/audit.json", b"{}")
    with client:
        answer = client.get(f"/v1/strata/{audit.id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "storage_corrupt")


def test_audits_hold_rows_of_every_model_and_need_a_key_for_all() -> None:
    assert need_of("GET", "/v1/strata") is need_of("GET", "/v1/strata/a") is Need.WIDE_KEY
    assert need_of("GET", "/web/strata") is Need.NOTHING
