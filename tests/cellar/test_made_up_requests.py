"""Hundreds of made-up requests over HTTP: no server error, answers as documented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from loraland.cellar.config import CellarLimits
from loraland.cellar.database import open_database, url_of
from loraland.cellar.following import Follower
from loraland.cellar.host import Host
from loraland.cellar.routes import create_app
from loraland.cellar.store import Store
from loraland.palate.model import PalateModel
from loraland.storage import Storage
from tests.serving.web_stage import listening

pytestmark = pytest.mark.slow

EACH = 40  # of an address, and as many again that break its rules
CASES = 300  # at least, over all addresses
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def address(shelf_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place: Path = tmp_path_factory.mktemp("people")
    engine = open_database(url_of(str(place / "people.db"), Storage.open(str(place))))
    host = Host(Store(engine), Follower(Storage.open(shelf_uri), "wine"))
    limits = CellarLimits(person_per_minute=1_000_000, people_per_minute=1_000_000)
    with listening(create_app(host, limits)) as url:
        yield url
    engine.dispose()


def test_no_request_that_can_be_made_up_is_a_server_error_or_answered_other_than_documented(
    address: str, model: PalateModel
) -> None:
    import httpx2

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    keys = st.sampled_from(model.catalogue.keys[:20])
    statuses, seen = Counter[int](), Counter[str]()
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        for mode in GenerationMode:

            @settings(
                max_examples=EACH,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode), st.data())
            def ask(case: Any, data: Any) -> None:
                token = httpx2.post(f"{address}/v1/people").json()["token"]
                if case.path_parameters and data.draw(st.booleans()):
                    case.path_parameters["key"] = data.draw(keys)
                if isinstance(case.body, dict) and isinstance(case.body.get("events"), list):
                    for event in case.body["events"]:
                        if isinstance(event, dict) and data.draw(st.booleans()):
                            event["item"] = data.draw(keys)
                answer = case.call(timeout=60, headers={"authorization": f"Bearer {token}"})
                statuses[answer.status_code] += 1
                seen[case.operation.label] += 1
                case.validate_response(answer, checks=CHECKS)

            if operation.body or operation.query or operation.path_parameters or mode.is_positive:
                ask()
    assert len(seen) == len(operations) and sum(seen.values()) >= CASES, seen
    assert statuses[200] >= CASES // 10 and statuses[400] >= CASES // 10, statuses
